#include "bench/machine_profile.h"

#include <gtest/gtest.h>

#include <chrono>

#include "base/error.h"
#include "base/thread_pool.h"
#include "bench/bandwidth.h"

namespace sluice {
namespace {

TEST(MachineProfile, MeasuresTheHost) {
  const HardwareProfile profile = MeasureMachine(
      {.name = "here", .num_threads = 1, .tier = DetectCpuTier(), .memory_bytes = 16 << 20});
  EXPECT_EQ(profile.name, "here");
  EXPECT_EQ(profile.origin, ProfileOrigin::kMeasured);
  EXPECT_EQ(profile.host_memory, static_cast<double>(QueryMemory().total_bytes));
  // Below any machine that this runs on, and above.
  EXPECT_GT(*profile.host_bandwidth, 1e7);
  EXPECT_LT(*profile.host_bandwidth, 1e13);
  EXPECT_GT(*profile.host_bf16_flops, 1e7);
  EXPECT_GT(*profile.host_f32_flops, 1e7);
  EXPECT_FALSE(profile.gpu_memory);
  EXPECT_FALSE(profile.disk_bandwidth);
}

TEST(MachineProfile, ReadsADiskAndLeavesNothingBehind) {
  const std::filesystem::path dir = testing::TempDir() + "/disk_read";
  std::filesystem::create_directory(dir);
  const std::optional<double> rate = MeasureDiskRead(dir, 16 << 20);
  EXPECT_GT(rate.value_or(1e9), 1e5);  // empty on a file system in memory
  EXPECT_TRUE(std::filesystem::is_empty(dir));
  std::filesystem::remove(dir);
  EXPECT_THROW(MeasureDiskRead(dir / "absent", 1 << 20), Error);
}

// On a machine busy with other things; a sanitizer takes ten times as long.
#ifdef __SANITIZE_THREAD__
constexpr double kMostProbeSeconds = 100.0;
#else
constexpr double kMostProbeSeconds = 10.0;
#endif

TEST(OffloadProbe, GivesWhatAStepsCostNeedsInTime) {
  const auto begin = std::chrono::steady_clock::now();
  const HardwareProfile profile =
      MeasureForOffload({.num_threads = 2,
                         .link = {.bytes_per_s = 1e8, .latency_s = 1e-3},
                         .dtype = DType::kF32,
                         .expert_bytes = 1000000});
  const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - begin;
  EXPECT_LT(taken.count(), kMostProbeSeconds);
  EXPECT_DOUBLE_EQ(*profile.link_bandwidth, 1e6 / (1e-3 + 1e6 / 1e8));
  EXPECT_GT(*profile.host_bandwidth, 1e8);
  EXPECT_EQ(profile.gpu_bandwidth, profile.host_bandwidth);
  EXPECT_GT(*profile.gpu_flops, 1e8);
  EXPECT_EQ(profile.host_f32_flops, profile.gpu_flops);
  EXPECT_FALSE(profile.host_bf16_flops.has_value());
  EXPECT_FALSE(profile.gpu_memory.has_value());
  EXPECT_NE(profile.device, "");
  EXPECT_TRUE(ForeignFigures(profile, profile).empty());
}

}  // namespace
}  // namespace sluice
