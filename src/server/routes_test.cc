#include "server/routes.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <boost/json.hpp>
#include <deque>
#include <fstream>
#include <map>
#include <set>
#include <sstream>

#include "server/fake_generator.h"
#include "server/trace_context.h"

namespace sluice {
namespace {

namespace json = boost::json;
using ::testing::HasSubstr;

// Gathers an answer. What other threads post runs in Await, on the test's thread.
class FakeWriter : public ResponseWriter {
 public:
  void AddField(std::string name, std::string value) override {
    fields[std::move(name)] = std::move(value);
  }
  void Send(HttpResponse response) override {
    sent = std::move(response);
    ++endings;
  }
  void StartStream(std::string_view content_type) override { stream_type = content_type; }
  void Write(std::string_view data) override { stream += data; }
  void EndStream() override { ++endings; }
  std::shared_ptr<Executor> executor() override { return queue_; }

  bool Await() {
    std::unique_lock lock(queue_->mutex);
    while (endings == 0) {
      if (!queue_->wake.wait_for(lock, std::chrono::seconds(10),
                                 [&] { return !queue_->functions.empty(); })) {
        return false;
      }
      const auto function = std::move(queue_->functions.front());
      queue_->functions.pop_front();
      lock.unlock();
      function();
      lock.lock();
    }
    return true;
  }

  json::object Body() const { return json::parse(sent.body).as_object(); }

  // The events' JSON; the last event must be [DONE].
  std::vector<json::object> Events() const {
    std::vector<json::object> events;
    std::string_view rest = stream;
    while (!rest.empty()) {
      const size_t end = rest.find("\n\n");
      EXPECT_NE(end, std::string_view::npos);
      const std::string_view event = rest.substr(0, end);
      EXPECT_TRUE(event.starts_with("data: "));
      rest.remove_prefix(end + 2);
      if (event == "data: [DONE]") {
        EXPECT_TRUE(rest.empty());
        return events;
      }
      events.push_back(json::parse({event.data() + 6, event.size() - 6}).as_object());
    }
    ADD_FAILURE() << "the stream does not end with [DONE]: " << stream;
    return events;
  }

  HttpResponse sent;
  std::map<std::string, std::string> fields;
  std::string stream_type;
  std::string stream;
  int endings = 0;

 private:
  struct Queue : Executor {
    void Post(std::function<void()> function) override {
      const std::lock_guard lock(mutex);
      functions.push_back(std::move(function));
      wake.notify_all();
    }

    std::mutex mutex;
    std::condition_variable wake;
    std::deque<std::function<void()>> functions;
  };
  const std::shared_ptr<Queue> queue_ = std::make_shared<Queue>();
};

constexpr char kTokenizerFile[] = SLUICE_SOURCE_DIR "/models/storyteller/tokenizer.json";

// The storyteller's tokenizer, which as a file's begins every text with <|endoftext|>.
std::unique_ptr<Tokenizer> TokenizerWithStart() {
  std::ostringstream text;
  text << std::ifstream(kTokenizerFile).rdbuf();
  json::value file = json::parse(text.str());
  file.as_object()["post_processor"] = json::parse(R"({"type": "TemplateProcessing",
      "single": [{"SpecialToken": {"id": "<|endoftext|>", "type_id": 0}},
                 {"Sequence": {"id": "A", "type_id": 0}}],
      "pair": [],
      "special_tokens": {"<|endoftext|>": {"id": "<|endoftext|>", "ids": [4093],
                                           "tokens": ["<|endoftext|>"]}}})");
  return Tokenizer::FromJson(json::serialize(file));
}

class RoutesTest : public ::testing::Test {
 protected:
  RoutesTest() { Remake(FakeGenerator::HashScript); }

  void Remake(FakeGenerator::Script script, const std::vector<std::string>& keys = {},
              std::chrono::microseconds round = {}) {
    routes_.reset();
    metrics_ = std::make_unique<Metrics>();
    generator_ = std::make_unique<FakeGenerator>(std::move(script), round);
    routes_ =
        std::make_unique<Routes>(ServedModel{.names = {"storyteller", "org/alias"},
                                             .tokenizer = *tokenizer_,
                                             .chat_template = &chat_,
                                             .generator = *generator_,
                                             .metrics = *metrics_,
                                             .max_model_len = 256,
                                             .resident_bytes = [] { return uint64_t{12345}; }},
                                 keys, "1.2.3", log_);
  }

