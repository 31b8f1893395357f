#include "device/device_monitor.h"

#include <gtest/gtest.h>

#include <chrono>
#include <thread>

#include "device/buffer.h"
#include "device/cuda_stream.h"

namespace sluice {
namespace {

TEST(DeviceMonitor, GivesNothingOfADeviceThatIsNotThere) {
  DeviceMonitor sampler("ffff:ff:1f.0");
  EXPECT_TRUE(sampler.Stop().empty());
}

TEST(DeviceMonitorCuda, SeesTheMemoryThatIsTaken) {
  if (CudaDevices().empty()) GTEST_SKIP() << "no CUDA device";
  constexpr size_t kBytes = size_t{1} << 30;
  const CudaStream stream;
  const Buffer taken(kBytes, MemoryKind::kCuda);
  DeviceMonitor sampler(stream.device().pci_bus_id);
  std::this_thread::sleep_for(std::chrono::milliseconds(200));
  const std::vector<DeviceSample> samples = sampler.Stop();
  ASSERT_GE(samples.size(), 3u);
  EXPECT_GT(samples.back().memory_bytes, kBytes);
  EXPECT_LE(samples.back().memory_bytes, stream.device().total_bytes);
  EXPECT_GT(samples.back().watts, 1.0);
  EXPECT_GT(samples.back().seconds, samples.front().seconds);
}

}  // namespace
}  // namespace sluice
