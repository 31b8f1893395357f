#pragma once

#include <cstddef>
#include <cstdint>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "device/cuda_memory.h"

struct CUstream_st;
struct CUevent_st;

namespace sluice {

// A CUDA device as kernels choose their configurations by it.
struct CudaDeviceInfo {
  int ordinal = 0;
  std::string name;
  int compute_major = 0;
  int compute_minor = 0;
  int multiprocessors = 0;
  int shared_bytes_per_block = 0;  // the most that a block can ask for
  int l2_bytes = 0;
  uint64_t total_bytes = 0;
  std::string pci_bus_id;  // "0000:1b:00.0"
};

// The devices that the driver shows; empty without a driver, and in a build without CUDA.
std::vector<CudaDeviceInfo> CudaDevices();

// A device that kernels here can run on: the one of this ordinal. Throws Error(kUnsupported) when
// there is none, the driver is too old for this build, or the device is below compute
// capability 8.0, and says which.
CudaDeviceInfo FindCudaDevice(int ordinal);

// Bytes of a device's memory that nobody holds. Makes it the thread's current one.
uint64_t CudaFreeBytes(int ordinal);

// An ordered queue of kernels and copies on one device. Making one makes its device the thread's
// current one. Used by one thread, but for UseDevice.
class CudaStream {
 public:
  explicit CudaStream(int ordinal = 0);
  // On device.ordinal, whose kernels are chosen as for `device`: a smaller one, in tests.
  explicit CudaStream(const CudaDeviceInfo& device);
  ~CudaStream();
  CudaStream(const CudaStream&) = delete;
  CudaStream& operator=(const CudaStream&) = delete;

  CUstream_st* handle() const { return handle_; }
  const CudaDeviceInfo& device() const { return device_; }

  // With `blocking`, every launch waits for its kernel, so that an error names the kernel that made
  // it: for tests and for finding faults.
  void SetBlocking(bool blocking) { blocking_ = blocking; }
  bool blocking() const { return blocking_; }

  // [kCounters] i32 of the device, zeros: kernels whose last block finishes what all began count up
  // in them and leave zeros. One kernel of the stream uses them at a time.
  static constexpr int kCounters = 64;
  int32_t* counters() const { return reinterpret_cast<int32_t*>(counters_.data()); }

  // Ops that ran a kernel which takes any shape, slowly, for want of one made for theirs.
  void NoteFallback(const char* op) { fallbacks_.insert(op); }
  const std::set<std::string>& fallbacks() const { return fallbacks_; }

  // The next kernel of LaunchEarly (ops/common/cuda/launch.cuh) does not start early, and so none
  // behind it before all that is queued now is done.
  void HoldNext() { hold_next_ = true; }
  bool TakeHold() { return std::exchange(hold_next_, false); }

  // Queues a copy between any two kinds of memory. Host memory that is not pinned is read before
  // the call returns, and written by the time it does.
  void Copy(void* target, const void* source, size_t bytes);
  // Queues setting each byte to `value`.
  void Fill(void* target, uint8_t value, size_t bytes);

  // Makes its device the calling thread's current one: of a thread that did not make the stream.
  void UseDevice() const;

  // Waits until everything queued is done. Throws Error(kInternal) for what failed.
  void Synchronize();

  // False once a kernel has failed: the device takes no more work from this process.
  bool Works() const;

 private:
  CudaDeviceInfo device_;
  CUstream_st* handle_ = nullptr;
  Buffer counters_;
  bool blocking_ = false;
  bool hold_next_ = false;
  std::set<std::string> fallbacks_;
};

// A point in a stream's queue. Move-only.
class CudaEvent {
 public:
  CudaEvent();
  ~CudaEvent();
  CudaEvent(CudaEvent&& other) noexcept;
  CudaEvent& operator=(CudaEvent&& other) noexcept;

  void Record(const CudaStream& stream);
  // What is queued on `stream` from now on begins once the point of the last Record is reached. A
  // later Record changes nothing of it.
  void HoldBack(const CudaStream& stream) const;
  // Whether the stream is there, or has failed before it.
  bool Reached() const;
  // Waits until it is. Throws Error(kInternal) for what failed.
  void Synchronize() const;
  // Time on the device between two events that were both reached, in seconds.
  double SecondsSince(const CudaEvent& earlier) const;

 private:
  CUevent_st* handle_ = nullptr;
};

}  // namespace sluice
