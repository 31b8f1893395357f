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
        Refusal{R"("cache_salt": 3)", "cache_salt", "string"},
        Refusal{R"("cache_salt": "")", "cache_salt", "from 1 to 1024 bytes, got 0"},
        Refusal{R"("temperature": "hot")", "temperature", "number, got a string"},
        Refusal{R"("temperature": true)", "temperature", "number"},
        Refusal{R"("temperature": -0.1)", "temperature", "at least 0"},
        Refusal{R"("temperature": 2.5)", "temperature", "at most 2"},
        Refusal{R"("temperature": 1e999)", "temperature", "at most 2"},
        Refusal{R"("top_p": 0)", "top_p", "above 0, got 0"},
        Refusal{R"("top_p": -1e-60)", "top_p", "above 0"},
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
        Refusal{R"("seed": 18446744073709551615)", "seed",
                "from -9223372036854775808 to 9223372036854775807, got 18446744073709551615"},
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
        Refusal{R"("stream": true, "stream_options": {"continuous_usage_stats": true})",
                "stream_options.continuous_usage_stats", "leave it out"},
        Refusal{R"("stream": true, "stream_options": {"include_usages": true})",
                "stream_options.include_usages", "did you mean stream_options.include_usage?"},
        Refusal{R"("response_format": {"type": "text", "strict": true})", "response_format.strict",
                "not supported"},
        Refusal{R"("user": 5)", "user", "string"},
        Refusal{R"("priority": "high")", "priority", "integer"},
        Refusal{R"("priority": 0.5)", "priority", "integer"},
        Refusal{R"("timeout": 0)", "timeout", "at least"},
        Refusal{R"("timeout": "1s")", "timeout", "number"},
        Refusal{R"("ignore_eos": 1)", "ignore_eos", "boolean"}));

// Fields of other servers and later APIs, which would change the answer.
INSTANTIATE_TEST_SUITE_P(
    UnreadFields, GenerationRefusals,
    ::testing::Values(
        Refusal{R"("guided_json": {"a": 1})", "guided_json", "not supported"},
        Refusal{R"("allowed_token_ids": [5])", "allowed_token_ids", "not supported"},
        Refusal{R"("regex": "[a-z]+")", "regex", "not supported"},
        Refusal{R"("json_schema": {"type": "object"})", "json_schema", "not supported"},
        Refusal{R"("grammar": "root ::= x")", "grammar", "not supported"},
        Refusal{R"("length_penalty": 1.5)", "length_penalty", "not supported"},
        Refusal{R"("no_repeat_ngram_size": 2)", "no_repeat_ngram_size", "not supported"},
        Refusal{R"("typical_p": 0.9)", "typical_p", "not supported"},
        Refusal{R"("prompt_embeds": "AAAA")", "prompt_embeds", "not supported"},
        Refusal{R"("prompt_logprobs": 0)", "prompt_logprobs", "not supported"},
        Refusal{R"("lora_name": "a")", "lora_name", "not supported"},
        Refusal{R"("return_token_ids": true)", "return_token_ids", "not supported"},
        Refusal{R"("function_call": {"name": "f"})", "function_call", "not supported"},
        Refusal{R"("thinking": {"type": "disabled"})", "thinking", "not supported"},
        Refusal{R"("reasoning_effort": "low")", "reasoning_effort", "not supported"},
        Refusal{R"("include_reasoning": false)", "include_reasoning", "not supported"},
        Refusal{R"("tools": [{"type": "function"}])", "tools", "not supported"},
        Refusal{R"("max_token": 5)", "max_token", "did you mean max_tokens?"},
        Refusal{R"("maxTokens": 5)", "maxTokens", "did you mean max_tokens?"},
        Refusal{R"("temprature": 0)", "temprature", "did you mean temperature?"},
        Refusal{R"("skip_special_token": false)", "skip_special_token",
                "did you mean skip_special_tokens?"},
        Refusal{R"("a_field_of_tomorrow": 1)", "a_field_of_tomorrow", "leave it out"}));

TEST(OpenaiSchemaTest, FieldsThatAskForNothingPass) {
  for (const std::string fields :
       {R"("priority": 0, "metadata": {"a": "b"}, "store": true, "service_tier": "flex")",
        R"("safety_identifier": "s", "prompt_cache_key": "k", "prompt_cache_retention": "24h")",
        R"("parallel_tool_calls": true, "a_field_of_tomorrow": null, "max_token": null)",
        R"("length_penalty": 1, "typical_p": 1.0, "no_repeat_ngram_size": 0, "detokenize": true)",
        R"("function_call": "none", "use_beam_search": false, "bad_words": [], "tools": [])",
        R"("stream": true, "stream_options": {"include_obfuscation": true})"}) {
    EXPECT_NO_THROW(ParseCompletionRequest(R"({"prompt": "x", )" + fields + "}", kContext))
        << fields;
    EXPECT_NO_THROW(ParseChatRequest(
        R"({"messages": [{"role": "user", "content": "x"}], )" + fields + "}", kContext))
        << fields;
  }
}

