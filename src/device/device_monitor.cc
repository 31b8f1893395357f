#include "device/device_monitor.h"

#include <dlfcn.h>

#include <chrono>
#include <utility>

namespace sluice {
namespace {

using Clock = std::chrono::steady_clock;

constexpr auto kPeriod = std::chrono::milliseconds(20);
constexpr int kSuccess = 0;
constexpr int kMultiprocessorClock = 1;

// As NVML's interface lays them out; it is part of the driver and may be absent, so that nothing
// links against it.
struct Utilization {
  unsigned compute;
  unsigned memory;
};
struct Memory {
  unsigned long long total;
  unsigned long long free;
  unsigned long long used;
};
using Device = void*;

template <class Function>
Function* Find(void* library, const char* name) {
  return reinterpret_cast<Function*>(dlsym(library, name));
}

}  // namespace

class DeviceMonitor::Library {
 public:
  // Null where there is no NVML, or it does not know the device.
  static std::unique_ptr<Library> Open(const std::string& pci_bus_id) {
    std::unique_ptr<Library> library(new Library);
    return library->Load(pci_bus_id) ? std::move(library) : nullptr;
  }
  ~Library() {
    if (initialised_) Find<int()>(handle_, "nvmlShutdown")();
    if (handle_ != nullptr) dlclose(handle_);
  }
  Library(const Library&) = delete;
  Library& operator=(const Library&) = delete;

  // A figure that the device does not give stays 0.
  DeviceSample Sample() const {
    DeviceSample sample;
    Memory memory{};
    if (memory_(device_, &memory) == kSuccess) sample.memory_bytes = memory.used;
    Utilization utilization{};
    if (utilization_(device_, &utilization) == kSuccess) {
      sample.compute_percent = static_cast<int>(utilization.compute);
      sample.memory_percent = static_cast<int>(utilization.memory);
    }
    unsigned value = 0;
    if (power_(device_, &value) == kSuccess) sample.watts = value / 1e3;
    if (clock_(device_, kMultiprocessorClock, &value) == kSuccess) {
      sample.clock_mhz = static_cast<int>(value);
    }
    return sample;
  }

 private:
  Library() = default;

  bool Load(const std::string& pci_bus_id) {
    handle_ = dlopen("libnvidia-ml.so.1", RTLD_NOW | RTLD_LOCAL);
    if (handle_ == nullptr) return false;
    auto* initialise = Find<int()>(handle_, "nvmlInit_v2");
    auto* shutdown = Find<int()>(handle_, "nvmlShutdown");
    auto* find_device =
        Find<int(const char*, Device*)>(handle_, "nvmlDeviceGetHandleByPciBusId_v2");
    memory_ = Find<int(Device, Memory*)>(handle_, "nvmlDeviceGetMemoryInfo");
    utilization_ = Find<int(Device, Utilization*)>(handle_, "nvmlDeviceGetUtilizationRates");
    power_ = Find<int(Device, unsigned*)>(handle_, "nvmlDeviceGetPowerUsage");
    clock_ = Find<int(Device, int, unsigned*)>(handle_, "nvmlDeviceGetClockInfo");
    if (!initialise || !shutdown || !find_device || !memory_ || !utilization_ || !power_ ||
        !clock_) {
      return false;
    }
    initialised_ = initialise() == kSuccess;
    return initialised_ && find_device(pci_bus_id.c_str(), &device_) == kSuccess;
  }

  void* handle_ = nullptr;
  bool initialised_ = false;
  Device device_ = nullptr;
  int (*memory_)(Device, Memory*) = nullptr;
  int (*utilization_)(Device, Utilization*) = nullptr;
  int (*power_)(Device, unsigned*) = nullptr;
  int (*clock_)(Device, int, unsigned*) = nullptr;
};

DeviceMonitor::DeviceMonitor(const std::string& pci_bus_id) : library_(Library::Open(pci_bus_id)) {
  if (library_ != nullptr) thread_ = std::thread([this] { Watch(); });
}

DeviceMonitor::~DeviceMonitor() {
  stopping_ = true;
  if (thread_.joinable()) thread_.join();
}

std::vector<DeviceSample> DeviceMonitor::Stop() {
  stopping_ = true;
  if (thread_.joinable()) thread_.join();
  return std::move(samples_);
}

void DeviceMonitor::Watch() {
  const Clock::time_point begin = Clock::now();
  while (!stopping_) {
    DeviceSample sample = library_->Sample();
    sample.seconds = std::chrono::duration<double>(Clock::now() - begin).count();
    samples_.push_back(sample);
    std::this_thread::sleep_for(kPeriod);
  }
}

}  // namespace sluice