  // Sequences that say `text`.
  FakeGenerator::Script Says(const std::string& text) const {
    return [ids = tokenizer_->Encode(text)](const Request&, int) { return ids; };
  }

  void Do(FakeWriter& writer, const std::string& method, const std::string& path,
          const std::string& body = "", const std::string& authorization = "") {
    Do(writer, {.method = method, .path = path, .authorization = authorization, .body = body});
  }
  void Do(FakeWriter& writer, HttpRequest request) {
    request.arrival = std::chrono::steady_clock::now();
    const auto exchange = routes_->Handle(std::move(request), writer);
    EXPECT_TRUE(writer.Await());
  }
  json::object Post(const std::string& path, const std::string& body, int status = 200) {
    FakeWriter writer;
    Do(writer, "POST", path, body);
    EXPECT_EQ(writer.sent.status, status) << writer.sent.body;
    return writer.Body();
  }
  std::vector<json::object> Stream(const std::string& path, const std::string& body) {
    FakeWriter writer;
    Do(writer, "POST", path, body);
    EXPECT_EQ(writer.stream_type, "text/event-stream; charset=utf-8");
    return writer.Events();
  }

  static std::string Text(const json::value& value) { return std::string(value.as_string()); }

  std::unique_ptr<Tokenizer> tokenizer_ = Tokenizer::Load(kTokenizerFile);
  ChatTemplate chat_ = ChatTemplate::Parse(kChatMlTemplate);
  std::unique_ptr<Metrics> metrics_;
  std::unique_ptr<FakeGenerator> generator_;
  const RequestLog log_{/*prompts=*/false};
  std::unique_ptr<Routes> routes_;
};

TEST_F(RoutesTest, WholeCompletion) {
  Remake(Says(" there was a fox"));
  const json::object answer =
      Post("/v1/completions", R"({"model": "storyteller", "prompt": "Once", "max_tokens": 50})");
  const json::object& choice = answer.at("choices").at(0).as_object();
  EXPECT_EQ(Text(answer.at("object")), "text_completion");
  EXPECT_EQ(Text(choice.at("text")), " there was a fox");
  EXPECT_EQ(Text(choice.at("finish_reason")), "stop");
  EXPECT_TRUE(choice.at("logprobs").is_null());
  const int64_t prompt = static_cast<int64_t>(tokenizer_->Encode("Once").size());
  const int64_t made = static_cast<int64_t>(tokenizer_->Encode(" there was a fox").size()) + 1;
  EXPECT_EQ(answer.at("usage").at("prompt_tokens").as_int64(), prompt);
  EXPECT_EQ(answer.at("usage").at("completion_tokens").as_int64(), made);
  EXPECT_EQ(answer.at("usage").at("total_tokens").as_int64(), prompt + made);
}

TEST_F(RoutesTest, UsageSaysWhatWasCachedOfEachPrompt) {
  const auto cached = [](const json::object& answer) {
    return answer.at("usage").at("prompt_tokens_details").at("cached_tokens").as_int64();
  };
  EXPECT_EQ(cached(Post("/v1/completions", R"({"prompt": [[5, 6, 7, 8], [9, 8]], "n": 3})")), 3);
  Post("/v1/chat/completions",
       R"({"messages": [{"role": "user", "content": "Once"}], "cache_salt": "mine"})");
  EXPECT_EQ(generator_->submitted().front().cache_salt, "");
  EXPECT_EQ(generator_->submitted().back().cache_salt, "mine");
  const auto events = Stream("/v1/completions",
                             R"({"prompt": [5, 6, 7, 8], "cache_salt": "x", "stream": true,
                                 "stream_options": {"include_usage": true}})");
  EXPECT_EQ(cached(events.back()), 2);
  EXPECT_EQ(generator_->submitted().back().cache_salt, "x");
}

TEST_F(RoutesTest, CompletionsDefaultTo16TokensAndChatToTheContext) {
  Post("/v1/completions", R"({"prompt": "Once"})");
  Post("/v1/chat/completions", R"({"messages": [{"role": "user", "content": "Once"}]})");
  const std::vector<Request> requests = generator_->submitted();
  EXPECT_EQ(requests[0].sampling.max_tokens, 16);
  EXPECT_EQ(requests[1].sampling.max_tokens, 256 - static_cast<int>(requests[1].prompt.size()));
}

