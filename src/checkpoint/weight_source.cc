#include "checkpoint/weight_source.h"

#include <algorithm>
#include <array>
#include <string_view>
#include <utility>

#include "base/error.h"
#include "quant/float_formats.h"

namespace sluice {
namespace {

// Behind a block-scaled tensor's name, that of its scales.
constexpr std::string_view kScaleSuffix = "_scale_inv";

// Sums of two bytes: the values that a dummy weight takes.
constexpr int kLevels = 511;
// Standard deviation of the sum of two independent uniform bytes, sqrt(2 * (256^2 - 1) / 12).
constexpr float kLevelDeviation = 104.51f;

// splitmix64's finaliser (Steele, Lea, Flood: "Fast splittable pseudorandom number generators").
inline uint64_t Mix(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
  return x ^ (x >> 31);
}

// FNV-1a, so that a name hashes alike in every build.
uint64_t HashName(const std::string& name) {
  uint64_t hash = 0xcbf29ce484222325ull;
  for (const char c : name) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3ull;
  return hash;
}

struct Distribution {
  float mean;
  float deviation;
};

Distribution DistributionOf(const std::string& name, const Shape& shape) {
  if (shape.rank() != 1) return {0.0f, 0.02f};
  if (name.find("norm") != std::string::npos) return {1.0f, 0.1f};
  return {0.0f, 0.002f};
}

// Fills out[i] with the value of element first + i. Each 64-bit hash makes four elements.
template <class T>
void FillRandom(uint64_t key, Distribution distribution, int64_t first, std::span<T> out) {
  std::array<float, kLevels> levels;
  for (int i = 0; i < kLevels; ++i) {
    levels[i] = distribution.mean +
                distribution.deviation * (static_cast<float>(i) - 255.0f) / kLevelDeviation;
  }
  std::array<T, kLevels> values;
  ConvertFloats(ConstTensorView(levels.data(), DType::kF32, {kLevels}),
                TensorView(values.data(), DTypeTraits<T>::kDType, {kLevels}));
  const int64_t end = first + static_cast<int64_t>(out.size());
  for (int64_t block = first / 4; block * 4 < end; ++block) {
    uint64_t bits = Mix(key + static_cast<uint64_t>(block) * 0x9e3779b97f4a7c15ull);
    const int64_t begin = std::max(block * 4, first);
    const int64_t stop = std::min(block * 4 + 4, end);
    bits >>= 16 * (begin - block * 4);
    for (int64_t i = begin; i < stop; ++i, bits >>= 16) {
      out[static_cast<size_t>(i - first)] = values[(bits & 0xff) + (bits >> 8 & 0xff)];
    }
  }
}

// Elements that are held at a time while they are converted.
constexpr int64_t kPiece = 128 << 10;

bool IsConvertible(DType dtype) {
  return dtype == DType::kF32 || dtype == DType::kBF16 || dtype == DType::kF16;
}

}  // namespace

void WeightSource::Read(const std::string& name, const Shape& expected, TensorView target) const {
  SLUICE_CHECK_EQ(target.shape(), expected);
  ReadRows(name, expected, 0, target);
}

void WeightSource::ReadRows(const std::string& name, const Shape& expected, int64_t begin,
                            TensorView target) const {
  const Shape found = shape(name);
  if (!(found == expected)) {
    throw Error(ErrorCode::kDataLoss, "tensor \"" + name + "\" has shape " + found.ToString() +
                                          " where config.json asks for " + expected.ToString() +
                                          "; the weights belong to another config");
  }
  SLUICE_CHECK(target.IsContiguous());
  SLUICE_CHECK_EQ(target.rank(), expected.rank());
  int64_t first = 0;
  if (expected.rank() > 0) {
    SLUICE_CHECK_GE(begin, 0);
    SLUICE_CHECK_LE(begin + target.dim(0), expected[0]);
    Shape whole = target.shape();
    whole[0] = expected[0];
    SLUICE_CHECK_EQ(whole, expected);
    first = 1;
    for (int i = 1; i < expected.rank(); ++i) first *= expected[i];
    first *= begin;
  }
  if (target.NumElements() > 0) CopyElements(name, first, target);
}

CheckpointSource::CheckpointSource(std::shared_ptr<const Checkpoint> checkpoint,
                                   std::optional<BlockScaledFormat> block_scaled)
    : checkpoint_(std::move(checkpoint)), block_scaled_(block_scaled) {
  for (const std::string& name : checkpoint_->names()) {
    if (IsBlockScaled(name)) CheckScales(name);
  }
}

bool CheckpointSource::IsBlockScaled(const std::string& name) const {
  const std::optional<ConstTensorView> view = checkpoint_->Find(name);
  return block_scaled_ && view && view->dtype() == block_scaled_->dtype && view->rank() == 2;
}

void CheckpointSource::CheckScales(const std::string& name) const {
  const Shape expected = ScaleShape(*block_scaled_, checkpoint_->Get(name).shape());
  const std::optional<ConstTensorView> scales = checkpoint_->Find(name + std::string(kScaleSuffix));
  const auto fail = [&](const std::string& what) {
    throw Error(ErrorCode::kDataLoss,
                checkpoint_->origin() + ": tensor \"" + name + "\" is stored as " +
                    std::string(DTypeName(block_scaled_->dtype)) + " in blocks of " +
                    std::to_string(block_scaled_->block_rows) + " x " +
                    std::to_string(block_scaled_->block_columns) + ", so \"" + name +
                    std::string(kScaleSuffix) + "\" should be " + expected.ToString() +
                    " of f32 or bf16, but " + what);
  };
  if (!scales) fail("is not there");
  const bool is_float = scales->dtype() == DType::kF32 || scales->dtype() == DType::kBF16;
  if (!is_float || !(scales->shape() == expected)) fail("is " + scales->ToString());
}

bool CheckpointSource::Has(const std::string& name) const {
  return checkpoint_->Find(name).has_value();
}
DType CheckpointSource::dtype(const std::string& name) const {
  return checkpoint_->Get(name).dtype();
}
Shape CheckpointSource::shape(const std::string& name) const {
  return checkpoint_->Get(name).shape();
}
std::vector<std::string> CheckpointSource::names() const {
  std::vector<std::string> names = checkpoint_->names();
  if (!block_scaled_) return names;
  std::erase_if(names, [&](const std::string& name) {
    return name.ends_with(kScaleSuffix) &&
           IsBlockScaled(name.substr(0, name.size() - kScaleSuffix.size()));
  });
  return names;
}

std::string CheckpointSource::origin() const {
  return checkpoint_->origin();
}

void CheckpointSource::CopyElements(const std::string& name, int64_t first,
                                    TensorView target) const {
  const ConstTensorView stored = checkpoint_->Get(name);
  const DType dtype = stored.dtype();
  if (dtype == target.dtype()) return checkpoint_->Read(stored, first, target);
  const bool block_scaled = IsBlockScaled(name);
  if (!(block_scaled || IsConvertible(dtype)) || !IsConvertible(target.dtype())) {
    throw Error(ErrorCode::kUnsupported,
                checkpoint_->origin() + ": tensor \"" + name + "\" is stored as " +
                    std::string(DTypeName(dtype)) + " and cannot be read as " +
                    std::string(DTypeName(target.dtype())) +
                    "; f32, bf16 and f16 convert, and f8e4m3 where config.json has a "
                    "\"quantization_config\" of \"fp8\"");
  }
  const Tensor scales = block_scaled ? ReadScales(name) : Tensor();
  const int64_t count = target.NumElements();
  const TensorView flat = target.Reshape({count});
  const Tensor buffer(dtype, {std::min(count, kPiece)});
  for (int64_t begin = 0; begin < count; begin += kPiece) {
    const int64_t end = std::min(begin + kPiece, count);
    const TensorView piece = buffer.view().Slice(0, end - begin);
    checkpoint_->Read(stored, first + begin, piece);
    if (block_scaled) {
      DequantizeBlocks(*block_scaled_, stored.shape(), piece, scales, first + begin,
                       flat.Slice(begin, end));
    } else {
      ConvertFloats(piece, flat.Slice(begin, end));
    }
  }
}

Tensor CheckpointSource::ReadScales(const std::string& name) const {
  const ConstTensorView stored = checkpoint_->Get(name + std::string(kScaleSuffix));
  Tensor scales(stored.dtype(), stored.shape());
  checkpoint_->Read(stored, 0, scales.view());
  return scales;
}

DummySource::DummySource(const std::vector<Listed>& tensors, DType dtype, uint64_t seed)
    : dtype_(dtype), seed_(seed) {
  for (const Listed& tensor : tensors) shapes_.emplace(tensor.name, tensor.shape);
}

bool DummySource::Has(const std::string& name) const {
  return shapes_.contains(name);
}

DType DummySource::dtype(const std::string& name) const {
  shape(name);  // throws for a name that is not listed
  return dtype_;
}

Shape DummySource::shape(const std::string& name) const {
  const auto found = shapes_.find(name);
  if (found == shapes_.end()) {
    throw Error(ErrorCode::kDataLoss, "the model lists no tensor \"" + name + "\"");
  }
  return found->second;
}

std::vector<std::string> DummySource::names() const {
  std::vector<std::string> names;
  names.reserve(shapes_.size());
  for (const auto& [name, shape] : shapes_) names.push_back(name);
  std::sort(names.begin(), names.end());
  return names;
}

std::string DummySource::origin() const {
  return "random weights";
}

void DummySource::CopyElements(const std::string& name, int64_t first, TensorView target) const {
  const uint64_t key = Mix(seed_ ^ Mix(HashName(name)));
  const Distribution distribution = DistributionOf(name, shape(name));
  const size_t count = static_cast<size_t>(target.NumElements());
  switch (target.dtype()) {
    case DType::kF32:
      return FillRandom<float>(key, distribution, first, {target.data<float>(), count});
    case DType::kBF16:
      return FillRandom<Bf16>(key, distribution, first, {target.data<Bf16>(), count});
    case DType::kF16:
      return FillRandom<F16>(key, distribution, first, {target.data<F16>(), count});
    default:
      throw Error(ErrorCode::kUnsupported,
                  "tensor \"" + name + "\": random weights are f32, bf16 " + "or f16, not " +
                      std::string(DTypeName(target.dtype())));
  }
}

}  // namespace sluice
