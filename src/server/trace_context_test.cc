#include "server/trace_context.h"

#include <gtest/gtest.h>

namespace sluice {
namespace {

const std::string kTrace = "4bf92f3577b34da6a3ce929d0e0e4736";
const std::string kParent = "00f067aa0ba902b7";

TEST(TraceContext, HasTheTraceIdOfAWellFormedField) {
  EXPECT_EQ(TraceIdOf("00-" + kTrace + "-" + kParent + "-01"), kTrace);
  EXPECT_EQ(TraceIdOf("cc-" + kTrace + "-" + kParent + "-01-more"), kTrace) << "a later version";
}

TEST(TraceContext, IgnoresWhatIsMalformed) {
  const std::string zeros(32, '0');
  std::string upper = kTrace;
  upper[1] = 'B';
  for (const std::string& field :
       {std::string(), std::string("00"), "00-" + kTrace + "-" + kParent,
        "00-" + zeros + "-" + kParent + "-01", "00-" + kTrace + "-0000000000000000-01",
        "00-" + upper + "-" + kParent + "-01", "ff-" + kTrace + "-" + kParent + "-01",
        "00-" + kTrace + "-" + kParent + "-01-more", "01-" + kTrace + "-" + kParent + "-01more",
        "0x-" + kTrace + "-" + kParent + "-01", "00-" + kTrace + "+" + kParent + "-01",
        "00-" + kTrace + "-" + kParent + "-0g"}) {
    EXPECT_EQ(TraceIdOf(field), "") << field;
  }
}

TEST(RequestId, IsANameAndNothingElse) {
  EXPECT_TRUE(IsRequestId("b6f9c1d2-8a1e"));
  EXPECT_TRUE(IsRequestId("Root=1-67891233:a/b.c_d+e@f"));
  EXPECT_TRUE(IsRequestId(std::string(128, 'x')));
  for (const std::string& id :
       {std::string(), std::string(129, 'x'), std::string("a b"), std::string("a\"b"),
        std::string("a\nb"), std::string("\xc3\xa9")}) {
    EXPECT_FALSE(IsRequestId(id)) << id;
  }
}

}  // namespace
}  // namespace sluice
