#include "ops/common/cuda_bench.h"

#include <cuda_runtime_api.h>

#include <algorithm>
#include <memory>

#include "device/cuda_check.h"
#include "ops/common/bench_support.h"

namespace sluice::ops {
namespace {

// Calls in one replay, at least: the two events around it cost about as much as a small kernel.
constexpr int64_t kMinCalls = 20;
constexpr int64_t kMaxCopies = 200;
// Replays that are timed.
constexpr int64_t kReplays = 30;
// The second-level cache is passed over by so much before a copy's turn comes again.
constexpr int64_t kCachesPerRound = 3;

struct GraphDeleter {
  void operator()(CUgraphExec_st* graph) const { static_cast<void>(cudaGraphExecDestroy(graph)); }
};
using Graph = std::unique_ptr<CUgraphExec_st, GraphDeleter>;

Graph Record(CudaStream& stream, int64_t calls, const std::function<void(int64_t)>& call) {
  CheckCuda(cudaStreamBeginCapture(stream.handle(), cudaStreamCaptureModeThreadLocal),
            "cudaStreamBeginCapture");
  for (int64_t i = 0; i < calls; ++i) call(i);
  cudaGraph_t recorded = nullptr;
  CheckCuda(cudaStreamEndCapture(stream.handle(), &recorded), "cudaStreamEndCapture");
  cudaGraphExec_t graph = nullptr;
  const cudaError_t status = cudaGraphInstantiate(&graph, recorded, 0);
  static_cast<void>(cudaGraphDestroy(recorded));
  CheckCuda(status, "cudaGraphInstantiate");
  return Graph(graph);
}

double Attribute(cudaDeviceAttr attribute) {
  int value = 0;
  CheckCuda(cudaDeviceGetAttribute(&value, attribute, 0), "cudaDeviceGetAttribute");
  return value;
}

// Multiply-adds of bf16 a clock and multiprocessor, from the makers' tables.
double TensorRate(int major, int minor) {
  if (major == 8) return minor == 0 ? 1024 : 512;
  return 2048;
}

CudaLimits QueryLimits(const CudaDeviceInfo& device) {
  constexpr double kHertz = 1e3;  // of the attributes' kHz
  constexpr double kBitsPerByte = 8;
  // Two transfers a clock.
  const double memory = 2 * kHertz * Attribute(cudaDevAttrMemoryClockRate) *
                        Attribute(cudaDevAttrGlobalMemoryBusWidth) / kBitsPerByte;
  const double clock = kHertz * Attribute(cudaDevAttrClockRate);
  return {.bytes_per_second = memory,
          .operations_per_second = 2 * TensorRate(device.compute_major, device.compute_minor) *
                                   device.multiprocessors * clock};
}

}  // namespace

CudaBench::CudaBench()
    : context_{.pool = pool_,
               .arena = arena_,
               .cuda = &stream_,
               .inbox = &inbox_,
               .staging = &staging_},
      limits_(QueryLimits(stream_.device())) {}

Tensor CudaBench::Upload(const Tensor& host) {
  Tensor tensor(host.view().dtype(), host.shape(), MemoryKind::kCuda);
  stream_.Copy(tensor.view().raw(), host.view().raw(), static_cast<size_t>(host.view().NumBytes()));
  stream_.Synchronize();
  return tensor;
}

Tensor CudaBench::Floats(DType dtype, const Shape& shape) {
  // The host makes a part and the device repeats it: gigabytes of random values take their time.
  constexpr int64_t kMaxHostElements = 1 << 22;
  const int64_t count = shape.NumElements();
  const Tensor part = BenchTensor(dtype, {std::min(count, kMaxHostElements)});
  Tensor tensor(dtype, shape, MemoryKind::kCuda);
  const auto size = static_cast<int64_t>(SizeOf(dtype));
  for (int64_t begin = 0; begin < count; begin += kMaxHostElements) {
    stream_.Copy(static_cast<std::byte*>(tensor.view().raw()) + begin * size, part.view().raw(),
                 static_cast<size_t>(std::min(kMaxHostElements, count - begin) * size));
  }
  stream_.Synchronize();
  return tensor;
}

int64_t CudaBench::Copies(int64_t bytes) const {
  const int64_t round = kCachesPerRound * stream_.device().l2_bytes;
  return std::clamp<int64_t>((round + bytes - 1) / std::max<int64_t>(1, bytes), 1, kMaxCopies);
}

void CudaBench::Measure(benchmark::State& state, const BenchWork& work, int64_t copies,
                        const std::function<void(int64_t)>& call) {
  // The first call takes the arena's memory, which a recording must not.
  call(0);
  stream_.Synchronize();
  const int64_t rounds = std::max<int64_t>(1, (kMinCalls + copies - 1) / copies);
  const int64_t calls = rounds * copies;
  const Graph graph = Record(stream_, calls, call);
  CudaEvent begin;
  CudaEvent end;
  double total = 0.0;
  CheckCuda(cudaGraphLaunch(graph.get(), stream_.handle()), "cudaGraphLaunch");
  for (auto _ : state) {
    begin.Record(stream_);
    CheckCuda(cudaGraphLaunch(graph.get(), stream_.handle()), "cudaGraphLaunch");
    end.Record(stream_);
    end.Synchronize();
    const double seconds = end.SecondsSince(begin) / static_cast<double>(calls);
    total += seconds;
    state.SetIterationTime(seconds);
  }
  const double mean = total / static_cast<double>(state.iterations());
  const double floor = std::max(work.bytes / limits_.bytes_per_second,
                                work.operations / limits_.operations_per_second);
  state.counters["us"] = mean * 1e6;
  state.counters["GB/s"] = work.bytes / mean / 1e9;
  state.counters["TFLOP/s"] = work.operations / mean / 1e12;
  state.counters["share"] = floor / mean;
}

bool RegisterCudaBench(const char* name,
                       const std::function<void(benchmark::State&, CudaBench&)>& body,
                       void (*apply)(benchmark::internal::Benchmark*)) {
  if (CudaDevices().empty()) return false;
  benchmark::RegisterBenchmark(name,
                               [body](benchmark::State& state) {
                                 CudaBench bench;
                                 body(state, bench);
                               })
      ->Apply(apply)
      ->UseManualTime()
      ->Unit(benchmark::kMicrosecond)
      ->Iterations(kReplays);
  return true;
}

}  // namespace sluice::ops
