#include "ops/common/test_support.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "ops/common/load_float.h"

namespace sluice::ops {
namespace {

constexpr int64_t kGuardElements = 64;
constexpr int32_t kGuardValue = 0x5a5a5a5a;

}  // namespace

std::vector<Backend> Backends() {
  std::vector<Backend> backends = {{"reference", CpuTier::kPortable, true}};
  for (const CpuTier tier : {CpuTier::kPortable, CpuTier::kAvx2, CpuTier::kAvx512}) {
    if (tier <= DetectCpuTier()) backends.push_back({CpuTierName(tier), tier, false});
  }
  return backends;
}

Guarded::Guarded(DType dtype, const Shape& shape)
    : storage_(DType::kI32, {shape.NumElements() + 2 * kGuardElements}) {
  SLUICE_CHECK_EQ(SizeOf(dtype), SizeOf(DType::kI32));
  int32_t* all = storage_.data<int32_t>();
  std::fill(all, all + storage_.shape().NumElements(), kGuardValue);
  view_ = TensorView(all + kGuardElements, dtype, shape);
  if (dtype == DType::kF32) {
    float* values = view_.data<float>();
    std::fill(values, values + shape.NumElements(), std::numeric_limits<float>::quiet_NaN());
  } else {
    std::fill(all + kGuardElements, all + kGuardElements + shape.NumElements(), -1);
  }
}

void Guarded::ExpectGuardsIntact() const {
  const int32_t* all = storage_.data<int32_t>();
  const int64_t behind = kGuardElements + view_.NumElements();
  for (int64_t i = 0; i < kGuardElements; ++i) {
    ASSERT_EQ(all[i], kGuardValue) << "written " << kGuardElements - i << " before the output";
    ASSERT_EQ(all[behind + i], kGuardValue) << "written " << i << " behind the output";
  }
}

Tensor RandomTensor(const Shape& shape, std::mt19937& random, float range) {
  Tensor tensor(DType::kF32, shape);
  std::uniform_real_distribution<float> values(-range, range);
  for (int64_t i = 0; i < shape.NumElements(); ++i) tensor.data<float>()[i] = values(random);
  return tensor;
}

Tensor Convert(const Tensor& values, DType dtype) {
  Tensor converted(dtype, values.shape());
  ConvertFloats(values, converted);
  return converted;
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
    const double error = std::abs(got.data<float>()[i] - want[i]);
    ASSERT_LE(error, tolerance * scale[i])
        << "element " << i << ": got " << got.data<float>()[i] << ", expected " << want[i];
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
