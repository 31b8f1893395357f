#include "server/http_head.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "server/api_error.h"

namespace sluice {
namespace {

using ::testing::HasSubstr;

constexpr std::string_view kHead = "GET /health HTTP/1.1\r\nHost: x\r\nX: \ty z\r\n\r\n";

// What a head is refused with, given whole and byte by byte: "STATUS message".
std::string Refusal(const std::string& input, size_t max_bytes = 1000) {
  std::string refusals[2];
  for (const bool in_pieces : {false, true}) {
    HeadScanner scanner(max_bytes);
    try {
      for (size_t size = in_pieces ? 1 : input.size(); size <= input.size(); ++size) {
        EXPECT_FALSE(scanner.Scan({input.data(), size})) << input;
      }
      refusals[in_pieces] = "none";
    } catch (const ApiError& error) {
      refusals[in_pieces] = std::to_string(error.status()) + " " + error.what();
    }
  }
  EXPECT_EQ(refusals[0], refusals[1]);
  return refusals[0];
}

TEST(HeadScannerTest, FindsTheEndHoweverTheBytesCome) {
  for (size_t first = 1; first <= kHead.size(); ++first) {
    const std::string input = std::string(kHead) + "body\r\n\r\n";
    HeadScanner scanner(kHead.size());
    const std::optional<size_t> early = scanner.Scan({input.data(), first});
    EXPECT_EQ(early.has_value(), first == kHead.size());
    if (early) continue;
    EXPECT_EQ(scanner.Scan(input), kHead.size());
  }
}

TEST(HeadScannerTest, RefusesWhatOthersMayReadInAnotherWay) {
  EXPECT_THAT(Refusal("GET / HTTP/1.1\nHost: x\n\n"),
              HasSubstr("400 malformed HTTP request: lines"));
  EXPECT_THAT(Refusal("GET / HTTP/1.1\rHost: x\r\r"), HasSubstr("lines must end in CR LF"));
  EXPECT_THAT(Refusal("GET / HTTP/1.1\r\nA: x\ry\r\n\r\n"), HasSubstr("lines must end in CR LF"));
  EXPECT_THAT(Refusal("GET / HTTP/1.1\r\nA: x\r\n y\r\n\r\n"), HasSubstr("on one line"));
  EXPECT_THAT(Refusal("GET / HTTP/1.1\r\n\ty: x\r\n\r\n"), HasSubstr("on one line"));
  EXPECT_THAT(Refusal(std::string("GET / HTTP/1.1\r\nA: \0\r\n\r\n", 24)), HasSubstr("byte 0x00"));
  EXPECT_THAT(Refusal("GET / HTTP/1.1\r\nA: \x7f\r\n\r\n"), HasSubstr("byte 0x7f"));
  EXPECT_THAT(Refusal("\x16\x03\x01\x02"), HasSubstr("byte 0x16"));  // TLS knocks at a plain door
}

TEST(HeadScannerTest, BoundsTheHead) {
  EXPECT_EQ(Refusal("GET /" + std::string(200, 'x'), 100),
            "414 the request's target is longer than 100 bytes");
  EXPECT_EQ(Refusal("GET / HTTP/1.1\r\nA: " + std::string(200, 'x'), 100),
            "431 the request's head is longer than 100 bytes");
  HeadScanner exact(kHead.size());
  EXPECT_EQ(exact.Scan(kHead), kHead.size());
  HeadScanner short_by_one(kHead.size() - 1);
  EXPECT_THROW(short_by_one.Scan(kHead), ApiError);
}

}  // namespace
}  // namespace sluice
