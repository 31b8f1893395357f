#pragma once

#include <benchmark/benchmark.h>

#include <cstdint>
#include <functional>

#include "device/buffer.h"
#include "device/cuda_stream.h"
#include "ops/common/op_context.h"

namespace sluice::ops {

// What one call must move and do at least.
struct BenchWork {
  double bytes = 0.0;
  double operations = 0.0;  // a multiply-add is two
};

// The limits of a device as its maker states them: clocks at their highest.
struct CudaLimits {
  double bytes_per_second = 0.0;
  double operations_per_second = 0.0;  // bf16 on dense tensor cores, f32 sums
};

// One benchmark on the first CUDA device: a context with an arena there, and time by its clock.
class CudaBench {
 public:
  CudaBench();
  CudaBench(const CudaBench&) = delete;
  CudaBench& operator=(const CudaBench&) = delete;

  OpContext& context() { return context_; }

  // A tensor of the device with BenchTensor's values.
  Tensor Floats(DType dtype, const Shape& shape);
  // A tensor of the device with a host tensor's values.
  Tensor Upload(const Tensor& host);

  // How many copies of data of so many bytes are to be used in turn, so that none is still in the
  // second-level cache when its turn comes: at least 1.
  int64_t Copies(int64_t bytes) const;

  // Calls `call` with 0, 1, 2, ... and reports the time of one, its rates, and the share of the
  // time that the slower of the device's two limits allows. The calls are recorded once and
  // replayed together, so that starting kernels costs what it costs in a decoder's step; `copies`
  // is how many different arguments make a round. To be used with UseManualTime().
  void Measure(benchmark::State& state, const BenchWork& work, int64_t copies,
               const std::function<void(int64_t)>& call);

 private:
  CudaStream stream_;
  ThreadPool pool_{1};
  Arena arena_{MemoryKind::kCuda};
  Arena staging_{MemoryKind::kPinned};
  Inbox inbox_{stream_, Inbox::Sends::kEach};
  OpContext context_;
  CudaLimits limits_;
};

// Registers `body` under `name` where there is a device, else nothing; `apply` sets its arguments.
// The value is of no use; it lets this be called at namespace scope.
bool RegisterCudaBench(const char* name,
                       const std::function<void(benchmark::State&, CudaBench&)>& body,
                       void (*apply)(benchmark::internal::Benchmark*));

}  // namespace sluice::ops
