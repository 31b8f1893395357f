#include "hub/pull.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"

namespace sluice {
namespace {

using ::testing::ElementsAre;

HubModel ModelOf(const std::vector<std::string>& paths) {
  HubModel model{.name = "org/name"};
  for (const std::string& path : paths) model.files.push_back({.path = path});
  return model;
}

std::vector<std::string> Selected(const std::vector<std::string>& paths,
                                  const PullOptions& options = {}) {
  std::vector<std::string> names;
  for (const HubFile& file : SelectFiles(ModelOf(paths), options)) names.push_back(file.path);
  return names;
}

TEST(SelectFilesTest, TakesWhatTheEngineReads) {
  EXPECT_THAT(
      Selected({".gitattributes", "README.md", "LICENSE.txt", "config.json", "pytorch_model.bin",
                "model-00001-of-00002.safetensors", "model.safetensors.index.json",
                "consolidated.safetensors", "original/params.json", "onnx/model.onnx",
                "tokenizer.json", "tokenizer.model", "chat_template.jinja", "model.gguf",
                "modeling.py", "merges.txt", "img.png"}),
      ElementsAre("README.md", "LICENSE.txt", "config.json", "model-00001-of-00002.safetensors",
                  "model.safetensors.index.json", "tokenizer.json", "tokenizer.model",
                  "chat_template.jinja", "merges.txt"));
  EXPECT_THAT(Selected({"consolidated.safetensors"}), ElementsAre("consolidated.safetensors"));
}

TEST(SelectFilesTest, PatternsReplaceTheChoiceAndTakeAway) {
  const std::vector<std::string> files = {"config.json", "a.bin", "sub/b.bin", "c.safetensors"};
  EXPECT_THAT(Selected(files, {.include = {"*.bin"}}), ElementsAre("a.bin", "sub/b.bin"));
  EXPECT_THAT(Selected(files, {.include = {"*.bin"}, .exclude = {"sub/*"}}), ElementsAre("a.bin"));
  EXPECT_THAT(Selected(files, {.exclude = {"*.safetensors"}}), ElementsAre("config.json"));
  EXPECT_THROW(Selected(files, {.include = {"*.onnx"}}), Error);
}

TEST(SelectFilesTest, RefusesNamesThatLeadOutOfTheFolder) {
  for (const std::string path : {"../x.json", "a/../../x.json", "/etc/x.json", "a//b.json",
                                 "./x.json", "a/./b.json", "", "a/", "x\n.json", "..\\x.json"}) {
    EXPECT_THROW(Selected({"config.json", path}), Error) << path;
  }
  EXPECT_THROW(Selected({"config.json", std::string("x\0.json", 7)}), Error);
  EXPECT_THROW(Selected({"config.json", std::string(256, 'x')}), Error);
}

}  // namespace
}  // namespace sluice
