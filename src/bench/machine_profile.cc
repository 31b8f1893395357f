#include "bench/machine_profile.h"

#include <fmt/chrono.h>
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <memory>

#include "base/machine.h"
#include "bench/bandwidth.h"
#include "bench/product_rate.h"

namespace sluice {
namespace {

void MeasureDevice(int ordinal, ThreadPool& pool, HardwareProfile& profile) {
  CudaStream stream(ordinal);
  Arena arena(MemoryKind::kCuda);
  ops::OpContext ctx{.pool = pool, .arena = arena, .cuda = &stream};
  profile.gpu_memory = static_cast<double>(stream.device().total_bytes);
  profile.gpu_bandwidth = MeasureDeviceBandwidth(stream);
  profile.gpu_flops = MeasureProduct(ctx, DType::kBF16);
  const LinkBandwidth link = MeasureLinkBandwidth(stream);
  profile.link_bandwidth = link.to_device;
  profile.link_back = link.to_host;
  profile.source += fmt::format(
      "; {}: copies within its memory, a bf16 product of {} x {} x {}, pinned copies of 64 MiB",
      stream.device().name, kDeviceProduct.rows, kDeviceProduct.width, kDeviceProduct.width);
}

double MeasureHostProduct(const OffloadProbe& probe) {
  ThreadPool pool(probe.num_threads);
  Arena arena;
  ops::OpContext ctx{.pool = pool, .arena = arena, .tier = probe.tier};
  return MeasureProduct(ctx, probe.dtype);
}

}  // namespace

HardwareProfile MeasureMachine(const MachineProfileOptions& options) {
  constexpr int64_t kDiskBytes = int64_t{256} << 20;
  ThreadPool pool(options.num_threads);
  Arena arena;
  ops::OpContext ctx{.pool = pool, .arena = arena, .tier = options.tier};
  HardwareProfile profile{.name = options.name, .origin = ProfileOrigin::kMeasured};
  profile.source = fmt::format(
      "measured {:%Y-%m-%d} on {}, {} threads, {}: memory read by all threads, products of {} "
      "rows by {} x {}",
      fmt::gmtime(std::chrono::system_clock::now()), CpuModelName(), options.num_threads,
      CpuTierName(options.tier), kHostProduct.rows, kHostProduct.width, kHostProduct.width);
  profile.device = options.cuda ? FindCudaDevice(*options.cuda).name : CpuModelName();
  profile.host_memory = static_cast<double>(QueryMemory().total_bytes);
  profile.host_bandwidth = MeasureReadBandwidth(pool, options.memory_bytes);
  profile.host_bf16_flops = MeasureProduct(ctx, DType::kBF16);
  profile.host_f32_flops = MeasureProduct(ctx, DType::kF32);
  if (!options.disk_dir.empty()) {
    profile.disk_bandwidth = MeasureDiskRead(options.disk_dir, kDiskBytes);
    if (profile.disk_bandwidth) profile.source += ", a file of 256 MiB read past the page cache";
  }
  if (options.cuda) MeasureDevice(*options.cuda, pool, profile);
  return profile;
}

HardwareProfile MeasureForOffload(const OffloadProbe& probe) {
  // Of memory and not of a cache: server processors have some hundred MB of it.
  const int64_t memory_bytes =
      std::max(int64_t{256} << 20, 4 * static_cast<int64_t>(LastLevelCacheBytes()));
  ThreadPool pool(probe.cuda ? AvailableCores() : probe.num_threads);
  HardwareProfile profile{.name = "this-machine",
                          .origin = ProfileOrigin::kMeasured,
                          .source = "measured at the start"};
  profile.host_memory = static_cast<double>(QueryMemory().total_bytes);
  profile.host_bandwidth = MeasureReadBandwidth(pool, memory_bytes);
  if (!probe.cuda || probe.cpu_experts) {
    profile.*HostFlops(probe.dtype) = MeasureHostProduct(probe);
  }
  if (probe.cuda) {
    CudaStream stream(*probe.cuda);
    Arena arena(MemoryKind::kCuda);
    ops::OpContext ctx{.pool = pool, .arena = arena, .cuda = &stream};
    profile.device = stream.device().name;
    profile.gpu_memory = static_cast<double>(stream.device().total_bytes);
    profile.gpu_bandwidth = MeasureDeviceBandwidth(stream);
    profile.gpu_flops = MeasureProduct(ctx, probe.dtype);
    profile.link_bandwidth = MeasureLinkBandwidth(stream, probe.expert_bytes).to_device;
    return profile;
  }
  profile.device = CpuModelName();
  profile.gpu_bandwidth = profile.host_bandwidth;
  profile.gpu_flops = profile.*HostFlops(probe.dtype);
  // A copy takes its latency, and then as long as the link or as memory does.
  const auto bytes = static_cast<double>(probe.expert_bytes);
  const double rate = probe.link.bytes_per_s > 0
                          ? std::min(probe.link.bytes_per_s, *profile.host_bandwidth / 2)
                          : *profile.host_bandwidth / 2;  // read and written
  profile.link_bandwidth = bytes / (probe.link.latency_s + bytes / rate);
  return profile;
}

}  // namespace sluice
