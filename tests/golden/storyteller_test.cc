// The embedded model's files against what transformers computes for them in float32.

#include <gtest/gtest.h>

#include <boost/json.hpp>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>
#include <string>
#include <vector>

#include "arch/registry.h"
#include "base/machine.h"
#include "checkpoint/checkpoint.h"
#include "checkpoint/config.h"
#include "engine/model_runner.h"
#include "engine/verify.h"
#include "tokenizer/tokenizer.h"

namespace sluice {
namespace {

namespace fs = std::filesystem;

std::string ReadText(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

class StorytellerTest : public ::testing::Test {
 protected:
  const fs::path root_ = SLUICE_SOURCE_DIR;
  const fs::path dir_ = root_ / "models/storyteller";
  const ModelSpec spec_ = SpecFromConfig(HfConfig::FromFolder(dir_));
  const CheckpointSource source_{Checkpoint::Open(dir_)};
  ModelRunner runner_{spec_,
                      source_,
                      {.num_threads = 2,
                       .tier = DetectCpuTier(),
                       .num_pages = 128,
                       .max_model_len = spec_.max_positions},
                      std::make_unique<ModelRouting>()};
};

TEST_F(StorytellerTest, HeldOutLossEqualsTransformers) {
  const auto reference =
      boost::json::parse(ReadText(root_ / "tests/data/heldout_reference.json")).as_object();
  const std::vector<TokenId> tokens =
      Tokenizer::Load(dir_ / "tokenizer.json")->Encode(ReadText(root_ / "tests/data/heldout.txt"));
  const TextLoss loss =
      ScoreText(runner_, tokens, static_cast<int>(reference.at("window").as_int64()));
  EXPECT_EQ(loss.tokens, reference.at("tokens").as_int64());
  EXPECT_EQ(loss.predicted_tokens, reference.at("predicted_tokens").as_int64());
  EXPECT_NEAR(loss.mean_nll, reference.at("mean_nll").as_double(), 1e-6);
}

TEST_F(StorytellerTest, GreedyTextsEqualTransformers) {
  const auto reference =
      boost::json::parse(ReadText(root_ / "tests/data/storyteller_greedy.json")).as_object();
  int checked = 0;
  for (const char* kind : {"prompts", "chats"}) {
    for (const boost::json::value& entry : reference.at(kind).as_array()) {
      const auto prompt = boost::json::value_to<std::vector<TokenId>>(entry.at("prompt_ids"));
      const auto ids = boost::json::value_to<std::vector<TokenId>>(entry.at("ids"));
      EXPECT_EQ(GreedyContinuation(runner_, prompt, static_cast<int>(ids.size())), ids);
      ++checked;
    }
  }
  EXPECT_GE(checked, 6);
}

}  // namespace
}  // namespace sluice
