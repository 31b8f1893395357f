#include "device/cuda_stream.h"

#include <cuda_runtime_api.h>
#include <spdlog/spdlog.h>

#include <utility>

#include "base/error.h"
#include "device/cuda_check.h"

namespace sluice {
namespace {

constexpr int kMinComputeMajor = 8;
constexpr char kKernelFailed[] = "a kernel of the stream (--blocking-launches tells which)";

std::string VersionName(int version) {
  return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
}

CudaDeviceInfo QueryDevice(int ordinal) {
  cudaDeviceProp properties;
  CheckCuda(cudaGetDeviceProperties(&properties, ordinal), "cudaGetDeviceProperties");
  char pci_bus_id[32] = {};
  CheckCuda(cudaDeviceGetPCIBusId(pci_bus_id, sizeof(pci_bus_id), ordinal),
            "cudaDeviceGetPCIBusId");
  return {.ordinal = ordinal,
          .name = properties.name,
          .compute_major = properties.major,
          .compute_minor = properties.minor,
          .multiprocessors = properties.multiProcessorCount,
          .shared_bytes_per_block = static_cast<int>(properties.sharedMemPerBlockOptin),
          .l2_bytes = properties.l2CacheSize,
          .total_bytes = properties.totalGlobalMem,
          .pci_bus_id = pci_bus_id};
}

// Why there is no device, in the words of whoever must mend it.
[[noreturn]] void FailWithoutDevice(cudaError_t status) {
  int driver = 0;
  static_cast<void>(cudaDriverGetVersion(&driver));
  if (driver == 0) {
    throw Error(ErrorCode::kUnsupported,
                "no NVIDIA driver is loaded: install one, or run with --device cpu");
  }
  if (driver < CUDART_VERSION) {
    throw Error(ErrorCode::kUnsupported, "the NVIDIA driver runs CUDA " + VersionName(driver) +
                                             ", this build needs " + VersionName(CUDART_VERSION) +
                                             ": update the driver, or run with --device cpu");
  }
  throw Error(ErrorCode::kUnsupported, std::string("no CUDA device can be used: ") +
                                           cudaGetErrorString(status) +
                                           "; look at nvidia-smi, or run with --device cpu");
}

}  // namespace

void CheckCuda(cudaError_t status, const char* what, std::source_location where) {
  if (status == cudaSuccess) return;
  static_cast<void>(cudaGetLastError());
  int device = -1;
  static_cast<void>(cudaGetDevice(&device));
  throw Error(ErrorCode::kInternal,
              std::string(what) + " failed on CUDA device " + std::to_string(device) + ": " +
                  cudaGetErrorName(status) + ", " + cudaGetErrorString(status) + " (" +
                  where.file_name() + ":" + std::to_string(where.line()) + ")");
}

std::vector<CudaDeviceInfo> CudaDevices() {
  int count = 0;
  if (cudaGetDeviceCount(&count) != cudaSuccess) {
    static_cast<void>(cudaGetLastError());
    return {};
  }
  std::vector<CudaDeviceInfo> devices;
  for (int i = 0; i < count; ++i) devices.push_back(QueryDevice(i));
  return devices;
}

CudaDeviceInfo FindCudaDevice(int ordinal) {
  int count = 0;
  const cudaError_t status = cudaGetDeviceCount(&count);
  if (status != cudaSuccess || count == 0) FailWithoutDevice(status);
  if (ordinal < 0 || ordinal >= count) {
    throw Error(ErrorCode::kUnsupported, "there is no CUDA device " + std::to_string(ordinal) +
                                             ": this machine has " + std::to_string(count));
  }
  CudaDeviceInfo device = QueryDevice(ordinal);
  if (device.compute_major < kMinComputeMajor) {
    throw Error(ErrorCode::kUnsupported, device.name + " has compute capability " +
                                             std::to_string(device.compute_major) + "." +
                                             std::to_string(device.compute_minor) +
                                             "; 8.0 or newer is needed: run with --device cpu");
  }
  return device;
}

uint64_t CudaFreeBytes(int ordinal) {
  CheckCuda(cudaSetDevice(ordinal), "cudaSetDevice");
  size_t free_bytes = 0;
  size_t total_bytes = 0;
  CheckCuda(cudaMemGetInfo(&free_bytes, &total_bytes), "cudaMemGetInfo");
  return free_bytes;
}

CudaStream::CudaStream(int ordinal) : CudaStream(FindCudaDevice(ordinal)) {}

CudaStream::CudaStream(const CudaDeviceInfo& device) : device_(device) {
  CheckCuda(cudaSetDevice(device.ordinal), "cudaSetDevice");
  CheckCuda(cudaStreamCreateWithFlags(&handle_, cudaStreamNonBlocking), "cudaStreamCreate");
  counters_ = Buffer(kCounters * sizeof(int32_t), MemoryKind::kCuda);
  Fill(counters_.data(), 0, counters_.size());
}

CudaStream::~CudaStream() {
  const cudaError_t status = cudaStreamDestroy(handle_);
  if (status != cudaSuccess) spdlog::warn("ending a stream: {}", cudaGetErrorString(status));
}

void CudaStream::Copy(void* target, const void* source, size_t bytes) {
  CheckCuda(cudaMemcpyAsync(target, source, bytes, cudaMemcpyDefault, handle_), "cudaMemcpyAsync");
}

void CudaStream::Fill(void* target, uint8_t value, size_t bytes) {
  CheckCuda(cudaMemsetAsync(target, value, bytes, handle_), "cudaMemsetAsync");
}

void CudaStream::UseDevice() const {
  CheckCuda(cudaSetDevice(device_.ordinal), "cudaSetDevice");
}

void CudaStream::Synchronize() {
  CheckCuda(cudaStreamSynchronize(handle_), blocking_ ? "a copy of the stream" : kKernelFailed);
}

bool CudaStream::Works() const {
  const cudaError_t status = cudaStreamQuery(handle_);
  return status == cudaSuccess || status == cudaErrorNotReady;
}

CudaEvent::CudaEvent() {
  CheckCuda(cudaEventCreate(&handle_), "cudaEventCreate");
}

CudaEvent::~CudaEvent() {
  if (handle_ == nullptr) return;
  const cudaError_t status = cudaEventDestroy(handle_);
  if (status != cudaSuccess) spdlog::warn("ending an event: {}", cudaGetErrorString(status));
}

CudaEvent::CudaEvent(CudaEvent&& other) noexcept : handle_(std::exchange(other.handle_, nullptr)) {}

CudaEvent& CudaEvent::operator=(CudaEvent&& other) noexcept {
  std::swap(handle_, other.handle_);
  return *this;
}

void CudaEvent::Record(const CudaStream& stream) {
  CheckCuda(cudaEventRecord(handle_, stream.handle()), "cudaEventRecord");
}

void CudaEvent::HoldBack(const CudaStream& stream) const {
  CheckCuda(cudaStreamWaitEvent(stream.handle(), handle_), "cudaStreamWaitEvent");
}

bool CudaEvent::Reached() const {
  return cudaEventQuery(handle_) != cudaErrorNotReady;
}

void CudaEvent::Synchronize() const {
  CheckCuda(cudaEventSynchronize(handle_), kKernelFailed);
}

double CudaEvent::SecondsSince(const CudaEvent& earlier) const {
  float milliseconds = 0;
  CheckCuda(cudaEventElapsedTime(&milliseconds, earlier.handle_, handle_), "cudaEventElapsedTime");
  return milliseconds * 1e-3;
}

}  // namespace sluice
