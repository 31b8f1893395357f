#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "device/buffer.h"
#include "device/cuda_stream.h"
#include "sampling/sampler.h"

namespace sluice {

// Sample (sampler.h) on a CUDA device, for the rows of a step: the same token for the same logits
// and context, to the bit, and the same logprobs; only these come back to the host. One thread.
class DeviceSampler {
 public:
  // For rows of up to `vocab_size` logits, at most `max_rows` at once. The stream outlives it.
  DeviceSampler(CudaStream& stream, int64_t vocab_size, int max_rows);

  // The device's memory that one takes, but for the edits of penalties and biases.
  static uint64_t DeviceBytes(int max_rows);

  struct Request {
    int64_t row = 0;                         // of the logits
    const SampleContext* context = nullptr;  // read by Queue
  };

  // What the host tells the device for one call of Queue, and is told: the caller's, because
  // several calls may be on their way. Kept between calls for its memory.
  class Draws {
   private:
    friend class DeviceSampler;
    Buffer told_;                               // pinned: the rows' requests, then the edits of all
    Buffer outcomes_;                           // pinned
    std::vector<std::optional<int>> logprobs_;  // by request, as its params ask
  };

  // Queues the draw of each request's row of `logits` [n, vocab_size] f32, memory of the device;
  // it is as it was when the draw is done. What was queued with `draws` before must be done.
  void Queue(TensorView logits, std::span<const Request> requests, Draws& draws);

  // What was drawn for request `i` of `draws`, once the stream is there. Throws as Sample does.
  SampledToken Result(const Draws& draws, size_t i);

  // Queues that each token -1 - i of `tokens` ([n] i32, memory of the device) becomes what was
  // drawn for request `i` of the last Queue; no other may be negative. One that could not be drawn
  // is 0.
  void FillIn(TensorView tokens);

 private:
  // Makes `buffer` hold `bytes` or more; what it held is gone.
  void Reserve(size_t bytes, MemoryKind kind, Buffer& buffer);

  CudaStream& stream_;
  int64_t vocab_size_;
  int max_rows_;
  Buffer told_;   // on the device, as Draws has it
  Buffer saved_;  // f32: logits under the edits
  Buffer states_;
  Buffer histograms_;
  Buffer tokens_;  // [max_rows] i32 that were drawn last
  std::vector<LogitEdit> edits_;
  SampleScratch scratch_;
};

}  // namespace sluice
