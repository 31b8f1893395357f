#include "bench/stream_answer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace sluice {
namespace {

using ::testing::HasSubstr;

constexpr char kCompletion[] =
    "data: {\"choices\":[{\"index\":0,\"text\":\"one\",\"finish_reason\":null}],\"usage\":null}\n\n"
    "data: {\"choices\":[{\"index\":0,\"text\":\" "
    "two\",\"finish_reason\":null}],\"usage\":null}\n\n"
    "data: "
    "{\"choices\":[{\"index\":0,\"text\":\"\",\"finish_reason\":\"stop\"}],\"usage\":null}\n\n"
    "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":7,\"completion_tokens\":4}}\n\n"
    "data: [DONE]\n\n";

RequestOutcome Read(std::string_view body) {
  RequestOutcome outcome;
  StreamAnswer answer(outcome);
  answer.Feed(body, 1.0);
  answer.Finish();
  return outcome;
}

std::string Event(const std::string& data) {
  return "data: " + data + "\n\n";
}

TEST(StreamAnswer, TakesTheTimesOfTextAndTheServersCounts) {
  RequestOutcome outcome{.prompt_tokens = 3};
  StreamAnswer answer(outcome);
  // One byte each tenth of a second, lines ended as some servers do.
  std::string body;
  for (const char c : std::string(kCompletion)) body += c == '\n' ? "\r\n" : std::string(1, c);
  std::vector<double> ends;  // of the events
  for (size_t i = 0; i < body.size(); ++i) {
    answer.Feed(std::string_view(body).substr(i, 1), 0.1 * static_cast<double>(i));
    if (std::string_view(body).substr(0, i + 1).ends_with("\r\n\r\n")) {
      ends.push_back(0.1 * static_cast<double>(i));
    }
  }
  answer.Finish();
  EXPECT_EQ(outcome.error, "");
  EXPECT_EQ(outcome.chunks_s, std::vector<double>({ends[0], ends[1]}));
  EXPECT_EQ(outcome.ended_s, ends[2]);
  EXPECT_EQ(outcome.prompt_tokens, 7);
  EXPECT_EQ(outcome.output_tokens, 4);
}

TEST(StreamAnswer, WhatOpensAChatIsNoToken) {
  RequestOutcome outcome{.prompt_tokens = 3};
  StreamAnswer answer(outcome);
  answer.Feed(Event(R"({"choices":[{"delta":{"role":"assistant","content":""}}]})"), 1.0);
  EXPECT_TRUE(outcome.chunks_s.empty());
  answer.Feed(": a comment\nevent: message\n", 1.5);
  answer.Feed(Event(R"({"choices":[{"delta":{"reasoning_content":"hm"}}]})"), 2.0);
  answer.Feed(Event(R"({"choices":[{"delta":{"content":"yes"}}]})"), 3.0);
  answer.Feed(Event(R"({"choices":[{"delta":{},"finish_reason":"length"}]})"), 4.0);
  answer.Finish();
  EXPECT_EQ(outcome.error, "");
  EXPECT_EQ(outcome.chunks_s, std::vector<double>({2.0, 3.0}));
  EXPECT_EQ(outcome.ended_s, 4.0);
  EXPECT_EQ(outcome.prompt_tokens, 3);  // as asked
  EXPECT_EQ(outcome.output_tokens, 2);  // the server does not count: pieces
}

TEST(StreamAnswer, TokensWhoseTextIsHeldBackArePieces) {
  RequestOutcome outcome;
  StreamAnswer answer(outcome);
  const std::string held = Event(R"({"choices":[{"text":"","finish_reason":null}]})");
  answer.Feed(held, 1.0);  // the answer begins with its first text
  answer.Feed(Event(R"({"choices":[{"text":"a","finish_reason":null}]})"), 2.0);
  answer.Feed(held, 3.0);
  answer.Feed(Event(R"({"choices":[{"text":"b","finish_reason":null}]})"), 4.0);
  answer.Feed(Event(R"({"choices":[{"text":"","finish_reason":"stop"}]})"), 5.0);
  answer.Finish();
  EXPECT_EQ(outcome.error, "");
  EXPECT_EQ(outcome.chunks_s, std::vector<double>({2.0, 3.0, 4.0}));
}

TEST(StreamAnswer, AnAnswerWithoutTextBeginsWithItsEnd) {
  const RequestOutcome outcome =
      Read(Event(R"({"choices":[{"text":"","finish_reason":"stop"}]})") + Event("[DONE]"));
  EXPECT_EQ(outcome.error, "");
  EXPECT_EQ(outcome.chunks_s.size(), 1u);
}

TEST(StreamAnswer, NamesWhatIsNotWhole) {
  const std::string begun = Event(R"({"choices":[{"text":"a","finish_reason":null}]})");
  EXPECT_THAT(Read(begun).error, HasSubstr("before its answer was whole"));
  EXPECT_THAT(Read("").error, HasSubstr("before its answer was whole"));
  EXPECT_THAT(Read(Event("[DONE]")).error, HasSubstr("no answer"));
  EXPECT_THAT(Read(begun + Event("{\"choices\":") + Event("[DONE]")).error,
              HasSubstr("no JSON object: {\"choices\":"));
  EXPECT_THAT(
      Read(begun + Event(R"({"error":{"message":"the step\nfailed"}})") + Event("[DONE]")).error,
      HasSubstr("with an error: the step failed"));
}

TEST(RefusalText, HasTheServersMessage) {
  EXPECT_EQ(RefusalText(429, R"({"error":{"message":"full","code":"queue"}})"), "HTTP 429: full");
  EXPECT_EQ(RefusalText(500, R"({"error":"broken"})"), "HTTP 500: broken");
  EXPECT_EQ(RefusalText(502, "<html>\nBad gateway"), "HTTP 502: <html> Bad gateway");
  EXPECT_EQ(RefusalText(503, ""), "HTTP 503");
  const std::string shortened = RefusalText(500, std::string(5000, 'x'));
  EXPECT_LT(shortened.size(), 400u);
  EXPECT_TRUE(shortened.ends_with("..."));
}

}  // namespace
}  // namespace sluice
