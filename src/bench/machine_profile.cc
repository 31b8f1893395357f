#include "bench/machine_profile.h"

#include <fmt/chrono.h>
#include <fmt/format.h>

#include <chrono>
#include <cstring>
#include <memory>

#include "bench/bandwidth.h"
#include "bench/timing.h"
#include "ops/gemm/gemm.h"

namespace sluice {
namespace {

// Of the product that is timed: x [rows, width] by w [width, width].
struct ProductSize {
  int64_t rows;
  int64_t width;
};
constexpr ProductSize kHostProduct{.rows = 256, .width = 2048};
constexpr ProductSize kDeviceProduct{.rows = 8192, .width = 8192};

// FLOP/s of a large product of `dtype` weights.
double MeasureProduct(ops::OpContext& ctx, DType dtype, const ProductSize& size) {
  const Arena::Scope scope(ctx.arena);
  const TensorView x = ctx.arena.Allocate(ctx.ProductDType(dtype), {size.rows, size.width});
  const TensorView w = ctx.arena.Allocate(dtype, {size.width, size.width});
  const TensorView out = ctx.arena.Allocate(DType::kF32, {size.rows, size.width});
  for (const TensorView& input : {x, w}) {
    // 0.0115 in bf16 and f32.
    if (ctx.OnCuda()) {
      ctx.cuda->Fill(input.raw(), 0x3c, input.NumBytes());
    } else {
      std::memset(input.raw(), 0x3c, input.NumBytes());
    }
  }
  const double seconds = TimeCalls(ctx.cuda, [&](int) { ops::Gemm({}, x, w, {}, out, ctx); });
  return 2.0 * static_cast<double>(size.rows * size.width * size.width) / seconds;
}

void MeasureDevice(int ordinal, ThreadPool& pool, HardwareProfile& profile) {
  CudaStream stream(ordinal);
  Arena arena(MemoryKind::kCuda);
  ops::OpContext ctx{.pool = pool, .arena = arena, .cuda = &stream};
  profile.gpu_memory = static_cast<double>(stream.device().total_bytes);
  profile.gpu_bandwidth = MeasureDeviceBandwidth(stream);
  profile.gpu_flops = MeasureProduct(ctx, DType::kBF16, kDeviceProduct);
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
  profile.host_bf16_flops = MeasureProduct(ctx, DType::kBF16, kHostProduct);
  profile.host_f32_flops = MeasureProduct(ctx, DType::kF32, kHostProduct);
  if (!options.disk_dir.empty()) {
    profile.disk_bandwidth = MeasureDiskRead(options.disk_dir, kDiskBytes);
    if (profile.disk_bandwidth) profile.source += ", a file of 256 MiB read past the page cache";
  }
  if (options.cuda) MeasureDevice(*options.cuda, pool, profile);
  return profile;
}

}  // namespace sluice
