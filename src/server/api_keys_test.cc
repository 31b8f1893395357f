#include "server/api_keys.h"

#include <gtest/gtest.h>

namespace sluice {
namespace {

TEST(ApiKeysTest, LetsInWhoeverHasOneOfThem) {
  const ApiKeys keys({"first secret", "second"});
  EXPECT_TRUE(keys.Allow("Bearer first secret"));
  EXPECT_TRUE(keys.Allow("bearer second"));
  EXPECT_TRUE(keys.Allow("BEARER second"));
  for (const char* wrong : {"", "Bearer", "Bearer ", "second", "Bearer secon", "Bearer second2",
                            "Bearer SECOND", "Bearer  second", "Basic second", "Bearer first"}) {
    EXPECT_FALSE(keys.Allow(wrong)) << wrong;
  }
}

TEST(ApiKeysTest, NoKeysLetEverybodyIn) {
  EXPECT_TRUE(ApiKeys({}).Allow(""));
  EXPECT_TRUE(ApiKeys({}).Allow("Bearer whatever"));
}

TEST(ApiKeysTest, AKeyThatNoRequestCanCarryIsAProblem) {
  for (const char* key : {"", " x", "x ", "a\nb", "a\x7f", "\t"}) {
    EXPECT_FALSE(ApiKeyProblem(key).empty()) << key;
  }
  for (const char* key : {"x", "sk-1234", "two words", "schl\xc3\xbcssel"}) {
    EXPECT_TRUE(ApiKeyProblem(key).empty()) << key;
  }
}

}  // namespace
}  // namespace sluice
