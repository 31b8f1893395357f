#pragma once

#include "base/machine.h"
#include "base/thread_pool.h"
#include "device/buffer.h"
#include "device/cuda_stream.h"
#include "ops/common/inbox.h"

namespace sluice::ops {

// What an op runs with, handed down from the top by reference. Ops are called from one thread at a
// time per context; they spread their own work over `pool` and take scratch from `arena`, giving it
// back before they return unless the op says that its results live there.
//
// With `cuda` set, every op queues kernels on that stream: all views are of memory that the device
// reads, the arena's too, and results are there once the stream gets to them. Else, with
// `reference` set, every op runs its plain maths in double precision on the calling thread.
// Otherwise it runs the vectorised code of `tier`, which the machine must be able to run.
//
// Every op of the CPU keeps to one rule about sums: the bits of an output row depend on that row's
// inputs, the layer's shape and the tier; never on the other rows of the call, on the number of
// threads or on how the work was cut. On CUDA kernels are chosen by the number of rows too, and
// differ in the order of their sums; with `batch_invariant` every op keeps to the rule there as
// well, with the device in the tier's place: one order of sums for all numbers of rows, that which
// suits many, or with `decoding_first` few (where ops have the choice: GroupedGemm).
struct OpContext {
  ThreadPool& pool;
  Arena& arena;
  CpuTier tier = CpuTier::kPortable;
  bool reference = false;
  CudaStream* cuda = nullptr;
  bool batch_invariant = false;
  bool decoding_first = false;
  // With `cuda`: what the host tells a step's kernels, and pinned memory for what they tell it.
  // Queued copies use both, so whoever clears the one and ends a Scope of the other knows that the
  // stream has passed them.
  Inbox* inbox = nullptr;
  Arena* staging = nullptr;

  bool OnCuda() const { return kCudaBuilt && cuda != nullptr; }

  // What the input of a product with `weights` is best held in.
  DType ProductDType(DType weights) const { return OnCuda() ? weights : DType::kF32; }
};

}  // namespace sluice::ops
