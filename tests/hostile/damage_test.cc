// Checkpoint folders with one file truncated, flipped in some bits, or swapped for another: each
// loads as well as before or is refused by the name of the file, at once and in little memory.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <optional>
#include <random>
#include <string>

#include "allocation_watch.h"
#include "arch/registry.h"
#include "base/error.h"
#include "chat/chat_template.h"
#include "checkpoint/checkpoint.h"
#include "checkpoint/testing.h"
#include "tokenizer/tokenizer.h"

namespace sluice {
namespace {

namespace fs = std::filesystem;

const fs::path kRoot = SLUICE_SOURCE_DIR;
// Beyond a few times the texts that are parsed.
constexpr size_t kMaxAllocated = 64 << 20;

std::string ReadFile(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

// Everything that a command reads from a folder before it makes memory for the weights.
void OpenAll(const fs::path& dir) {
  std::optional<HfConfig> generation;
  if (fs::exists(dir / "generation_config.json")) {
    generation = HfConfig::FromFile(dir / "generation_config.json");
  }
  const ModelSpec spec =
      SpecFromConfig(HfConfig::FromFolder(dir), generation ? &*generation : nullptr);
  const CheckpointSource source(std::shared_ptr<const Checkpoint>(Checkpoint::Open(dir)));
  CheckTensors(spec, source);
  if (!fs::exists(dir / "tokenizer.json")) return;
  const auto tokenizer = Tokenizer::Load(dir / "tokenizer.json");
  const std::vector<TokenId> ids = tokenizer->Encode("Once upon a time, 12 caf\xc3\xa9s.");
  tokenizer->Decode(ids, false);
  const std::optional<ChatTemplate> chat =
      ChatTemplate::FromTokenizerConfig(ReadFile(dir / "tokenizer_config.json"));
  if (!chat.has_value()) return;
  try {
    chat->Render({{.role = "user", .content = "Hi"}});
  } catch (const Error& error) {
    EXPECT_NE(error.code(), ErrorCode::kInternal) << error.what();
  }
}

// A copy of a folder by links, in which one file at a time is another.
class Copy {
 public:
  explicit Copy(const fs::path& original) : original_(original), folder_("hostile_damage") {
    for (const fs::directory_entry& entry : fs::directory_iterator(original)) {
      const std::string name = entry.path().filename();
      const std::string extension = entry.path().extension();
      if (name == "golden.safetensors" || (extension != ".json" && extension != ".safetensors")) {
        continue;
      }
      // Large weights are like small ones, which are quicker to write again and again.
      if (entry.file_size() <= 4 << 20) names_.push_back(name);
      fs::create_symlink(entry.path(), folder_.path() / name);
    }
    std::sort(names_.begin(), names_.end());
  }

  const std::vector<std::string>& names() const { return names_; }
  const fs::path& path() const { return folder_.path(); }
  std::string Original(const std::string& name) const { return ReadFile(original_ / name); }

  // Opens the folder with `bytes` for the file `name`. Returns whether it was refused.
  bool Try(const std::string& name, const std::string& bytes, const std::string& what) {
    fs::remove(folder_.path() / name);
    folder_.Write(name, bytes);
    const bool refused = Open(name, what);
    fs::remove(folder_.path() / name);
    fs::create_symlink(original_ / name, folder_.path() / name);
    return refused;
  }

 private:
  bool Open(const std::string& name, const std::string& what) {
    const std::clock_t begin = std::clock();
    const testing::AllocationWatch watch;
    bool refused = false;
    try {
      OpenAll(folder_.path());
    } catch (const Error& error) {
      refused = true;
      EXPECT_NE(error.code(), ErrorCode::kInternal) << name << " " << what << ": " << error.what();
      EXPECT_NE(std::string(error.what()).find(name), std::string::npos)
          << what << " of " << name << " is not named: " << error.what();
    } catch (const std::exception& error) {
      ADD_FAILURE() << name << " " << what << ": " << error.what();
    }
    EXPECT_LT(watch.peak(), kMaxAllocated) << name << " " << what;
    EXPECT_LT(std::clock() - begin, CLOCKS_PER_SEC) << name << " " << what;
    return refused;
  }

  fs::path original_;
  testing::TemporaryFolder folder_;
  std::vector<std::string> names_;
};

// Where a file's structure is: all of a text, the header of a safetensors file and a little more.
size_t StructureBytes(const std::string& bytes) {
  uint64_t header = 0;
  if (bytes.size() < 8 || bytes[0] == '{') return bytes.size();
  std::memcpy(&header, bytes.data(), 8);
  return std::min<size_t>(bytes.size(), header + 64);
}

class DamagedFolder : public ::testing::TestWithParam<const char*> {
 protected:
  DamagedFolder() : copy_(kRoot / GetParam()) {}
  Copy copy_;
};

TEST_P(DamagedFolder, OpensWhole) {
  ASSERT_GE(copy_.names().size(), 3u);
  EXPECT_NO_THROW(OpenAll(copy_.path()));
}

TEST_P(DamagedFolder, TruncatedFilesAreRefused) {
  for (const std::string& name : copy_.names()) {
    const std::string bytes = copy_.Original(name);
    const size_t structure = StructureBytes(bytes);
    constexpr size_t kCuts = 60;
    for (size_t i = 0; i < kCuts; ++i) {
      const size_t length = i * structure / kCuts;
      EXPECT_TRUE(copy_.Try(name, bytes.substr(0, length), "cut to " + std::to_string(length)))
          << name << " cut to " << length << " of " << bytes.size();
    }
    // The last byte of a text may be a line's end, that of weights may not be missed.
    const size_t last = bytes.find_last_not_of(" \r\n");
    EXPECT_TRUE(copy_.Try(name, bytes.substr(0, last), "without its last byte")) << name;
  }
}

TEST_P(DamagedFolder, FlippedBitsAreRefusedOrHarmless) {
  std::mt19937 random(20'26);
  for (const std::string& name : copy_.names()) {
    const std::string bytes = copy_.Original(name);
    const size_t structure = StructureBytes(bytes);
    int refused = 0;
    constexpr int kRounds = 200;
    for (int round = 0; round < kRounds; ++round) {
      std::string flipped = bytes;
      const int flips = 1 + static_cast<int>(random() % 4);
      std::string what = "flipped at";
      for (int i = 0; i < flips; ++i) {
        const size_t at = random() % (round % 8 == 0 ? bytes.size() : structure);
        flipped[at] = static_cast<char>(flipped[at] ^ (1 << (random() % 8)));
        what += " " + std::to_string(at);
      }
      refused += copy_.Try(name, flipped, what) ? 1 : 0;
    }
    EXPECT_GT(refused, kRounds / 10) << name;
  }
}

TEST_P(DamagedFolder, SwappedFilesAreRefusedOrAlike) {
  for (const std::string& name : copy_.names()) {
    for (const std::string& other : copy_.names()) {
      if (other != name) copy_.Try(name, copy_.Original(other), "swapped for " + other);
    }
    copy_.Try(name, "", "empty");
    copy_.Try(name, std::string(4096, '\0'), "all zero");
    copy_.Try(name, "<!DOCTYPE html><html>Not found</html>", "a web page");
    copy_.Try(name, "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
              "a pointer to a file");
  }
}

INSTANTIATE_TEST_SUITE_P(Folders, DamagedFolder,
                         ::testing::Values("tests/golden/qwen3_moe",
                                           "tests/golden/qwen2_moe_sharded_bf16_v4",
                                           "models/storyteller"));

// A config.json, or weights, of another model.
TEST(DamagedFolders, FilesOfAnotherModelAreRefused) {
  const fs::path other = kRoot / "tests/golden/qwen2_moe";
  Copy copy(kRoot / "tests/golden/qwen3_moe");
  for (const std::string name : {"config.json", "model.safetensors"}) {
    EXPECT_TRUE(copy.Try(name, ReadFile(other / name), "of another model")) << name;
  }
}

}  // namespace
}  // namespace sluice
