#include "checkpoint/weight_files.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "checkpoint/testing.h"

namespace sluice {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr const char* kSharded = SLUICE_SOURCE_DIR "/tests/golden/qwen2_moe_sharded_bf16_v4";

TEST(InspectWeightFilesTest, AddsUpWhatIsThere) {
  const WeightFiles found = InspectWeightFiles(kSharded);
  EXPECT_TRUE(found.problems.empty());
  ASSERT_EQ(found.files.size(), 3u);
  uint64_t bytes = 0;
  for (const WeightFiles::File& file : found.files) {
    EXPECT_EQ(file.bytes, fs::file_size(fs::path(kSharded) / file.name));
    EXPECT_GT(file.tensors, 0u);
    bytes += file.bytes;
  }
  ASSERT_EQ(found.stored_bytes.count("bf16"), 1u);
  EXPECT_GT(found.stored_bytes.at("bf16"), bytes / 2);
}

TEST(InspectWeightFilesTest, NamesEveryFileThatIsWrong) {
  const testing::TemporaryFolder folder("weight_files");
  for (const fs::directory_entry& entry : fs::directory_iterator(kSharded)) {
    fs::copy_file(entry.path(), folder.path() / entry.path().filename());
  }
  fs::remove(folder.path() / "model-00001-of-00003.safetensors");
  const fs::path cut = folder.path() / "model-00003-of-00003.safetensors";
  fs::resize_file(cut, fs::file_size(cut) - 1);
  const WeightFiles found = InspectWeightFiles(folder.path());
  EXPECT_THAT(found.problems, ElementsAre(HasSubstr("model-00001-of-00003.safetensors"),
                                          HasSubstr("model-00003-of-00003.safetensors")));
  ASSERT_EQ(found.files.size(), 1u);
}

}  // namespace
}  // namespace sluice
