#include "checkpoint/weight_source.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "base/error.h"
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

TEST(CheckpointSource, NamesAFileThatWasCutShortAfterItWasOpened) {
  const testing::TemporaryFolder folder("cut_short");
  const std::string header = R"({"a":{"dtype":"F32","shape":[4,4096],"data_offsets":[0,65536]}})";
  const auto bytes = testing::SafetensorsBytes(header, 65536);
  folder.Write("model.safetensors", bytes);
  const CheckpointSource source(Checkpoint::Open(folder.path()));
  const auto file = folder.path() / "model.safetensors";
  std::filesystem::resize_file(file, bytes.size() - 16384);
  const Shape shape = {4, 4096};
  const Tensor row(DType::kF32, {1, 4096});
  source.ReadRows("a", shape, 2, row.view());  // what is still there is read
  EXPECT_EQ(std::memcmp(row.view().raw(), bytes.data() + bytes.size() - 32768, 16384), 0);
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    const Tensor whole(dtype, shape);
    try {
      source.Read("a", shape, whole.view());
      FAIL() << "was read";
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kDataLoss);
      const std::string cut = std::to_string(bytes.size() - 16384);
      EXPECT_NE(std::string(error.what()).find(file.string() + ": ends at byte " + cut),
                std::string::npos)
          << error.what();
    }
  }
}

// A matrix of 2 x 3 ones (0x38), times a scale for each block of 1 x 2.
std::vector<std::byte> BlockScaledFile(const std::string& scales_shape) {
  auto bytes = testing::SafetensorsBytes(
      R"({"m.weight":{"dtype":"F8_E4M3","shape":[2,3],"data_offsets":[0,6]},)"
      R"("m.weight_scale_inv":{"dtype":"F32","shape":)" +
          scales_shape + R"(,"data_offsets":[6,22]}})",
      22);
  std::byte* data = bytes.data() + bytes.size() - 22;
  std::fill(data, data + 6, std::byte{0x38});
  const float scales[] = {1.0f, 2.0f, 3.0f, 4.0f};
  std::memcpy(data + 6, scales, sizeof(scales));
  return bytes;
}

TEST(CheckpointSource, DequantisesBlockScaledTensors) {
  const auto bytes = BlockScaledFile("[2,2]");
  const BlockScaledFormat format{.block_rows = 1, .block_columns = 2};
  const CheckpointSource source(Checkpoint::FromMemory(bytes, "file"), format);
  EXPECT_EQ(source.names(), std::vector<std::string>{"m.weight"});
  const Tensor whole(DType::kF32, {2, 3});
  source.Read("m.weight", {2, 3}, whole.view());
  const float* values = whole.view().data<float>();
  EXPECT_EQ(std::vector<float>(values, values + 6), (std::vector<float>{1, 1, 2, 3, 3, 4}));
  const Tensor row(DType::kBF16, {1, 3});
  source.ReadRows("m.weight", {2, 3}, 1, row.view());
  EXPECT_EQ(ToFloat(row.view().data<Bf16>()[2]), 4.0f);
}

TEST(CheckpointSource, RefusesBlockScaledTensorsWithoutTheirScales) {
  const BlockScaledFormat format{.block_rows = 1, .block_columns = 2};
  for (const std::string shape : {"[4,1]", "[4]"}) {
    const auto bytes = BlockScaledFile(shape);
    try {
      const CheckpointSource source(Checkpoint::FromMemory(bytes, "file"), format);
      FAIL() << shape;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kDataLoss);
      EXPECT_NE(std::string(error.what()).find("m.weight_scale_inv"), std::string::npos);
    }
  }
  // Without a quantization_config nobody knows the blocks.
  const auto bytes = BlockScaledFile("[2,2]");
  const CheckpointSource plain(Checkpoint::FromMemory(bytes, "file"));
  EXPECT_EQ(plain.names().size(), 2u);
  const Tensor out(DType::kF32, {2, 3});
  EXPECT_THROW(plain.Read("m.weight", {2, 3}, out.view()), Error);
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

// Pages of files that this process holds: not a sanitizer's own memory, which is anonymous.
uint64_t ResidentFileBytes() {
  uint64_t total = 0;
  uint64_t resident = 0;
  uint64_t of_files = 0;
  std::ifstream("/proc/self/statm") >> total >> resident >> of_files;
  EXPECT_GT(of_files, 0u);
  return of_files * static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
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
  const uint64_t before = ResidentFileBytes();
  for (int i = 0; i < kTensors; ++i) {
    source.Read(std::string("t").append(std::to_string(i)), {kElements}, target);
    // The data counts up, whatever was unmapped around it.
    EXPECT_EQ(reinterpret_cast<const uint8_t*>(target.data<float>())[255], 255);
  }
  EXPECT_LT(ResidentFileBytes(), before + kElements * 4);  // less than one tensor of sixteen
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
