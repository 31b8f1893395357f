#include "ops/common/test_support.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "ops/common/load_float.h"

namespace sluice::ops {
namespace {

constexpr size_t kGuardBytes = 256;
constexpr std::byte kGuardValue{0x5a};
constexpr std::byte kAllBits{0xff};  // a NaN of every float format, -1 of every integer

bool HasCuda() {
  static const bool has = !CudaDevices().empty();
  return has;
}

// CUDA C++ Programming Guide, technical specifications per compute capability: the most shared
// memory of a block.
CudaDeviceInfo As(CudaDeviceInfo device, int major, int minor, int shared_kilobytes) {
  device.compute_major = major;
  device.compute_minor = minor;
  device.shared_bytes_per_block = shared_kilobytes * 1024;
  return device;
}

}  // namespace

std::vector<Backend> CpuBackends() {
  std::vector<Backend> backends = {{"reference", CpuTier::kPortable, true}};
  for (const CpuTier tier : {CpuTier::kPortable, CpuTier::kAvx2, CpuTier::kAvx512}) {
    if (tier <= DetectCpuTier()) backends.push_back({CpuTierName(tier), tier, false});
  }
  return backends;
}

std::vector<Backend> Backends() {
  std::vector<Backend> backends = CpuBackends();
  if (!HasCuda()) return backends;
  const CudaDeviceInfo device = FindCudaDevice(0);
  const auto add = [&](const char* name, const CudaDeviceInfo& as, bool batch_invariant) {
    backends.push_back({name, CpuTier::kPortable, false, as, batch_invariant});
  };
  add("cuda", device, false);
  add("cuda_invariant", device, true);
  add("cuda_decoding_first", device, true);
  backends.back().decoding_first = true;
  add("cuda_sm80", As(device, 8, 0, 163), false);
  add("cuda_sm80_invariant", As(device, 8, 0, 163), true);
  add("cuda_sm86", As(device, 8, 6, 99), false);  // 8.9 has as much
  return backends;
}

std::vector<Backend> InvariantBackends() {
  std::vector<Backend> backends = Backends();
  std::erase_if(backends, [](const Backend& b) { return b.cuda && !b.batch_invariant; });
  return backends;
}

OpRunner::OpRunner(const Backend& backend, int threads)
    : pool_(threads),
      arena_(backend.cuda ? MemoryKind::kCuda : MemoryKind::kHost),
      staging_(backend.cuda ? MemoryKind::kPinned : MemoryKind::kHost),
      context_{pool_, arena_, backend.tier, backend.reference} {
  if (!backend.cuda) return;
  stream_ = std::make_unique<CudaStream>(*backend.cuda);
  stream_->SetBlocking(true);
  context_.cuda = stream_.get();
  context_.batch_invariant = backend.batch_invariant;
  context_.decoding_first = backend.decoding_first;
  context_.staging = &staging_;
  inbox_ = std::make_unique<Inbox>(*stream_, Inbox::Sends::kEach);
  context_.inbox = inbox_.get();
}

Tensor HostTensor(DType dtype, const Shape& shape) {
  return Tensor(dtype, shape, HasCuda() ? MemoryKind::kPinned : MemoryKind::kHost);
}

Guarded::Guarded(DType dtype, const Shape& shape)
    : storage_(HostTensor(DType::kU8, {static_cast<int64_t>(shape.NumElements() * SizeOf(dtype) +
                                                            2 * kGuardBytes)})) {
  auto* all = static_cast<std::byte*>(storage_.view().raw());
  std::fill(all, all + storage_.shape().NumElements(), kGuardValue);
  view_ = TensorView(all + kGuardBytes, dtype, shape);
  std::fill(all + kGuardBytes, all + kGuardBytes + view_.NumBytes(), kAllBits);
}

void Guarded::ExpectGuardsIntact() const {
  const auto* all = static_cast<const std::byte*>(storage_.view().raw());
  const size_t behind = kGuardBytes + view_.NumBytes();
  for (size_t i = 0; i < kGuardBytes; ++i) {
    ASSERT_EQ(all[i], kGuardValue) << "written " << kGuardBytes - i << " bytes before the output";
    ASSERT_EQ(all[behind + i], kGuardValue) << "written " << i << " bytes behind the output";
  }
}

Tensor RandomTensor(const Shape& shape, std::mt19937& random, float range) {
  Tensor tensor = HostTensor(DType::kF32, shape);
  std::uniform_real_distribution<float> values(-range, range);
  for (int64_t i = 0; i < shape.NumElements(); ++i) tensor.data<float>()[i] = values(random);
  return tensor;
}

Tensor Convert(const Tensor& values, DType dtype) {
  Tensor converted = HostTensor(dtype, values.shape());
  ConvertFloats(values, converted);
  return converted;
}

Tensor Download(ConstTensorView view, OpContext& context) {
  SLUICE_CHECK(view.IsContiguous());
  Tensor copy = HostTensor(view.dtype(), view.shape());
  if (view.NumElements() == 0) return copy;
  if (context.OnCuda()) {
    context.cuda->Copy(copy.view().raw(), view.raw(), view.NumBytes());
    context.cuda->Synchronize();
  } else {
    std::memcpy(copy.view().raw(), view.raw(), view.NumBytes());
  }
  return copy;
}

std::vector<double> ToDoubles(const Tensor& tensor) {
  std::vector<double> values(tensor.shape().NumElements());
  for (size_t i = 0; i < values.size(); ++i) {
    values[i] = LoadFloat(tensor.view().raw(), tensor.view().dtype(), static_cast<int64_t>(i));
  }
  return values;
}

void ExpectClose(const Guarded& got, std::span<const double> want, std::span<const double> scale,
                 double tolerance) {
  got.ExpectGuardsIntact();
  ASSERT_EQ(got.view().NumElements(), static_cast<int64_t>(want.size()));
  for (size_t i = 0; i < want.size(); ++i) {
    const double value = LoadFloat(got.view().raw(), got.view().dtype(), static_cast<int64_t>(i));
    ASSERT_LE(std::abs(value - want[i]), tolerance * scale[i])
        << "element " << i << ": got " << value << ", expected " << want[i];
  }
}

void ExpectRelative(const Guarded& got, std::span<const double> want, double tolerance,
                    double floor) {
  std::vector<double> scale(want.size());
  for (size_t i = 0; i < want.size(); ++i) scale[i] = std::max(std::abs(want[i]), floor);
  ExpectClose(got, want, scale, tolerance);
}

void ExpectSameBits(const void* a, const void* b, int64_t count) {
  const auto* left = static_cast<const uint32_t*>(a);
  const auto* right = static_cast<const uint32_t*>(b);
  for (int64_t i = 0; i < count; ++i) ASSERT_EQ(left[i], right[i]) << "element " << i;
}

}  // namespace sluice::ops
