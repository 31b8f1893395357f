#include "bench/machine_profile.h"

#include <fmt/chrono.h>
#include <fmt/format.h>

#include <chrono>
#include <memory>

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

}  // namespace sluice