TEST_F(RoutesTest, StreamsGiveTheSameTextAsWholeAnswers) {
  const std::string common = R"("prompt": ["Once", "Twice"], "n": 2, "seed": 5, "max_tokens": 40)";
  const json::object whole = Post("/v1/completions", "{" + common + "}");
  std::map<int64_t, std::string> streamed;
  std::map<int64_t, std::string> reasons;
  for (const json::object& event :
       Stream("/v1/completions", "{" + common + R"(, "stream": true})")) {
    const json::value& choice = event.at("choices").at(0);
    streamed[choice.at("index").as_int64()] += Text(choice.at("text"));
    if (!choice.at("finish_reason").is_null()) {
      reasons[choice.at("index").as_int64()] = Text(choice.at("finish_reason"));
    }
  }
  ASSERT_EQ(whole.at("choices").as_array().size(), 4u);
  for (const json::value& choice : whole.at("choices").as_array()) {
    EXPECT_EQ(streamed[choice.at("index").as_int64()], Text(choice.at("text")));
    EXPECT_EQ(reasons[choice.at("index").as_int64()], Text(choice.at("finish_reason")));
  }
}

TEST_F(RoutesTest, StopStringEndsTheSequenceInTheEngine) {
  Remake(Says("one two three four five six seven eight nine ten"));
  const json::object answer =
      Post("/v1/completions", R"({"prompt": "x", "max_tokens": 100, "stop": "hree f"})");
  EXPECT_EQ(Text(answer.at("choices").at(0).at("text")), "one two t");
  EXPECT_EQ(Text(answer.at("choices").at(0).at("finish_reason")), "stop");
  EXPECT_EQ(generator_->ended_sequences(), 1u);
  const auto used = answer.at("usage").at("completion_tokens").as_int64();
  const auto ids = tokenizer_->Encode("one two three four five six seven eight nine ten");
  EXPECT_NE(tokenizer_->Decode(std::span(ids).first(used), true).find("hree f"), std::string::npos);
  EXPECT_EQ(tokenizer_->Decode(std::span(ids).first(used - 1), true).find("hree f"),
            std::string::npos);
}

TEST_F(RoutesTest, ReasoningReachesTheTemplate) {
  chat_ = ChatTemplate::Parse(
      "{% for m in messages %}[{{ m.reasoning_content }}|{{ m.content }}]{% endfor %}");
  const std::string messages =
      R"("messages": [{"role": "assistant", "content": "4", "reasoning_content": "2+2"}])";
  Post("/v1/chat/completions", "{" + messages + "}");
  EXPECT_EQ(tokenizer_->Decode(generator_->submitted().at(0).prompt, false), "[2+2|4]");
  const json::object tokens = Post("/tokenize", "{" + messages + "}");
  EXPECT_EQ(tokens.at("count").to_number<size_t>(), generator_->submitted().at(0).prompt.size());
}

TEST_F(RoutesTest, CompletionLogprobs) {
  Remake(Says("ab cd"));
  const json::object answer =
      Post("/v1/completions", R"({"prompt": "x y", "max_tokens": 9, "logprobs": 2, "echo": true})");
  const json::value& choice = answer.at("choices").at(0);
  EXPECT_EQ(Text(choice.at("text")), "x yab cd");
  const json::object& logprobs = choice.at("logprobs").as_object();
  const size_t tokens = tokenizer_->Encode("x y").size() + tokenizer_->Encode("ab cd").size() + 1;
  for (const char* name : {"tokens", "token_logprobs", "top_logprobs", "text_offset"}) {
    EXPECT_EQ(logprobs.at(name).as_array().size(), tokens) << name;
  }
  EXPECT_TRUE(logprobs.at("token_logprobs").at(0).is_null());
  EXPECT_TRUE(logprobs.at("top_logprobs").at(0).is_null());
  EXPECT_DOUBLE_EQ(logprobs.at("token_logprobs").at(1).as_double(), -0.5);
  EXPECT_EQ(logprobs.at("top_logprobs").at(1).as_object().size(), 2u);
  // Each token stands where its offset says.
  const std::string text = Text(choice.at("text"));
  for (size_t i = 0; i + 1 < tokens; ++i) {
    const std::string token = Text(logprobs.at("tokens").at(i));
    const auto offset = static_cast<size_t>(logprobs.at("text_offset").at(i).as_int64());
    EXPECT_EQ(text.substr(offset, token.size()), token);
  }
  EXPECT_EQ(Text(logprobs.at("tokens").at(tokens - 1)), "<|im_end|>");
}

