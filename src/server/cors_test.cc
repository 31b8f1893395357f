#include "server/cors.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"

namespace sluice {
namespace {

using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Key;
using ::testing::Not;
using ::testing::Pair;

constexpr char kAllowed[] = "Access-Control-Allow-Origin";

TEST(CorsTest, AnOriginByNameIsToldItselfAndOthersNothing) {
  const Cors cors({.origins = {"https://a.example", "http://localhost:3000"}});
  EXPECT_THAT(cors.Fields("http://localhost:3000"),
              ElementsAre(Pair("Vary", "Origin"), Pair(kAllowed, "http://localhost:3000"),
                          Pair("Access-Control-Expose-Headers", HasSubstr("Retry-After"))));
  for (const char* other :
       {"", "http://localhost", "https://a.example.evil", "https://b.example"}) {
    EXPECT_THAT(cors.Fields(other), ElementsAre(Pair("Vary", "Origin"))) << other;
  }
}

TEST(CorsTest, AnyOriginIsToldSo) {
  const Cors cors({.origins = {"*"}});
  EXPECT_THAT(cors.Fields("https://x.example"), Contains(Pair(kAllowed, "*")));
  EXPECT_THAT(cors.Fields(""), Not(Contains(Key(kAllowed))));
}

TEST(CorsTest, PreflightNamesWhatIsAllowed) {
  const Cors any({.origins = {"*"}});
  const HttpResponse answer = any.Preflight("https://x.example", "authorization,content-type");
  EXPECT_EQ(answer.status, 204);
  EXPECT_THAT(answer.headers, Contains(Pair("Access-Control-Allow-Methods", HasSubstr("POST"))));
  EXPECT_THAT(answer.headers,
              Contains(Pair("Access-Control-Allow-Headers", "authorization,content-type")));

  const Cors few({.origins = {"https://a.example"},
                  .methods = {"GET", "POST"},
                  .headers = {"Authorization", "X-A"},
                  .credentials = true});
  const HttpResponse narrow = few.Preflight("https://a.example", "x-b");
  EXPECT_THAT(narrow.headers, Contains(Pair("Access-Control-Allow-Methods", "GET, POST")));
  EXPECT_THAT(narrow.headers, Contains(Pair("Access-Control-Allow-Headers", "Authorization, X-A")));
  EXPECT_THAT(few.Fields("https://a.example"),
              Contains(Pair("Access-Control-Allow-Credentials", "true")));
  const HttpResponse refused = few.Preflight("https://b.example", "");
  EXPECT_EQ(refused.status, 403);
  EXPECT_THAT(refused.body, HasSubstr("--allowed-origins"));
}

TEST(CorsTest, RefusesWhatNoBrowserSends) {
  for (const char* origin : {"a.example", "https://a.example/", "https://a.example/chat", "",
                             "https://u:p@a.example", "https://a.example?x"}) {
    EXPECT_THROW(Cors({.origins = {origin}}), Error) << origin;
  }
  EXPECT_THROW(Cors({.origins = {"*"}, .credentials = true}), Error);
  EXPECT_NO_THROW(Cors({.origins = {"null"}}));
  EXPECT_NO_THROW(Cors({.origins = {"https://[::1]:8443"}}));
}

}  // namespace
}  // namespace sluice
