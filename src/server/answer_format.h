#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "request/request.h"
#include "server/text_generation.h"

namespace sluice {

// A piece of one choice in a stream, or the whole of it.
struct ChoicePart {
  int index = 0;
  std::string text;
  std::vector<ScoredToken> tokens;
  std::optional<FinishReason> finish;
};

// What is known when all choices have ended.
struct GenerationFigures {
  int prompt_tokens = 0;
  int cached_tokens = 0;  // of the prompt's, found in the prefix cache
  int completion_tokens = 0;
  double latency_ms = 0;  // from the request's arrival to its last token
  double ttft_ms = 0;     // to its first
};

struct MemoryFigures {
  uint64_t resident_bytes = 0;
  int kv_pages_used = 0;
  int kv_pages_total = 0;
};

// How one endpoint words its answer. Every string is a JSON text. Used on one thread.
class AnswerFormat {
 public:
  virtual ~AnswerFormat() = default;

  // Stream events before any token.
  virtual std::vector<std::string> Opening(int choices) = 0;
  virtual std::string Event(const ChoicePart& part) = 0;
  // Last stream event, if there is one.
  virtual std::optional<std::string> Closing(const GenerationFigures& figures) = 0;
  virtual std::string Whole(const std::vector<ChoicePart>& choices,
                            const GenerationFigures& figures) = 0;
};

struct AnswerHead {
  std::string id;
  std::string model;
  int64_t created = 0;  // Unix time
  bool include_usage = false;
  bool wants_logprobs = false;
};

// `tokenizer` must outlive the format.
std::unique_ptr<AnswerFormat> MakeCompletionFormat(AnswerHead head, const Tokenizer& tokenizer);
std::unique_ptr<AnswerFormat> MakeChatFormat(AnswerHead head, const Tokenizer& tokenizer);
std::unique_ptr<AnswerFormat> MakeGenerateFormat(AnswerHead head,
                                                 std::function<MemoryFigures()> memory);

}  // namespace sluice
