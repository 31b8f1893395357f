#include "checkpoint/safetensors.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>

#include "base/error.h"
#include "checkpoint/testing.h"

namespace sluice {
namespace {

using ::testing::HasSubstr;
using testing::SafetensorsBytes;

TEST(Safetensors, ReadsEntriesInTheOrderOfTheirBytes) {
  const auto bytes = SafetensorsBytes(
      R"({"__metadata__":{"format":"pt"},"b":{"dtype":"BF16","shape":[2,3],"data_offsets":[8,20]},)"
      R"("a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},)"
      R"("empty":{"dtype":"F32","shape":[0,4],"data_offsets":[8,8]},)"
      R"("scalar":{"dtype":"U8","shape":[],"data_offsets":[20,21]}}   )",
      21);
  const SafetensorsFile file = SafetensorsFile::Parse(bytes, "f");
  ASSERT_EQ(file.entries().size(), 4u);
  EXPECT_EQ(file.entries()[0].name, "a");
  EXPECT_EQ(file.entries()[1].name, "empty");
  EXPECT_EQ(file.entries()[2].name, "b");
  EXPECT_EQ(file.View(file.entries()[2]).ToString(), "bf16[2, 3]");
  EXPECT_EQ(*static_cast<const uint8_t*>(file.View(file.entries()[3]).raw()), 20);
}

struct BadHeader {
  const char* header;
  size_t data_bytes;
  const char* message;
  ErrorCode code = ErrorCode::kDataLoss;
};

class SafetensorsBadHeader : public ::testing::TestWithParam<BadHeader> {};

TEST_P(SafetensorsBadHeader, IsRefusedByNameAndReason) {
  const BadHeader& bad = GetParam();
  try {
    SafetensorsFile::Parse(SafetensorsBytes(bad.header, bad.data_bytes), "weights.file");
    FAIL() << "accepted " << bad.header;
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), bad.code) << error.what();
    EXPECT_THAT(error.what(), HasSubstr("weights.file"));
    EXPECT_THAT(error.what(), HasSubstr(bad.message));
  }
}

INSTANTIATE_TEST_SUITE_P(
    All, SafetensorsBadHeader,
    ::testing::Values(
        BadHeader{"", 0, "not a JSON object"}, BadHeader{"[]", 0, "not a JSON object"},
        BadHeader{"{", 0, "not valid JSON"}, BadHeader{"{} x", 0, "not valid JSON"},
        BadHeader{R"({"a":{"dtype":"F32","shape":[[1]],"data_offsets":[0,4]}})", 4, "array"},
        BadHeader{R"({"a":{"x":{"y":{}}}})", 0, "unknown field"},
        BadHeader{R"({"a":{"dtype":{},"shape":[1],"data_offsets":[0,4]}})", 4, "object"},
        BadHeader{R"({"__metadata__":{"a":{}}})", 0, "object"},
        BadHeader{R"({"a":3})", 0, "number"}, BadHeader{R"({"a":"F32"})", 0, "string"},
        BadHeader{R"({"a":null})", 0, "null"}, BadHeader{R"({"a":{"dtype":true}})", 0, "boolean"},
        BadHeader{R"({"a":{"dtype":"F32","shape":[1]}})", 4, "lacks"},
        BadHeader{R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0]}})", 4, "fewer than two"},
        BadHeader{R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4,8]}})", 4,
                  "more than two"},
        BadHeader{R"({"a":{"dtype":"Q4","shape":[1],"data_offsets":[0,4]}})", 4, "Q4"},
        BadHeader{R"({"a":{"dtype":"F64","shape":[1],"data_offsets":[0,8]}})", 8, "F64",
                  ErrorCode::kUnsupported},
        BadHeader{R"({"a":{"dtype":"U8","shape":[1,1,1,1,1,1],"data_offsets":[0,1]}})", 1,
                  "dimensions", ErrorCode::kUnsupported},
        BadHeader{R"({"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}})", 4, "negative"},
        BadHeader{R"({"a":{"dtype":"F32","shape":[1.5],"data_offsets":[0,4]}})", 4, "integer"},
        BadHeader{R"({"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]}})",
                  0, "no memory"},
        BadHeader{R"({"a":{"dtype":"F32","shape":[9223372036854775808],"data_offsets":[0,0]}})", 0,
                  "2^63"},
        BadHeader{R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[4,0]}})", 4, "before"},
        BadHeader{R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}})", 4, "takes 8"},
        BadHeader{R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})", 4, "truncated"},
        BadHeader{R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})", 5, "belong to none"},
        BadHeader{R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})", 8, "hole"},
        BadHeader{R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},)"
                  R"("b":{"dtype":"F32","shape":[1],"data_offsets":[2,6]}})",
                  6, "overlap"},
        BadHeader{R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},)"
                  R"("a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})",
                  4, "twice"},
        BadHeader{R"({"a":{"dtype":"F32","dtype":"F32","shape":[1],"data_offsets":[0,4]}})", 4,
                  "twice"}));

TEST(Safetensors, BoundsTheHeader) {
  EXPECT_THROW(SafetensorsFile::Parse({}, "f"), Error);
  auto bytes = SafetensorsBytes("{}", 0);
  EXPECT_EQ(SafetensorsFile::Parse(bytes, "f").entries().size(), 0u);
  bytes[0] = std::byte{3};  // one more than there is
  EXPECT_THROW(SafetensorsFile::Parse(bytes, "f"), Error);
  for (int i = 0; i < 8; ++i) bytes[i] = std::byte{0xff};
  EXPECT_THROW(SafetensorsFile::Parse(bytes, "f"), Error);
}

// Every damaged header either parses to entries inside the bytes or is refused as an Error.
TEST(Safetensors, SurvivesDamage) {
  const auto sound = SafetensorsBytes(
      R"({"__metadata__":{"format":"pt"},"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},)"
      R"("b":{"dtype":"BF16","shape":[2,3],"data_offsets":[8,20]}})",
      20);
  std::mt19937 random(7);
  int refused = 0;
  for (int round = 0; round < 20000; ++round) {
    auto bytes = sound;
    if (round % 3 == 0) bytes.resize(random() % bytes.size());
    const int edits = 1 + static_cast<int>(random() % 3);
    for (int i = 0; i < edits && !bytes.empty(); ++i) {
      bytes[random() % bytes.size()] = static_cast<std::byte>(random() & 0xff);
    }
    try {
      const SafetensorsFile file = SafetensorsFile::Parse(bytes, "f");
      for (const SafetensorsEntry& entry : file.entries()) {
        ASSERT_LE(entry.begin, entry.end);
        ASSERT_LE(entry.end, bytes.size());
      }
    } catch (const Error& error) {
      ASSERT_NE(error.code(), ErrorCode::kInternal) << error.what();
      ++refused;
    }
  }
  EXPECT_GT(refused, 10000);
}

}  // namespace
}  // namespace sluice
