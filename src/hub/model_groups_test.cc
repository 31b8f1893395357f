#include "hub/model_groups.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <sstream>

#include "base/error.h"
#include "hub/model_places.h"

namespace sluice {
namespace {

TEST(ModelGroupsTest, ReadsTheProjectsOwn) {
  std::ifstream file(SLUICE_SOURCE_DIR "/configs/groups.yaml");
  std::ostringstream text;
  text << file.rdbuf();
  const std::vector<ModelGroup> groups = ParseModelGroups(text.str(), "groups.yaml");
  const ModelGroup* group = FindGroup(groups, "single_gpu");
  ASSERT_NE(group, nullptr);
  EXPECT_GE(group->models.size(), 2u);
  for (const ModelGroup::Model& model : group->models) {
    EXPECT_NE(model.name.find('/'), std::string::npos);
    EXPECT_GT(model.gigabytes, 0);
  }
  EXPECT_EQ(FindGroup(groups, "none"), nullptr);
}

TEST(ModelGroupsTest, RefusesWhatIsNone) {
  for (const char* text : {"- a", "a: b", "a: {about: x}", "a: {about: x, models: {}}",
                           "a: {about: x, models: {../x: 1}}", "a: {about: x, models: {o/n: big}}",
                           "a: [", "a: {models: {o/n: 1}}"}) {
    EXPECT_THROW(ParseModelGroups(text, "test"), Error) << text;
  }
}

}  // namespace
}  // namespace sluice
