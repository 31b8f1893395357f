#pragma once

#include <functional>

#include "device/cuda_stream.h"

struct CUgraphExec_st;

namespace sluice {

// Work recorded from a stream, to be queued again as a whole: the same kernels and copies, with the
// same addresses and parameters, at a fraction of the cost of launching each. Move-only; must not
// outlive the memory that the work uses.
class CudaGraph {
 public:
  // Records what `queue_work` queues on `stream`; none of it runs. It may not allocate device
  // memory nor wait for the stream.
  static CudaGraph Record(CudaStream& stream, const std::function<void()>& queue_work);

  ~CudaGraph();
  CudaGraph(CudaGraph&& other) noexcept;
  CudaGraph& operator=(CudaGraph&& other) noexcept;

  void Launch(CudaStream& stream) const;

 private:
  explicit CudaGraph(CUgraphExec_st* handle) : handle_(handle) {}

  CUgraphExec_st* handle_;
};

}  // namespace sluice
