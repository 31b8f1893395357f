#include "checkpoint/weight_source.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <sstream>

#include "base/error.h"
#include "base/machine.h"
#include "checkpoint/testing.h"
#include "device/buffer.h"
#include "quant/float_formats.h"

namespace sluice {
namespace {

TEST(CheckpointSource, ConvertsAndSlices) {
  const CheckpointSource source(
      Checkpoint::Open(std::string(SLUICE_SOURCE_DIR) + "/tests/golden/qwen2_moe_sharded_bf16_v4"));
  const std::string name = "model.layers.0.self_attn.q_proj.weight";
  const Shape shape = {64, 64};
  Tensor stored(DType::kBF16, shape);
  Tensor wide(DType::kF32, shape);
  Tensor rows(DType::kF32, {10, 64});
  source.Read(name, shape, stored);
  source.Read(name, shape, wide);
  source.ReadRows(name, shape, 50, rows);
  double sum = 0.0;
  for (int i = 0; i < 64 * 64; ++i) {
    ASSERT_EQ(wide.data<float>()[i], ToFloat(stored.data<Bf16>()[i]));
    sum += std::abs(wide.data<float>()[i]);
  }
  EXPECT_GT(sum, 1.0);
  EXPECT_EQ(std::memcmp(rows.data<float>(), wide.data<float>() + 50 * 64, 10 * 64 * 4), 0);
  Tensor other(DType::kF32, {64, 32});
  EXPECT_THROW(source.Read(name, {64, 32}, other), Error);
  EXPECT_THROW(source.Read("absent", shape, wide), Error);
  Tensor integers(DType::kI32, shape);
  EXPECT_THROW(source.Read(name, shape, integers), Error);
}

TEST(CheckpointSource, ReadsUnalignedBytes) {
  const std::string header = R"({"a":{"dtype":"F32","shape":[5000],"data_offsets":[0,20000]}})";
  for (size_t pad = 0; pad < 4; ++pad) {
    auto bytes = testing::SafetensorsBytes(header + std::string(pad, ' '), 20000);
    for (int i = 0; i < 5000; ++i) {
      const float value = static_cast<float>(i);
      std::memcpy(bytes.data() + bytes.size() - 20000 + 4 * i, &value, 4);
    }
    const CheckpointSource source(Checkpoint::FromMemory(bytes, "f"));
    Tensor target(DType::kBF16, {5000});
    source.Read("a", {5000}, target);
    for (int i = 0; i < 5000; ++i) {
      ASSERT_EQ(target.data<Bf16>()[i].bits, ToBf16(static_cast<float>(i)).bits);
    }
  }
}

TEST(DummySource, DependsOnSeedNameAndIndexOnly) {
  const Shape shape = {100, 33};
  const DummySource source({{"m", shape}, {"n", shape}}, DType::kF32, 1);
  const DummySource reseeded({{"m", shape}}, DType::kF32, 2);
  Tensor whole(DType::kF32, shape);
  source.Read("m", shape, whole);
  for (int begin = 0; begin < 100; begin += 7) {
    const int rows = std::min(7, 100 - begin);
    Tensor part(DType::kF32, {rows, 33});
    source.ReadRows("m", shape, begin, part);
    ASSERT_EQ(std::memcmp(part.data<float>(), whole.data<float>() + begin * 33, rows * 33 * 4), 0);
  }
  Tensor other(DType::kF32, shape);
  source.Read("n", shape, other);
  EXPECT_NE(std::memcmp(other.data<float>(), whole.data<float>(), 100 * 33 * 4), 0);
  reseeded.Read("m", shape, other);
  EXPECT_NE(std::memcmp(other.data<float>(), whole.data<float>(), 100 * 33 * 4), 0);
  EXPECT_THROW(source.Read("absent", shape, other), Error);
}

TEST(CheckpointSource, WhatWasReadLeavesTheProcess) {
  constexpr int64_t kElements = 1 << 20;
  constexpr int kTensors = 16;
  std::ostringstream header;
  for (int64_t i = 0; i < kTensors; ++i) {
    header << (i == 0 ? "{" : ",") << "\"t" << i
           << R"(":{"dtype":"F32","shape":[1048576],"data_offsets":[)" << i * kElements * 4 << ","
           << (i + 1) * kElements * 4 << "]}";
  }
  header << "}";
  const testing::TemporaryFolder folder("release");
  folder.Write("model.safetensors",
               testing::SafetensorsBytes(header.str(), kTensors * kElements * 4));
  const CheckpointSource source(Checkpoint::Open(folder.path()));
  Tensor target(DType::kF32, {kElements});
  source.Read("t0", {kElements}, target);
  const uint64_t before = ResidentBytes();
  for (int i = 0; i < kTensors; ++i) {
    source.Read(std::string("t").append(std::to_string(i)), {kElements}, target);
    // The data counts up, whatever was unmapped around it.
    EXPECT_EQ(reinterpret_cast<const uint8_t*>(target.data<float>())[255], 255);
  }
  EXPECT_LT(ResidentBytes(), before + kElements * 4);  // less than one tensor of sixteen
}

TEST(DummySource, HasTheSaidMeanAndDeviation) {
  const int64_t count = 1 << 16;
  const DummySource source(
      {{"w", {256, 256}}, {"input_layernorm.weight", {count}}, {"q_proj.bias", {count}}},
      DType::kBF16, 3);
  const auto expect = [&](const std::string& name, const Shape& shape, double mean, double std) {
    Tensor tensor(DType::kF32, shape);
    source.Read(name, shape, tensor);
    double sum = 0.0;
    double squares = 0.0;
    for (int64_t i = 0; i < count; ++i) {
      const double d = tensor.data<float>()[i] - mean;
      sum += d;
      squares += d * d;
    }
    EXPECT_NEAR(sum / count / std, 0.0, 0.02) << name;
    EXPECT_NEAR(std::sqrt(squares / count) / std, 1.0, 0.02) << name;
  };
  expect("w", {256, 256}, 0.0, 0.02);
  expect("input_layernorm.weight", {count}, 1.0, 0.1);
  expect("q_proj.bias", {count}, 0.0, 0.002);
}

}  // namespace
}  // namespace sluice
