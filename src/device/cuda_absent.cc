// The CUDA declarations in a build without CUDA: there is no device, and asking for one is refused.
#include "base/error.h"
#include "device/cuda_graph.h"
#include "device/cuda_stream.h"

namespace sluice {
namespace {

[[noreturn]] void Refuse() {
  throw Error(ErrorCode::kUnsupported,
              "this build of sluice has no CUDA backend: build it with `make cuda`, or run with "
              "--device cpu");
}

}  // namespace

std::byte* AllocateCudaMemory(size_t /*bytes*/, MemoryKind /*kind*/) {
  Refuse();
}
void FreeCudaMemory(std::byte* /*data*/, size_t /*bytes*/, MemoryKind /*kind*/) noexcept {}

std::vector<CudaDeviceInfo> CudaDevices() {
  return {};
}
CudaDeviceInfo FindCudaDevice(int /*ordinal*/) {
  Refuse();
}
uint64_t CudaFreeBytes(int /*ordinal*/) {
  Refuse();
}

CudaStream::CudaStream(int /*ordinal*/) {
  Refuse();
}
CudaStream::CudaStream(const CudaDeviceInfo& /*device*/) {
  Refuse();
}
CudaStream::~CudaStream() = default;
void CudaStream::UseDevice() const {
  Refuse();
}
void CudaStream::Copy(void* /*target*/, const void* /*source*/, size_t /*bytes*/) {
  Refuse();
}
void CudaStream::Fill(void* /*target*/, uint8_t /*value*/, size_t /*bytes*/) {
  Refuse();
}
void CudaStream::Synchronize() {
  Refuse();
}
bool CudaStream::Works() const {
  Refuse();
}

CudaEvent::CudaEvent() {
  Refuse();
}
CudaEvent::~CudaEvent() {
  handle_ = nullptr;
}
CudaEvent::CudaEvent(CudaEvent&& /*other*/) noexcept {}
CudaEvent& CudaEvent::operator=(CudaEvent&& /*other*/) noexcept {
  return *this;
}
void CudaEvent::Record(const CudaStream& /*stream*/) {
  Refuse();
}
void CudaEvent::HoldBack(const CudaStream& /*stream*/) const {
  Refuse();
}
bool CudaEvent::Reached() const {
  Refuse();
}
void CudaEvent::Synchronize() const {
  Refuse();
}
CudaGraph CudaGraph::Record(CudaStream& /*stream*/, const std::function<void()>& /*queue_work*/) {
  Refuse();
}
CudaGraph::~CudaGraph() {
  handle_ = nullptr;
}
CudaGraph::CudaGraph(CudaGraph&& /*other*/) noexcept : handle_(nullptr) {}
CudaGraph& CudaGraph::operator=(CudaGraph&& /*other*/) noexcept {
  return *this;
}
void CudaGraph::Launch(CudaStream& /*stream*/) const {
  Refuse();
}
double CudaEvent::SecondsSince(const CudaEvent& /*earlier*/) const {
  Refuse();
}

}  // namespace sluice
