#pragma once

#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "device/timeline.h"
#include "sched/generator.h"
#include "server/answer_format.h"
#include "server/api_error.h"
#include "server/http_types.h"
#include "server/request_log.h"
#include "server/text_generation.h"

namespace sluice {

// One request for text, whichever endpoint it came through, checked and tokenised.
struct GenerationJob {
  struct Prompt {
    std::vector<TokenId> tokens;
    std::string echo;     // text that its choices begin with
    int max_tokens = 16;  // fits the context together with `tokens`
  };
  std::vector<Prompt> prompts;
  SamplingParams sampling;  // max_tokens is each prompt's own
  bool stream = false;
  bool echo = false;
  bool only_echo = false;  // the prompt alone is wanted: what is generated is dropped
  bool skip_special = true;
  std::string client;
  int priority = 0;
  std::optional<std::chrono::milliseconds> timeout;
  std::string cache_salt;
};

// Runs a job: submits its prompts, turns the reports into text, writes the answer, whole or as a
// stream of events. Lives on its connection's thread; the engine's reports are posted there.
class Generation : public Exchange, public std::enable_shared_from_this<Generation> {
 public:
  // `generator`, `tokenizer`, `writer`, `timeline`, which may be null, and `log` must outlive it.
  // `log` is told of the request when it ends, by `record`.
  Generation(GenerationJob job, std::unique_ptr<AnswerFormat> format, Generator& generator,
             const Tokenizer& tokenizer, ResponseWriter& writer, Timeline* timeline,
             RequestRecord record, const RequestLog& log);

  // Throws Error when the engine refuses; nothing has been written then and nothing is running.
  void Start();

  void Cancel() override;

 private:
  struct Choice {
    TextGeneration text;
    ChoicePart whole;     // gathered unless streaming
    bool echoed = false;  // the prompt's text has been given out
  };

  // A report of a prompt's sequences. What goes wrong with it ends this request and no other.
  void Take(size_t prompt, const Output& output);
  void OnOutput(size_t prompt, const Output& output);
  ChoicePart Advance(size_t prompt, const Output& output);
  void AddEcho(size_t prompt, const Output& output, Choice* choice, ChoicePart* part);
  void Emit(ChoicePart part);
  void Finish();
  void Fail(const ApiError& error);
  void AbortAll();
  GenerationFigures Figures() const;
  void Log(int status, std::string finish_reason, std::string error = "");
  double MillisecondsSinceArrival() const;

  GenerationJob job_;
  const std::unique_ptr<AnswerFormat> format_;
  Generator& generator_;
  const Tokenizer& tokenizer_;
  ResponseWriter& writer_;
  Timeline* const timeline_;
  RequestRecord record_;
  const RequestLog& log_;

  std::vector<RequestId> requests_;  // one for each prompt
  std::vector<Choice> choices_;      // [prompt * n + sequence]
  int cached_tokens_ = 0;            // of the prompts
  size_t finished_ = 0;
  double ttft_ms_ = 0;
  bool done_ = false;  // answered or cancelled: the writer is not used any more
};

}  // namespace sluice