TEST_F(RoutesTest, ThePromptAloneCanBeScored) {
  const json::object answer =
      Post("/v1/completions",
           R"({"prompt": "once upon", "max_tokens": 0, "logprobs": 0, "echo": true})");
  EXPECT_EQ(Text(answer.at("choices").at(0).at("text")), "once upon");
  EXPECT_EQ(Text(answer.at("choices").at(0).at("finish_reason")), "length");
  EXPECT_EQ(answer.at("usage").at("completion_tokens").as_int64(), 0);
  EXPECT_EQ(answer.at("choices").at(0).at("logprobs").at("tokens").as_array().size(),
            tokenizer_->Encode("once upon").size());
}

TEST_F(RoutesTest, ChatPromptsAreRendered) {
  Post("/v1/chat/completions", R"({"messages": [{"role": "developer", "content": "be brief"},
       {"role": "user", "content": "hi"}], "chat_template_kwargs": {"enable_thinking": false}})");
  const std::string prompt = tokenizer_->Decode(generator_->submitted().at(0).prompt, false);
  EXPECT_THAT(prompt, HasSubstr("<|im_start|>system\nbe brief<|im_end|>"));
  EXPECT_TRUE(prompt.ends_with("<|im_start|>assistant\n")) << prompt;
}

TEST_F(RoutesTest, WholeChatWithLogprobs) {
  Remake(Says("hé"));
  const json::object answer = Post(
      "/v1/chat/completions",
      R"({"messages": [{"role": "user", "content": "x"}], "logprobs": true, "top_logprobs": 2})");
  const json::value& choice = answer.at("choices").at(0);
  EXPECT_EQ(Text(answer.at("object")), "chat.completion");
  EXPECT_EQ(Text(choice.at("message").at("role")), "assistant");
  EXPECT_EQ(Text(choice.at("message").at("content")), "hé");
  std::string bytes;
  for (const json::value& token : choice.at("logprobs").at("content").as_array()) {
    EXPECT_EQ(token.at("top_logprobs").as_array().size(), 2u);
    for (const json::value& byte : token.at("bytes").as_array()) {
      bytes += static_cast<char>(byte.to_number<int>());
    }
  }
  EXPECT_EQ(bytes, "hé<|im_end|>");
}

TEST_F(RoutesTest, ChatStreamWithUsage) {
  Remake(Says("The fox slept."));
  const auto events =
      Stream("/v1/chat/completions", R"({"messages": [{"role": "user", "content": "x"}],
             "stream": true, "stream_options": {"include_usage": true}})");
  EXPECT_EQ(Text(events.front().at("choices").at(0).at("delta").at("role")), "assistant");
  std::string text;
  for (size_t i = 0; i + 1 < events.size(); ++i) {
    EXPECT_TRUE(events[i].at("usage").is_null());
    EXPECT_EQ(Text(events[i].at("object")), "chat.completion.chunk");
    const json::object& delta = events[i].at("choices").at(0).at("delta").as_object();
    if (delta.contains("content")) text += Text(delta.at("content"));
  }
  EXPECT_EQ(text, "The fox slept.");
  EXPECT_EQ(Text(events[events.size() - 2].at("choices").at(0).at("finish_reason")), "stop");
  EXPECT_TRUE(events.back().at("choices").as_array().empty());
  EXPECT_EQ(events.back().at("usage").at("completion_tokens").as_int64(),
            static_cast<int64_t>(tokenizer_->Encode("The fox slept.").size()) + 1);
}

TEST_F(RoutesTest, Generate) {
  Remake(Says(" a fox"));
  const json::object answer = Post("/v1/generate", R"({"prompt": "Once", "max_tokens": 30})");
  EXPECT_EQ(Text(answer.at("text")), " a fox");
  EXPECT_GE(answer.at("latency_ms").as_double(), answer.at("ttft_ms").as_double());
  EXPECT_GT(answer.at("ttft_ms").as_double(), 0);
  EXPECT_EQ(answer.at("tokens").at("prompt").to_number<size_t>(),
            tokenizer_->Encode("Once").size());
  EXPECT_EQ(answer.at("memory").at("resident_bytes").to_number<int>(), 12345);
  EXPECT_EQ(answer.at("memory").at("kv_pages_total").as_int64(), 1000);

  const auto events = Stream("/v1/generate_stream", R"({"prompt": "Once", "max_tokens": 30})");
  std::string text;
  for (const json::object& event : events) text += Text(event.at("text"));
  EXPECT_EQ(text, " a fox");
  EXPECT_EQ(Text(events.back().at("finish_reason")), "stop");
  EXPECT_TRUE(events.back().contains("memory"));
}

