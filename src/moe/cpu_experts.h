#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "base/machine.h"
#include "base/thread_pool.h"
#include "device/buffer.h"
#include "device/tensor.h"
#include "offload/expert_layout.h"
#include "plan/co_execution.h"

namespace sluice {

// The rows that a layer's experts compute, in the host's memory.
struct HostRows {
  ConstTensorView x;                 // [T, hidden] f32, bf16 or f16, contiguous
  std::span<const int32_t> gather;   // [R] row of x that each row reads
  std::span<const int32_t> offsets;  // [experts + 1] rows of each expert, ascending from 0 to R
};

// Experts of a GPU's model computed where they are, in host memory, on the host's threads: where
// few rows need an expert, reading it there takes less time than the link does to bring it. Sums
// run as on the CPU, so results differ from the GPU's by rounding.
//
// Used by one thread at a time. The one that calls Run works too, and nothing else may run on the
// pool meanwhile.
class CpuExperts {
 public:
  // The experts lie in slots of `slab`, which outlives this, as do the others. Computes some of
  // them to learn what they cost, so the slots must hold experts.
  CpuExperts(const ExpertLayout& layout, const std::byte* slab, int num_slots, ThreadPool& pool,
             CpuTier tier);

  // What an expert costs here, as the last runs took it, and over a link that takes `link_s`.
  CoExecutionCosts Costs(double link_s) const;

  // y[r] = expert(x[gather[r]]) for the rows r of every expert that has a slot; other rows of y are
  // left alone. slots [experts]: the slab's slot, or -1. y [R, hidden] f32 of host memory.
  void Run(const HostRows& rows, std::span<const int32_t> slots, TensorView y);

  // A layer had experts to offer and Costs spoke against it.
  void NoteLeftOut() { pace_.NoteLeftOut(); }

 private:
  void Compute(const HostRows& rows, std::span<const int32_t> slots, TensorView y);
  double TimeExperts(int rows_each);
  double Predict(const HostRows& rows, std::span<const int32_t> slots) const;
  ConstTensorView Widened(const HostRows& rows, std::span<const int32_t> slots);

  ExpertLayout layout_;
  const std::byte* slab_;
  int num_slots_;
  ThreadPool& pool_;
  CpuTier tier_;
  Arena arena_;
  CoExecutionCosts costs_;  // as measured at first
  HostPace pace_;
};

}  // namespace sluice