TEST(OpenaiSchemaTest, SpecialTokensAreAsked) {
  const std::string prompt = R"({"prompt": "x")";
  const std::string chat = R"({"messages": [{"role": "user", "content": "x"}])";
  EXPECT_TRUE(ParseCompletionRequest(prompt + "}", kContext).fields.add_special_tokens);
  EXPECT_FALSE(ParseChatRequest(chat + "}", kContext).fields.add_special_tokens);
  EXPECT_TRUE(ParseTokenizeRequest(prompt + "}", kContext).add_special_tokens);
  EXPECT_FALSE(ParseTokenizeRequest(chat + "}", kContext).add_special_tokens);
  const std::string no = R"(, "add_special_tokens": false})";
  EXPECT_FALSE(ParseCompletionRequest(prompt + no, kContext).fields.add_special_tokens);
  EXPECT_FALSE(ParseGenerateRequest(prompt + no, kContext).fields.add_special_tokens);
  EXPECT_FALSE(ParseTokenizeRequest(prompt + no, kContext).add_special_tokens);
  const std::string yes = R"(, "add_special_tokens": true})";
  EXPECT_TRUE(ParseChatRequest(chat + yes, kContext).fields.add_special_tokens);
  EXPECT_TRUE(ParseTokenizeRequest(chat + yes, kContext).add_special_tokens);
}

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
      {R"({"prompt": "x", "top_logprobs": 2})", "top_logprobs", "not supported"},
      {R"({"prompt": "x", "messages": [{}]})", "messages", "not supported"},
  };
  for (const Refusal& refusal : table)
    ExpectRefusal(ParseCompletionRequest, refusal.fields, refusal);
}

TEST(OpenaiSchemaTest, SmallEndpointsRefuseWhatTheyDoNotRead) {
  ExpectRefusal(ParseGenerateRequest, R"({"prompt": "x", "top_logprobs": 2})",
                {"", "top_logprobs", "not supported"});
  ExpectRefusal(ParseGenerateRequest, R"({"prompt": "x", "logprobs": 2})",
                {"", "logprobs", "not supported"});
  ExpectRefusal(ParseGenerateRequest, R"({"prompt": "x", "tools": [{}]})",
                {"", "tools", "not supported"});
  const std::string messages = R"({"messages": [{"role": "user", "content": "x"}], )";
  ExpectRefusal(ParseTokenizeRequest, messages + R"("tools": [{}]})",
                {"", "tools", "not supported"});
  ExpectRefusal(ParseTokenizeRequest, messages + R"("chat_template_kwargs": {"tools": []}})",
                {"", "chat_template_kwargs.tools", "a field of the request"});
  ExpectRefusal(ParseTokenizeRequest, R"({"prompt": "x", "chat_template_kwargs": {"a": 1}})",
                {"", "chat_template_kwargs", "not supported"});
  ExpectRefusal(ParseDetokenizeRequest, R"({"tokens": [1], "skip_special": true})",
                {"", "skip_special", "not supported"});
  EXPECT_TRUE(ParseDetokenizeRequest(R"({"tokens": [1], "skip_special_tokens": true})", kContext)
                  .skip_special_tokens);
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
      {R"({"messages": [{"role": "user", "content": [{"type": 1}]}]})",
       "messages[0].content[0].type", "got a number"},
      {R"({"messages": [{"role": "user", "content": [{"type": "text", "text": "x", "tex": 1}]}]})",
       "messages[0].content[0].tex", "did you mean messages[0].content[0].text?"},
      {R"({"messages": [{"role": "assistant", "content": null, "tool_calls": [{"id": "a"}]}]})",
       "messages[0].tool_calls", "messages[0].tool_calls is not supported"},
      {R"({"messages": [{"role": "user", "content": "x"},
                        {"role": "assistant", "content": "x", "function_call": {"name": "f"}}]})",
       "messages[1].function_call", "messages[1].function_call is not supported"},
      {R"({"messages": [{"role": "user", "content": "x", "contents": "y"}]})",
       "messages[0].contents", "did you mean messages[0].content?"},
      {R"({"messages": [{"role": "assistant", "content": "x", "reasoning_content": 1}]})",
       "messages[0].reasoning_content", "string, got a number"},
      {R"({"messages": [{"role": "user", "content": "x"}],
           "chat_template_kwargs": {"add_generation_prompt": false}})",
       "chat_template_kwargs.add_generation_prompt", "a field of the request"},
      {R"({"messages": [{"role": "user", "content": "x"}],
           "chat_template_kwargs": {"messages": []}})",
       "chat_template_kwargs.messages", "a field of the request"},
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