TEST_F(RoutesTest, AStreamGoesOnWhileItsTextIsHeldBack) {
  const std::string fox = "\xF0\x9F\xA6\x8A";  // of several tokens, none of them a character
  const size_t tokens = tokenizer_->Encode(fox).size();
  ASSERT_GT(tokens, 2u);
  Remake(Says(fox));
  const auto events = Stream("/v1/completions", R"({"prompt": "Once", "stream": true})");
  ASSERT_EQ(events.size(), tokens + 1);
  std::string text;
  for (size_t i = 0; i < events.size(); ++i) {
    const json::value& choice = events[i].at("choices").at(0);
    EXPECT_EQ(choice.at("finish_reason").is_null(), i < tokens);
    text += Text(choice.at("text"));
    EXPECT_EQ(text, i + 1 < tokens ? "" : fox);
  }
  const auto chat = Stream("/v1/chat/completions",
                           R"({"messages": [{"role": "user", "content": "x"}], "stream": true})");
  ASSERT_EQ(chat.size(), tokens + 2);
  EXPECT_EQ(Text(chat[1].at("choices").at(0).at("delta").at("content")), "");
}

TEST_F(RoutesTest, PromptsLongerThanTheContextAreRefusedWithBothNumbers) {
  std::string ids = "[1";
  for (int i = 1; i < 300; ++i) ids += ", 1";
  const json::object refused =
      Post("/v1/completions", R"({"prompt": )" + ids + R"(], "max_tokens": 5})", 400);
  const json::value& error = refused.at("error");
  EXPECT_EQ(Text(error.at("code")), "context_length_exceeded");
  EXPECT_THAT(Text(error.at("message")), HasSubstr("maximum context length is 256 tokens"));
  EXPECT_THAT(Text(error.at("message")), HasSubstr("requested 305 tokens (300 in the prompt, 5"));
  Post("/v1/completions", R"({"prompt": "x", "max_tokens": 256})", 400);
  Post("/v1/completions", R"({"prompt": "x", "max_tokens": 255})", 200);
  Post("/v1/completions", R"({"prompt": ""})", 400);
}

TEST_F(RoutesTest, PathsMethodsAndModels) {
  struct Case {
    const char* method;
    const char* path;
    const char* body;
    int status;
    const char* code;
  };
  const Case cases[] = {
      {"GET", "/nowhere", "", 404, "not_found"},
      {"GET", "/v1/models/", "", 404, "not_found"},
      {"GET", "/v1/completions", "", 405, "method_not_allowed"},
      {"DELETE", "/v1/models", "", 405, "method_not_allowed"},
      {"GET", "/v1/models/other", "", 404, "model_not_found"},
      {"POST", "/v1/completions", R"({"model": "other", "prompt": "x"})", 404, "model_not_found"},
      {"POST", "/v1/chat/completions",
       R"({"model": "other", "messages": [{"role": "user", "content": "x"}]})", 404,
       "model_not_found"},
      {"POST", "/v1/completions", "{", 400, "invalid_json"},
  };
  for (const Case& test : cases) {
    FakeWriter writer;
    Do(writer, test.method, test.path, test.body);
    EXPECT_EQ(writer.sent.status, test.status) << test.path;
    const json::object error = writer.Body().at("error").as_object();
    EXPECT_EQ(Text(error.at("code")), test.code) << test.path;
    EXPECT_EQ(Text(error.at("type")), "invalid_request_error");
    EXPECT_TRUE(error.contains("param"));
  }
  EXPECT_TRUE(generator_->submitted().empty());
}

TEST_F(RoutesTest, SmallPages) {
  FakeWriter models, model, health, version, metrics, options, head;
  Do(models, "GET", "/v1/models");
  EXPECT_EQ(models.Body().at("data").as_array().size(), 2u);
  Do(model, "GET", "/v1/models/org/alias");
  EXPECT_EQ(Text(model.Body().at("id")), "org/alias");
  Do(health, "GET", "/health");
  EXPECT_EQ(health.sent.status, 200);
  Do(version, "GET", "/version");
  EXPECT_EQ(Text(version.Body().at("version")), "1.2.3");
  Do(metrics, "GET", "/metrics");
  EXPECT_THAT(metrics.sent.body,
              HasSubstr("sluice:http_requests_total{handler=\"/v1/models/\"} 1"));
  Do(options, "OPTIONS", "/v1/completions");
  EXPECT_EQ(options.sent.status, 204);
  Do(head, "HEAD", "/health");
  EXPECT_EQ(head.sent.status, 200);
}

