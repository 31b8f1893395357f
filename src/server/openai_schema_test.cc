#include "server/openai_schema.h"

#include <gtest/gtest.h>

#include "server/api_error.h"

namespace sluice {
namespace {

const SchemaContext kContext{.vocab_size = 4096,
                             .defaults = {.temperature = 0.8f, .top_p = 0.95f, .top_k = 20}};

struct Refusal {
  const char* fields;  // JSON members beside a good prompt or messages
  const char* param;
  const char* words;  // part of the message
};

class GenerationRefusals : public ::testing::TestWithParam<Refusal> {};

template <class Parse>
void ExpectRefusal(const Parse& parse, const std::string& body, const Refusal& wanted) {
  try {
    parse(body, kContext);
    ADD_FAILURE() << "accepted: " << body;
  } catch (const ApiError& error) {
    EXPECT_EQ(error.status(), 400) << body;
    EXPECT_EQ(error.param().value_or(""), wanted.param) << body << ": " << error.what();
    EXPECT_NE(std::string(error.what()).find(wanted.words), std::string::npos) << error.what();
  }
}

TEST_P(GenerationRefusals, BothApisNameTheField) {
  const Refusal& refusal = GetParam();
  ExpectRefusal(ParseCompletionRequest, R"({"prompt": "x", )" + std::string(refusal.fields) + "}",
                refusal);
  ExpectRefusal(
      ParseChatRequest,
      R"({"messages": [{"role": "user", "content": "x"}], )" + std::string(refusal.fields) + "}",
      refusal);
}

INSTANTIATE_TEST_SUITE_P(
    Table, GenerationRefusals,
    ::testing::Values(
        Refusal{R"("model": 3)", "model", "string"},
        Refusal{R"("temperature": "hot")", "temperature", "number, got a string"},
        Refusal{R"("temperature": true)", "temperature", "number"},
        Refusal{R"("temperature": -0.1)", "temperature", "at least 0"},
        Refusal{R"("temperature": 2.5)", "temperature", "at most 2"},
        Refusal{R"("temperature": 1e999)", "temperature", "at most 2"},
        Refusal{R"("top_p": 0)", "top_p", "at least"},
        Refusal{R"("top_p": 1.1)", "top_p", "at most"},
        Refusal{R"("top_k": -2)", "top_k", "at least -1"},
        Refusal{R"("top_k": 1.5)", "top_k", "integer"},
        Refusal{R"("min_p": 1.5)", "min_p", "at most 1"},
        Refusal{R"("repetition_penalty": 0)", "repetition_penalty", "at least"},
        Refusal{R"("presence_penalty": 3)", "presence_penalty", "at most 2"},
        Refusal{R"("frequency_penalty": -3)", "frequency_penalty", "at least -2"},
        Refusal{R"("n": 0)", "n", "at least 1"}, Refusal{R"("n": 129)", "n", "at most 128"},
        Refusal{R"("n": "1")", "n", "integer"},
        Refusal{R"("best_of": 2)", "best_of", "must equal n (1), got 2"},
        Refusal{R"("max_tokens": 0)", "max_tokens", "at least 1"},
        Refusal{R"("max_tokens": -1)", "max_tokens", "at least 0"},
        Refusal{R"("max_tokens": 1e12)", "max_tokens", "at most"},
        Refusal{R"("max_completion_tokens": [])", "max_completion_tokens", "integer, got an array"},
        Refusal{R"("max_tokens": 4, "min_tokens": 5)", "min_tokens", "max_tokens (4)"},
        Refusal{R"("seed": "abc")", "seed", "integer"},
        Refusal{R"("stop": 5)", "stop", "string or an array"},
        Refusal{R"("stop": ["a", 5])", "stop", "string or an array"},
        Refusal{R"("stop": [""])", "stop", "empty"},
        Refusal{R"("stop_token_ids": [4096])", "stop_token_ids", "4096"},
        Refusal{R"("stop_token_ids": ["a"])", "stop_token_ids", "token ids"},
        Refusal{R"("logit_bias": {"9999": 1})", "logit_bias", "9999"},
        Refusal{R"("logit_bias": {"x": 1})", "logit_bias", "'x'"},
        Refusal{R"("logit_bias": {"5": 101})", "logit_bias", "101"},
        Refusal{R"("logit_bias": [1])", "logit_bias", "object"},
        Refusal{R"("stream": "yes")", "stream", "boolean"},
        Refusal{R"("stream_options": {"include_usage": true})", "stream_options", "stream = true"},
        Refusal{R"("stream": true, "stream_options": {"include_usage": 1})",
                "stream_options.include_usage", "boolean"},
        Refusal{R"("response_format": {"type": "json_object"})", "response_format", "json_object"},
        Refusal{R"("ignore_eos": 1)", "ignore_eos", "boolean"},
        Refusal{R"("guided_json": {"a": 1})", "guided_json", "not supported"}));

TEST(OpenaiSchemaTest, CompletionRefusals) {
  const Refusal table[] = {
      {R"({})", "prompt", "missing"},
      {R"({"prompt": 5})", "prompt", "got a number"},
      {R"({"prompt": []})", "prompt", "empty"},
      {R"({"prompt": ["a", 1]})", "prompt", "got a number"},
      {R"({"prompt": [{}]})", "prompt", "got an object"},
      {R"({"prompt": [1, -1]})", "prompt", "-1"},
      {R"({"prompt": [[1], [4096]]})", "prompt", "4096"},
      {R"({"prompt": [[]]})", "prompt", "at least one token"},
      {R"({"prompt": "x", "logprobs": 21})", "logprobs", "at most 20"},
      {R"({"prompt": "x", "logprobs": true})", "logprobs", "integer"},
      {R"({"prompt": "x", "suffix": "y"})", "suffix", "not supported"},
      {R"({"prompt": "x", "echo": "y"})", "echo", "boolean"},
  };
  for (const Refusal& refusal : table)
    ExpectRefusal(ParseCompletionRequest, refusal.fields, refusal);
}

TEST(OpenaiSchemaTest, ChatRefusals) {
  const Refusal table[] = {
      {R"({})", "messages", "missing"},
      {R"({"messages": "hi"})", "messages", "array"},
      {R"({"messages": []})", "messages", "from 1"},
      {R"({"messages": ["hi"]})", "messages", "objects"},
      {R"({"messages": [{"content": "x"}]})", "messages[0].role", "got ''"},
      {R"({"messages": [{"role": "god", "content": "x"}]})", "messages[0].role", "'god'"},
      {R"({"messages": [{"role": "user"}]})", "messages[0].content", "needs content"},
      {R"({"messages": [{"role": "user", "content": 5}]})", "messages[0].content", "got a number"},
      {R"({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]})",
       "messages[0].content", "image_url"},
      {R"({"messages": [{"role": "user", "content": "x"}], "tools": [{"type": "function"}]})",
       "tools", "not supported"},
      {R"({"messages": [{"role": "user", "content": "x"}], "tool_choice": "required"})",
       "tool_choice", "got 'required'"},
      {R"({"messages": [{"role": "user", "content": "x"}],
           "tool_choice": {"type": "function", "function": {"name": "f"}}})",
       "tool_choice", "got an object"},
      {R"({"messages": [{"role": "user", "content": "x"}], "tool_choice": 1})", "tool_choice",
       "got a number"},
      {R"({"messages": [{"role": "user", "content": "x"}], "modalities": ["text", "audio"]})",
       "modalities", "'audio'"},
      {R"({"messages": [{"role": "user", "content": "x"}], "modalities": "text"})", "modalities",
       "got a string"},
      {R"({"messages": [{"role": "user", "content": "x"}], "top_logprobs": 2})", "top_logprobs",
       "logprobs = true"},
      {R"({"messages": [{"role": "user", "content": "x"}], "logprobs": 2})", "logprobs", "boolean"},
  };
  for (const Refusal& refusal : table) ExpectRefusal(ParseChatRequest, refusal.fields, refusal);
}

