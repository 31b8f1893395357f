#include "device/cuda_graph.h"

#include <cuda_runtime_api.h>
#include <spdlog/spdlog.h>

#include <utility>

#include "device/cuda_check.h"

namespace sluice {

CudaGraph CudaGraph::Record(CudaStream& stream, const std::function<void()>& queue_work) {
  cudaGraph_t graph = nullptr;
  CheckCuda(cudaStreamBeginCapture(stream.handle(), cudaStreamCaptureModeThreadLocal),
            "cudaStreamBeginCapture");
  try {
    queue_work();
  } catch (...) {
    static_cast<void>(cudaStreamEndCapture(stream.handle(), &graph));
    if (graph != nullptr) static_cast<void>(cudaGraphDestroy(graph));
    static_cast<void>(cudaGetLastError());
    throw;
  }
  CheckCuda(cudaStreamEndCapture(stream.handle(), &graph), "cudaStreamEndCapture");
  cudaGraphExec_t executable = nullptr;
  const cudaError_t status = cudaGraphInstantiate(&executable, graph, 0);
  static_cast<void>(cudaGraphDestroy(graph));
  CheckCuda(status, "cudaGraphInstantiate");
  return CudaGraph(executable);
}

CudaGraph::~CudaGraph() {
  if (handle_ == nullptr) return;
  const cudaError_t status = cudaGraphExecDestroy(handle_);
  if (status != cudaSuccess) spdlog::warn("ending a graph: {}", cudaGetErrorString(status));
}

CudaGraph::CudaGraph(CudaGraph&& other) noexcept : handle_(std::exchange(other.handle_, nullptr)) {}

CudaGraph& CudaGraph::operator=(CudaGraph&& other) noexcept {
  std::swap(handle_, other.handle_);
  return *this;
}

void CudaGraph::Launch(CudaStream& stream) const {
  CheckCuda(cudaGraphLaunch(handle_, stream.handle()), "cudaGraphLaunch");
}

}  // namespace sluice
