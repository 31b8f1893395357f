#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "device/cuda_stream.h"
#include "device/timeline.h"
#include "offload/simulated_link.h"

namespace sluice {

// What went over a link since it was made.
struct LinkUse {
  uint64_t copies = 0;
  uint64_t bytes = 0;
  double busy_s = 0;  // time during which a copy ran
};

// The way from host memory into a store's slots: copies run one after another, in the order they
// were queued, beside the compute. Queueing and asking never wait for the device; Wait does, and on
// the CPU, where compute is what the caller does, Await. Used by one thread, which also queues the
// compute, outside of recorded graphs.
class ExpertLink {
 public:
  // Of a copy: ascending from 1. 0 is one that arrived before all.
  using Ticket = uint64_t;
  // A point in what was queued to be computed: ascending. 0 is the beginning.
  using Mark = uint64_t;
  // What a timeline says of a copy; its name is a literal.
  struct Label {
    const char* name = "copy";
    SpanFacts facts;
  };

  virtual ~ExpertLink() = default;

  // Queues a copy, which begins once compute has passed `readers`. `source` stays as it is, and
  // both stay allocated, until it has arrived.
  virtual Ticket Copy(std::byte* target, const std::byte* source, size_t bytes, Mark readers,
                      const Label& label) = 0;
  // Queues filling with 0xff bytes, likewise: NaN in every float format.
  virtual Ticket Poison(std::byte* target, size_t bytes, Mark readers) = 0;

  // Whether it has arrived, and so all before it.
  virtual bool Arrived(Ticket ticket) = 0;
  // What is computed from now on finds the bytes.
  virtual void Await(Ticket ticket) = 0;
  // Returns once it has arrived.
  virtual void Wait(Ticket ticket) = 0;

  // The end of all that was queued to be computed until now.
  virtual Mark MarkReaders() = 0;

  // Of the copies that have arrived.
  virtual LinkUse Use() = 0;
};

// The link of a CPU: a thread copies, as slowly as `simulated` says: a copy takes latency_s + bytes
// / bytes_per_s, or as long as memory does where that is more. Compute is over when the call that
// made it returns, so it needs no marks. With a timeline, which outlives it, each copy is a span on
// a track "link".
std::unique_ptr<ExpertLink> MakeThreadLink(const SimulatedLink& simulated = {},
                                           Timeline* timeline = nullptr);

// The link of a CUDA device: a stream of its own beside `compute`, which must outlive it. Sources
// that are not pinned are copied as well, but the caller waits for them. On a timeline, likewise,
// spans have the device's times, laid on the host's clock whenever the link had nothing to do: they
// stand too early by the microseconds that the device takes to begin.
std::unique_ptr<ExpertLink> MakeCudaLink(CudaStream& compute, Timeline* timeline = nullptr);

}  // namespace sluice