TEST(OpenaiSchemaTest, MalformedBodies) {
  const std::string deep = R"({"prompt": )" + std::string(100, '[') + std::string(100, ']') + "}";
  for (const std::string& body :
       {std::string(), std::string("{"), std::string("[]"), std::string("\"text\""),
        std::string(R"({"prompt": "x"} y)"), std::string("{\"prompt\": \"\xff\xfe\"}"),
        std::string(R"({"prompt": "\ud800"})"), deep}) {
    EXPECT_THROW(ParseCompletionRequest(body, kContext), ApiError) << body;
  }
}

TEST(OpenaiSchemaTest, DefaultsComeFromTheCheckpoint) {
  const auto request = ParseCompletionRequest(R"({"prompt": "x", "top_p": null})", kContext);
  EXPECT_FLOAT_EQ(request.fields.sampling.temperature, 0.8f);
  EXPECT_FLOAT_EQ(request.fields.sampling.top_p, 0.95f);
  EXPECT_EQ(request.fields.sampling.top_k, 20);
  EXPECT_FALSE(request.fields.max_tokens);
}

TEST(OpenaiSchemaTest, EveryFieldArrives) {
  const auto request = ParseCompletionRequest(
      R"({"model": "m", "prompt": ["a", "b"], "temperature": 0, "top_p": 0.5, "top_k": -1,
          "min_p": 0.1, "repetition_penalty": 1.2, "presence_penalty": -1, "frequency_penalty": 2,
          "n": 2, "best_of": 2, "max_tokens": 7.0, "min_tokens": 3, "seed": -1, "stop": ["x", "yz"],
          "stop_token_ids": [5], "logit_bias": {"7": -100}, "ignore_eos": true, "stream": true,
          "stream_options": {"include_usage": true}, "echo": true, "logprobs": 3, "user": "me",
          "response_format": {"type": "text"}})",
      kContext);
  const SamplingParams& sampling = request.fields.sampling;
  EXPECT_EQ(request.fields.model, "m");
  EXPECT_EQ(request.prompts.size(), 2u);
  EXPECT_EQ(sampling.temperature, 0.0f);
  EXPECT_EQ(sampling.top_k, 0);
  EXPECT_FLOAT_EQ(sampling.min_p, 0.1f);
  EXPECT_FLOAT_EQ(sampling.repetition_penalty, 1.2f);
  EXPECT_EQ(sampling.presence_penalty, -1.0f);
  EXPECT_EQ(sampling.frequency_penalty, 2.0f);
  EXPECT_EQ(sampling.n, 2);
  EXPECT_EQ(request.fields.max_tokens, 7);
  EXPECT_EQ(sampling.min_tokens, 3);
  EXPECT_EQ(sampling.seed, std::numeric_limits<uint64_t>::max());
  EXPECT_EQ(sampling.stop, (std::vector<std::string>{"x", "yz"}));
  EXPECT_EQ(sampling.stop_token_ids, std::vector<TokenId>{5});
  ASSERT_EQ(sampling.logit_bias.size(), 1u);
  EXPECT_EQ(sampling.logit_bias[0], (std::pair<TokenId, float>(7, -100.0f)));
  EXPECT_TRUE(sampling.ignore_eos);
  EXPECT_TRUE(request.fields.stream);
  EXPECT_TRUE(request.fields.include_usage);
  EXPECT_TRUE(request.echo);
  EXPECT_EQ(sampling.logprobs, 3);
  EXPECT_EQ(sampling.prompt_logprobs, 3);
}

