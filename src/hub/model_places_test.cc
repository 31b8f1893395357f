#include "hub/model_places.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <fstream>

#include "base/error.h"

namespace sluice {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

class ModelPlacesTest : public ::testing::Test {
 protected:
  ModelPlacesTest()
      : root_(fs::temp_directory_path() / ("sluice_places_" + std::to_string(getpid()))) {
    fs::remove_all(root_);
    fs::create_directories(root_);
    places_ = {.model_dir = root_ / "models", .hub_cache = root_ / "hub"};
  }
  ~ModelPlacesTest() override { fs::remove_all(root_); }

  fs::path Checkpoint(const fs::path& dir) {
    fs::create_directories(root_ / dir);
    std::ofstream(root_ / dir / "config.json") << "{}";
    return root_ / dir;
  }
  void Ref(const fs::path& folder, const std::string& name, const std::string& commit) {
    fs::create_directories((root_ / folder / "refs" / name).parent_path());
    std::ofstream(root_ / folder / "refs" / name) << commit;
  }
  std::string FailureOf(const std::string& text, const std::string& revision = "") {
    try {
      FindModel(text, revision, places_);
    } catch (const Error& error) {
      return error.what();
    }
    return "found";
  }

  fs::path root_;
  ModelPlaces places_;
};

TEST_F(ModelPlacesTest, NamesOfModels) {
  for (const char* good : {"a", "a/b", "Org-1/Name_2.5-x", "o.p/q"}) {
    EXPECT_TRUE(IsModelName(good)) << good;
  }
  for (const char* bad : {"", "/", "a/", "/a", "a/b/c", "../a", "a/..", ".", "a b", "-a", "a--b",
                          "a/b:c", "a\nb", "\xc3\xa9"}) {
    EXPECT_FALSE(IsModelName(bad)) << bad;
  }
  EXPECT_EQ(CacheFolderName("org/name"), "models--org--name");
  EXPECT_EQ(CacheFolderName("name"), "models--name");
}

TEST_F(ModelPlacesTest, PlainFoldersComeBeforeCaches) {
  const fs::path cached = Checkpoint("hub/models--org--name/snapshots/c1");
  Ref("hub/models--org--name", "main", "c1");
  EXPECT_EQ(FindModel("org/name", "", places_).dir, cached);
  const fs::path pulled = Checkpoint("models/models--org--name/snapshots/c2");
  Ref("models/models--org--name", "main", "c2\n");
  EXPECT_EQ(FindModel("org/name", "", places_).dir, pulled);
  const fs::path bare = Checkpoint("models/name");
  EXPECT_EQ(FindModel("org/name", "", places_).dir, bare);
  const fs::path full = Checkpoint("models/org/name");
  EXPECT_EQ(FindModel("org/name", "", places_).dir, full);
  EXPECT_EQ(FindModel("org/name", "", places_).name, "org/name");
  // A plain folder has no revisions: the caches have.
  EXPECT_EQ(FindModel("org/name", "main", places_).dir, pulled);
  EXPECT_EQ(FindModel("org/name", "c1", places_).dir, cached);
}

TEST_F(ModelPlacesTest, RevisionsAreRefsOrCommits) {
  const fs::path folder = "hub/models--org--name";
  const fs::path first = Checkpoint(folder / "snapshots/c1");
  EXPECT_EQ(FindModel("org/name", "", places_).dir, first);  // the only one
  const fs::path second = Checkpoint(folder / "snapshots/c2");
  EXPECT_THAT(FailureOf("org/name"), HasSubstr("sluice pull org/name"));
  Ref(folder, "refs/pr/1", "c2");
  EXPECT_EQ(FindModel("org/name", "refs/pr/1", places_).dir, second);
  Ref(folder, "main", "c3");  // not there
  EXPECT_THAT(FailureOf("org/name"), HasSubstr("sluice pull org/name"));
  EXPECT_THAT(FailureOf("org/name", "v9"), HasSubstr("--revision v9"));
  Ref(folder, "evil", "../../../models");
  EXPECT_THAT(FailureOf("org/name", "evil"), HasSubstr("no model"));
  EXPECT_THAT(FailureOf("org/name", "../snapshots/c1"), HasSubstr("no model"));
}

TEST_F(ModelPlacesTest, FoldersOfTheCacheOpen) {
  const fs::path snapshot = Checkpoint("hub/models--org--name/snapshots/c1");
  Ref("hub/models--org--name", "main", "c1");
  const fs::path folder = root_ / "hub/models--org--name";
  EXPECT_EQ(FindModel(folder.string(), "", places_).dir, snapshot);
  EXPECT_EQ(FindModel(folder.string(), "", places_).name, "org/name");
  EXPECT_EQ(FindModel(folder.string() + "/", "", places_).dir, snapshot);
  EXPECT_EQ(FindModel(snapshot.string(), "", places_).name, "org/name");
  EXPECT_THAT(FailureOf(folder.string(), "v2"), HasSubstr("v2"));
  const fs::path plain = Checkpoint("elsewhere/mine");
  EXPECT_EQ(FindModel(plain.string(), "", places_).name, "mine");
  EXPECT_THAT(FailureOf(plain.string(), "v2"), HasSubstr("no revisions"));
}

TEST_F(ModelPlacesTest, SaysWhereItLooked) {
  const std::string failure = FailureOf("org/name");
  EXPECT_THAT(failure, HasSubstr("sluice pull org/name"));
  EXPECT_THAT(failure, HasSubstr(places_.model_dir->string()));
  EXPECT_THAT(failure, HasSubstr(places_.hub_cache->string()));
  EXPECT_THAT(FailureOf("./no/such"), HasSubstr("not a folder"));
}

TEST_F(ModelPlacesTest, ListsWhatIsThere) {
  Checkpoint("models/plain");
  Checkpoint("models/org/inner");
  Checkpoint("models/models--a--b/snapshots/c1");
  Checkpoint("hub/models--c--d/snapshots/c1");
  fs::create_directories(root_ / "hub/models--e--f/snapshots");
  std::vector<std::string> names;
  for (const LocalModel& model : ListModels(places_)) names.push_back(model.name);
  EXPECT_THAT(names, ::testing::ElementsAre("a/b", "c/d", "org/inner", "plain"));
}

TEST_F(ModelPlacesTest, EnvironmentIsReadAsHuggingfaceHubDoes) {
  for (const char* name : {"MODEL_DIR", "HF_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME"})
    unsetenv(name);
  setenv("HOME", "/h", 1);
  EXPECT_EQ(ModelPlacesFromEnvironment().hub_cache, "/h/.cache/huggingface/hub");
  EXPECT_EQ(ModelPlacesFromEnvironment().model_dir, std::nullopt);
  setenv("XDG_CACHE_HOME", "/x", 1);
  EXPECT_EQ(ModelPlacesFromEnvironment().hub_cache, "/x/huggingface/hub");
  setenv("HF_HOME", "/f", 1);
  EXPECT_EQ(ModelPlacesFromEnvironment().hub_cache, "/f/hub");
  setenv("HF_HUB_CACHE", "/c", 1);
  EXPECT_EQ(ModelPlacesFromEnvironment().hub_cache, "/c");
  setenv("HF_HUB_CACHE", "", 1);
  EXPECT_EQ(ModelPlacesFromEnvironment().hub_cache, "/f/hub");
  setenv("MODEL_DIR", "/m", 1);
  EXPECT_EQ(ModelPlacesFromEnvironment().model_dir, "/m");
}

}  // namespace
}  // namespace sluice