TEST_F(RoutesTest, TokenizeAndBack) {
  const json::object answer =
      Post("/tokenize", R"({"prompt": "naïve fox", "return_token_strs": true})");
  EXPECT_EQ(answer.at("count").to_number<size_t>(), tokenizer_->Encode("naïve fox").size());
  EXPECT_EQ(answer.at("token_strs").as_array().size(), answer.at("tokens").as_array().size());
  const std::string tokens = json::serialize(answer.at("tokens"));
  EXPECT_EQ(Text(Post("/detokenize", R"({"tokens": )" + tokens + "}").at("prompt")), "naïve fox");
  Post("/detokenize", R"({"tokens": [4096]})", 400);
  const std::string special = json::serialize(json::array{tokenizer_->Encode("<|im_end|>").at(0)});
  EXPECT_EQ(Text(Post("/detokenize", R"({"tokens": )" + special + "}").at("prompt")), "<|im_end|>");
  EXPECT_EQ(Text(Post("/detokenize", R"({"skip_special_tokens": true, "tokens": )" + special + "}")
                     .at("prompt")),
            "");
}

TEST_F(RoutesTest, SpecialTokensAreAddedAsAsked) {
  tokenizer_ = TokenizerWithStart();
  Remake(FakeGenerator::HashScript);
  const std::string prompt = R"({"prompt": "fox")";
  const std::string chat = R"({"messages": [{"role": "user", "content": "fox"}])";
  for (const auto& [path, body, starts] : std::vector<std::tuple<std::string, std::string, bool>>{
           {"/v1/completions", prompt, true},
           {"/v1/completions", prompt + R"(, "add_special_tokens": false)", false},
           {"/v1/generate", prompt, true},
           {"/v1/generate", prompt + R"(, "add_special_tokens": false)", false},
           {"/v1/chat/completions", chat, false},
           {"/v1/chat/completions", chat + R"(, "add_special_tokens": true)", true}}) {
    Post(path, body + "}");
    EXPECT_EQ(generator_->submitted().back().prompt.at(0) == 4093, starts) << path << body;
  }
  for (const auto& [body, starts] : std::vector<std::pair<std::string, bool>>{
           {prompt, true},
           {prompt + R"(, "add_special_tokens": false)", false},
           {chat, false},
           {chat + R"(, "add_special_tokens": true)", true}}) {
    const json::object answer = Post("/tokenize", body + "}");
    EXPECT_EQ(answer.at("tokens").at(0).to_number<int>() == 4093, starts) << body;
  }
}

TEST_F(RoutesTest, TokenizeTakesTheTemplatesVariables) {
  chat_ = ChatTemplate::Parse("{{ messages[0].content }}{% if loud %}!!!{% endif %}");
  const std::string messages = R"({"messages": [{"role": "user", "content": "fox"}])";
  const json::object loud =
      Post("/tokenize", messages + R"(, "chat_template_kwargs": {"loud": true}})");
  EXPECT_EQ(loud.at("count").to_number<size_t>(), tokenizer_->Encode("fox!!!").size());
  EXPECT_EQ(Post("/tokenize", messages + "}").at("count").to_number<size_t>(),
            tokenizer_->Encode("fox").size());
}

TEST_F(RoutesTest, KeysAreAsked) {
  Remake(FakeGenerator::HashScript, {"secret", "second"});
  for (const auto& [authorization, status] :
       std::vector<std::pair<std::string, int>>{{"", 401},
                                                {"Bearer wrong!", 401},
                                                {"secret", 401},
                                                {"Bearer secret", 200},
                                                {"bearer secret", 200},
                                                {"BEARER wrong!", 401},
                                                {"Bearer", 401},
                                                {"Bearer second", 200}}) {
    FakeWriter writer;
    Do(writer, "GET", "/v1/models", "", authorization);
    EXPECT_EQ(writer.sent.status, status) << authorization;
  }
  FakeWriter health;
  Do(health, "GET", "/health");
  EXPECT_EQ(health.sent.status, 200);
}

