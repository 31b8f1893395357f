#include "checkpoint/checkpoint.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "checkpoint/testing.h"

namespace sluice {
namespace {

using ::testing::HasSubstr;
using testing::SafetensorsBytes;
using testing::TemporaryFolder;

const std::filesystem::path kGolden = std::filesystem::path(SLUICE_SOURCE_DIR) / "tests/golden";

// One tensor of 4 bytes under `name`.
std::vector<std::byte> OneTensor(const std::string& name) {
  return SafetensorsBytes(R"({")" + name + R"(":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})",
                          4);
}

void ExpectOpenFails(const std::filesystem::path& dir, ErrorCode code, const std::string& message) {
  try {
    Checkpoint::Open(dir);
    FAIL() << "opened " << dir;
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), code) << error.what();
    EXPECT_THAT(error.what(), HasSubstr(message));
  }
}

TEST(Checkpoint, OpensOneFile) {
  const auto checkpoint = Checkpoint::Open(kGolden / "qwen3_moe");
  EXPECT_EQ(checkpoint->Get("model.embed_tokens.weight").ToString(), "f32[512, 64]");
  EXPECT_FALSE(checkpoint->Find("model.embed_tokens").has_value());
  EXPECT_EQ(checkpoint->TotalBytes(), 1702016u);
  EXPECT_THROW(checkpoint->Get("nothing"), Error);
}

TEST(Checkpoint, OpensShards) {
  const auto checkpoint = Checkpoint::Open(kGolden / "qwen2_moe_sharded_bf16_v4");
  EXPECT_EQ(checkpoint->names().size(), Checkpoint::Open(kGolden / "qwen2_moe")->names().size());
  EXPECT_EQ(checkpoint->Get("model.norm.weight").ToString(), "bf16[64]");
  EXPECT_EQ(checkpoint->TotalBytes(), 787840u);
}

TEST(Checkpoint, ReadsMemory) {
  const auto bytes = OneTensor("a");
  EXPECT_EQ(Checkpoint::FromMemory(bytes, "embedded")->Get("a").raw(), &bytes[bytes.size() - 4]);
}

TEST(Checkpoint, SaysWhatIsWrongWithAFolder) {
  const TemporaryFolder folder("checkpoint");
  ExpectOpenFails(folder.path() / "absent", ErrorCode::kNotFound, "is not there");
  ExpectOpenFails(folder.path(), ErrorCode::kNotFound, "no model.safetensors");
  folder.Write("pytorch_model.bin", "x");
  ExpectOpenFails(folder.path(), ErrorCode::kNotFound, "pytorch_model.bin is another format");
  ExpectOpenFails(folder.path() / "pytorch_model.bin", ErrorCode::kNotFound, "not a folder");
  folder.Write("model.safetensors", "");
  ExpectOpenFails(folder.path(), ErrorCode::kDataLoss, "too few");
  auto bytes = OneTensor("a");
  bytes.pop_back();
  folder.Write("model.safetensors", bytes);
  ExpectOpenFails(folder.path(), ErrorCode::kDataLoss, "truncated");
}

TEST(Checkpoint, ChecksTheIndexAgainstTheShards) {
  const TemporaryFolder folder("index");
  const std::string index = "model.safetensors.index.json";
  folder.Write("one.safetensors", OneTensor("a"));
  folder.Write("two.safetensors", OneTensor("b"));
  folder.Write(index, R"({"weight_map":{"a":"one.safetensors","b":"two.safetensors"}})");
  EXPECT_EQ(Checkpoint::Open(folder.path())->names(), (std::vector<std::string>{"a", "b"}));

  const auto expect = [&](const char* text, ErrorCode code, const char* message) {
    folder.Write(index, text);
    ExpectOpenFails(folder.path(), code, message);
  };
  expect("{", ErrorCode::kDataLoss, "not valid JSON");
  expect("[]", ErrorCode::kDataLoss, "weight_map");
  expect(R"({"weight_map":{}})", ErrorCode::kDataLoss, "no tensor");
  expect(R"({"weight_map":{"a":1}})", ErrorCode::kDataLoss, "not a file name");
  expect(R"({"weight_map":{"a":"../one.safetensors"}})", ErrorCode::kDataLoss, "without a path");
  expect(R"({"weight_map":{"a":".."}})", ErrorCode::kDataLoss, "without a path");
  expect(R"({"weight_map":{"a":"three.safetensors"}})", ErrorCode::kNotFound, "incomplete");
  expect(R"({"weight_map":{"a":"one.safetensors","c":"two.safetensors"}})", ErrorCode::kDataLoss,
         "does not place there");
  expect(R"({"weight_map":{"a":"one.safetensors","c":"one.safetensors"}})", ErrorCode::kDataLoss,
         "does not hold it");
}

}  // namespace
}  // namespace sluice
