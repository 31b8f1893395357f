#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <thread>
#include <vector>

namespace sluice {

// What the driver's management library (NVML) says of a device at one moment.
struct DeviceSample {
  double seconds = 0.0;       // since the monitor began
  uint64_t memory_bytes = 0;  // in use, by every process
  int compute_percent = 0;    // of the last moments in which some kernel ran
  int memory_percent = 0;     // of the last moments in which memory was read or written
  double watts = 0.0;
  int clock_mhz = 0;  // of the multiprocessors
};

// Watches a device from a thread of its own, from construction until Stop.
class DeviceMonitor {
 public:
  // `pci_bus_id` as in CudaDeviceInfo. Where NVML is not to be had there are no samples.
  explicit DeviceMonitor(const std::string& pci_bus_id);
  ~DeviceMonitor();
  DeviceMonitor(const DeviceMonitor&) = delete;
  DeviceMonitor& operator=(const DeviceMonitor&) = delete;

  // Ends the watch; to be called once.
  std::vector<DeviceSample> Stop();

 private:
  class Library;
  void Watch();

  std::unique_ptr<Library> library_;  // null without NVML
  std::vector<DeviceSample> samples_;
  std::atomic<bool> stopping_ = false;
  std::thread thread_;
};

}  // namespace sluice