TEST_F(RoutesTest, HealthTellsOfALostWorkerAndWhetherToTryAgain) {
  using Headers = std::vector<std::pair<std::string, std::string>>;
  for (const bool restarting : {false, true}) {
    generator_->Lose("step 7: a kernel failed on CUDA device 0", restarting);
    FakeWriter health;
    Do(health, "GET", "/health");
    EXPECT_EQ(health.sent.status, 503);
    EXPECT_THAT(health.sent.body, testing::HasSubstr("step 7: a kernel failed on CUDA device 0"));
    EXPECT_EQ(health.sent.headers, restarting ? Headers({{"Retry-After", "5"}}) : Headers());
  }
}

TEST_F(RoutesTest, AFullQueueRefusesBeforeAnythingIsParsed) {
  generator_->FillQueue();
  for (const char* path :
       {"/v1/completions", "/v1/chat/completions", "/v1/generate", "/v1/generate_stream"}) {
    FakeWriter writer;
    Do(writer, "POST", path, "no JSON");
    EXPECT_EQ(writer.sent.status, 429);
    EXPECT_EQ(Text(writer.Body().at("error").at("type")), "rate_limit_error");
    EXPECT_THAT(writer.sent.headers, testing::ElementsAre(testing::Pair("Retry-After", "1")));
    EXPECT_FALSE(writer.sent.close);
  }
  EXPECT_TRUE(generator_->submitted().empty());
  FakeWriter tokens;
  Do(tokens, "POST", "/tokenize", R"({"prompt": "x"})");
  EXPECT_EQ(tokens.sent.status, 200) << "what needs no engine is answered";
  FakeWriter page;
  Do(page, "GET", "/metrics");
  EXPECT_THAT(page.sent.body, HasSubstr("sluice:requests_refused_total{reason=\"full\"} 4"));
}

TEST_F(RoutesTest, ADrainingServerTakesNothingNewAndFinishesTheRest) {
  Remake(FakeGenerator::HashScript, {}, std::chrono::milliseconds(2));
  FakeWriter running;
  const auto exchange = routes_->Handle(
      {.method = "POST",
       .path = "/v1/completions",
       .body = R"({"prompt": "x", "max_tokens": 20, "stream": true, "ignore_eos": true})"},
      running);
  routes_->Drain();
  for (const auto& [method, path] : {std::pair{"GET", "/health"}, {"POST", "/v1/completions"}}) {
    FakeWriter writer;
    Do(writer, method, path, R"({"prompt": "x"})");
    EXPECT_EQ(writer.sent.status, 503);
    EXPECT_TRUE(writer.sent.close);
    EXPECT_THAT(writer.sent.body, HasSubstr("draining"));
  }
  EXPECT_TRUE(running.Await());
  EXPECT_GE(running.Events().size(), 20u);
}

TEST_F(RoutesTest, EveryAnswerHasARequestsId) {
  std::set<std::string> made;
  for (const char* given : {"", "a b", "mine-1"}) {
    for (const char* path : {"/v1/completions", "/v1/models", "/nowhere"}) {
      FakeWriter writer;
      Do(writer, {.method = "POST",
                  .path = path,
                  .request_id = given,
                  .body = R"({"prompt": "x", "stream": true})"});
      const std::string id = writer.fields["X-Request-Id"];
      if (std::string(given) == "mine-1") {
        EXPECT_EQ(id, given);
      } else {
        EXPECT_TRUE(IsRequestId(id)) << id;
        EXPECT_TRUE(made.insert(id).second) << id << " twice";
      }
    }
  }
}

TEST_F(RoutesTest, StepsAreShownWithTheirTimes) {
  StepTiming timing{.step = 41, .sequences = 3, .prefill_rows = 100, .decode_rows = 2};
  timing.phases[static_cast<size_t>(StepPhase::kCollect)] = std::chrono::microseconds(1500);
  generator_->SetSteps({timing, {.step = 42, .failed = true}});
  FakeWriter writer;
  Do(writer, "GET", "/debug/steps");
  const json::object body = writer.Body();
  const json::array& steps = body.at("steps").as_array();
  ASSERT_EQ(steps.size(), 2u);
  EXPECT_EQ(steps[0].at("step").to_number<int>(), 41);
  EXPECT_EQ(steps[0].at("rows").to_number<int>(), 102);
  EXPECT_EQ(steps[0].at("prefill_rows").to_number<int>(), 100);
  EXPECT_EQ(steps[0].at("collect_us").to_number<double>(), 1500.0);
  EXPECT_EQ(steps[0].at("plan_us").to_number<double>(), 0.0);
  EXPECT_TRUE(steps[1].at("failed").as_bool());
}