TEST(OpenaiSchemaTest, PromptForms) {
  const auto prompts = [](const std::string& prompt) {
    return ParseCompletionRequest(R"({"prompt": )" + prompt + "}", kContext).prompts;
  };
  using Ids = std::vector<TokenId>;
  EXPECT_EQ(prompts(R"("a")"), std::vector<PromptInput>{std::string("a")});
  EXPECT_EQ(prompts(R"(["a", "b"])").size(), 2u);
  EXPECT_EQ(prompts("[1, 2]"), (std::vector<PromptInput>{Ids{1, 2}}));
  EXPECT_EQ(prompts("[[1], [2, 3]]"), (std::vector<PromptInput>{Ids{1}, Ids{2, 3}}));
}

TEST(OpenaiSchemaTest, MessagePartsAreJoined) {
  const auto request = ParseChatRequest(
      R"({"messages": [{"role": "developer", "content": "be brief"},
          {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}],
          "logprobs": true, "top_logprobs": 2, "tool_choice": "none", "modalities": ["text"]})",
      kContext);
  ASSERT_EQ(request.messages.size(), 2u);
  EXPECT_EQ(request.messages[0].role, "system");
  EXPECT_EQ(request.messages[1].content, "a\nb");
  EXPECT_FALSE(request.messages[0].content_json);
  EXPECT_EQ(request.messages[1].content_json,
            R"([{"type":"text","text":"a"},{"type":"text","text":"b"}])");
  EXPECT_EQ(request.fields.sampling.logprobs, 2);
}

TEST(OpenaiSchemaTest, ErrorBody) {
  EXPECT_EQ(ApiError(400, "no \"x\"", "x", "invalid_value").Body(),
            R"({"error":{"message":"no \"x\"","type":"invalid_request_error","param":"x",)"
            R"("code":"invalid_value"}})");
  EXPECT_EQ(ApiError::From(Error(ErrorCode::kResourceExhausted, "full")).status(), 429);
  EXPECT_STREQ(ApiError::From(Error(ErrorCode::kInternal, "x")).type(), "server_error");
}

}  // namespace
}  // namespace sluice