TEST_F(RoutesTest, WhatTheEngineRefusesBecomesAStatus) {
  for (const auto& [code, status] :
       std::vector<std::pair<ErrorCode, int>>{{ErrorCode::kInvalidArgument, 400},
                                              {ErrorCode::kResourceExhausted, 429},
                                              {ErrorCode::kUnavailable, 503},
                                              {ErrorCode::kInternal, 500}}) {
    generator_->RefuseWith(Error(code, "because"));
    const json::object body = Post("/v1/completions", R"({"prompt": "x", "stream": true})", status);
    EXPECT_EQ(Text(body.at("error").at("message")), "because");
  }
}

TEST_F(RoutesTest, AFailedStepIsReported) {
  generator_->FailStep("matrix fell over");
  const json::object body = Post("/v1/completions", R"({"prompt": "x"})", 500);
  EXPECT_THAT(Text(body.at("error").at("message")), HasSubstr("matrix fell over"));
  generator_->FailStep("again");
  const auto events = Stream("/v1/completions", R"({"prompt": "x", "stream": true})");
  EXPECT_EQ(Text(events.back().at("error").at("type")), "server_error");
}

TEST_F(RoutesTest, AReportThatCannotBeTakenEndsItsRequestAlone) {
  generator_->Misnumber();
  const json::object body = Post("/v1/completions", R"({"prompt": "x"})", 500);
  EXPECT_EQ(Text(body.at("error").at("type")), "server_error");
  generator_->Misnumber();
  const auto events = Stream("/v1/completions", R"({"prompt": "x", "stream": true})");
  EXPECT_EQ(Text(events.back().at("error").at("type")), "server_error");
  EXPECT_EQ(generator_->aborted(), 2u);
  Post("/v1/completions", R"({"prompt": "x"})");
}

TEST_F(RoutesTest, ARequestWhoseTimeIsOverIsReported) {
  generator_->FailStep("took longer than 2 s", FinishReason::kTimeout);
  const json::object body = Post("/v1/completions", R"({"prompt": "x", "timeout": 2})", 504);
  EXPECT_EQ(Text(body.at("error").at("code")), "timeout");
  EXPECT_EQ(Text(body.at("error").at("message")), "took longer than 2 s");
}

TEST_F(RoutesTest, TheEngineIsToldWhoAsksAndHowUrgently) {
  Post("/v1/completions", R"({"prompt": "x", "user": "me", "priority": -2, "timeout": 1.5})");
  Post("/v1/completions", R"({"prompt": "x"})");
  const std::vector<Request> open = generator_->submitted();
  EXPECT_EQ(open[0].client, "me");
  EXPECT_EQ(open[0].priority, -2);
  EXPECT_EQ(open[0].timeout, std::chrono::milliseconds(1500));
  EXPECT_EQ(open[1].client, "");
  EXPECT_EQ(open[1].priority, 0);
  EXPECT_EQ(open[1].timeout, std::nullopt);
  // A key says more than a name that anybody can give.
  Remake(FakeGenerator::HashScript, {"one", "two"});
  for (const std::string authorization : {"Bearer one", "bearer one", "Bearer two"}) {
    FakeWriter writer;
    Do(writer, "POST", "/v1/completions", R"({"prompt": "x", "user": ")" + authorization + R"("})",
       authorization);
  }
  const std::vector<Request> keyed = generator_->submitted();
  ASSERT_EQ(keyed.size(), 3u);
  EXPECT_EQ(keyed[0].client, keyed[1].client);
  EXPECT_NE(keyed[0].client, keyed[2].client);
}

TEST_F(RoutesTest, CancelAbortsEveryPrompt) {
  Remake(FakeGenerator::HashScript, {}, std::chrono::milliseconds(5));
  FakeWriter writer;
  const auto exchange = routes_->Handle(
      {.method = "POST",
       .path = "/v1/completions",
       .body = R"({"prompt": ["a", "b"], "n": 2, "max_tokens": 200, "ignore_eos": true})"},
      writer);
  ASSERT_NE(exchange, nullptr);
  EXPECT_TRUE(generator_->AwaitLive(4));
  exchange->Cancel();
  EXPECT_EQ(generator_->aborted(), 2u);
  EXPECT_TRUE(generator_->AwaitLive(0));
  EXPECT_EQ(writer.endings, 0);
}

}  // namespace
}  // namespace sluice
