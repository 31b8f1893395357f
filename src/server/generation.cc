#include "server/generation.h"

#include <exception>
#include <iterator>
#include <utility>

#include "base/check.h"
#include "server/sse.h"

namespace sluice {

namespace {

constexpr int kOk = 200;
constexpr int kClientGone = 499;  // the client will not hear of it; the log will

}  // namespace

Generation::Generation(GenerationJob job, std::unique_ptr<AnswerFormat> format,
                       Generator& generator, const Tokenizer& tokenizer, ResponseWriter& writer,
                       Timeline* timeline, RequestRecord record, const RequestLog& log)
    : job_(std::move(job)),
      format_(std::move(format)),
      generator_(generator),
      tokenizer_(tokenizer),
      writer_(writer),
      timeline_(timeline),
      record_(std::move(record)),
      log_(log) {
  for (const GenerationJob::Prompt& prompt : job_.prompts) {
    for (int i = 0; i < job_.sampling.n; ++i) {
      const int index = static_cast<int>(choices_.size());
      choices_.push_back({.text = TextGeneration(tokenizer_, job_.sampling, job_.skip_special,
                                                 CountCodePoints(prompt.echo)),
                          .whole = {.index = index}});
    }
  }
}

void Generation::Start() {
  const std::shared_ptr<Executor> executor = writer_.executor();
  const std::weak_ptr<Generation> weak = weak_from_this();
  try {
    for (size_t prompt = 0; prompt < job_.prompts.size(); ++prompt) {
      Request request{.prompt = job_.prompts[prompt].tokens,
                      .sampling = job_.sampling,
                      .client = job_.client,
                      .priority = job_.priority,
                      .timeout = job_.timeout,
                      .cache_salt = job_.cache_salt};
      request.sampling.max_tokens = job_.prompts[prompt].max_tokens;
      request.sampling.stop.clear();  // matched here, on text
      const auto on_output = [weak, prompt](const Output& output) {
        if (const auto self = weak.lock()) self->Take(prompt, output);
      };
      requests_.push_back(generator_.Submit(std::move(request), on_output, executor));
    }
  } catch (...) {
    AbortAll();
    throw;
  }
  if (!job_.stream) return;
  writer_.StartStream(kSseContentType);
  std::string events;
  for (const std::string& event : format_->Opening(static_cast<int>(choices_.size()))) {
    events += SseEvent(event);
  }
  writer_.Write(events);
}

void Generation::Cancel() {
  if (done_) return;
  AbortAll();
  Log(kClientGone, FinishReasonName(FinishReason::kAbort));
}

void Generation::AbortAll() {
  done_ = true;
  for (const RequestId request : requests_) generator_.Abort(request);
}

void Generation::Take(size_t prompt, const Output& output) {
  if (done_) return;
  try {
    OnOutput(prompt, output);
  } catch (const std::exception& error) {
    if (done_) throw;  // it has been answered
    Fail(ApiError(500, std::string("the answer cannot be written: ") + error.what(), std::nullopt,
                  "internal"));
  }
}

void Generation::OnOutput(size_t prompt, const Output& output) {
  SLUICE_CHECK_LT(output.index, job_.sampling.n);
  if (output.finish == FinishReason::kError) {
    Fail(ApiError(500, "the model's step failed: " + output.error, std::nullopt, "internal"));
    return;
  }
  if (output.finish == FinishReason::kTimeout) {
    Fail(ApiError(504, output.error, std::nullopt, "timeout"));
    return;
  }
  const size_t index = prompt * job_.sampling.n + output.index;
  if (choices_[index].text.finished()) return;
  if (output.finish == FinishReason::kAbort) {
    Fail(ApiError(503, "the server is stopping", std::nullopt, "unavailable"));
    return;
  }
  // A prompt counts once, as its first sequence found it.
  if (output.index == 0) cached_tokens_ += output.cached_tokens;
  if (ttft_ms_ == 0 && !output.tokens.empty()) ttft_ms_ = MillisecondsSinceArrival();

  ChoicePart part = Advance(prompt, output);
  const bool ended = part.finish.has_value();
  const FinishReason finish = part.finish.value_or(FinishReason::kStop);
  // What is held back for a character or a stop string to become whole is told too, as an event
  // without text: a client that waits sees that its stream goes on.
  if (ended || !part.text.empty() || !part.tokens.empty() || !output.tokens.empty()) {
    Emit(std::move(part));
  }
  if (!ended || ++finished_ < choices_.size()) return;
  Log(kOk, FinishReasonName(finish));
  Finish();
}

ChoicePart Generation::Advance(size_t prompt, const Output& output) {
  const TimelineSpan span(timeline_, "detokenize", {.tokens = std::ssize(output.tokens)});
  const size_t index = prompt * job_.sampling.n + output.index;
  Choice& choice = choices_[index];
  TextDelta delta = choice.text.Consume(output);
  if (choice.text.stopped_by_text() && !output.finish) {
    generator_.AbortSequence(requests_[prompt], output.index);
  }
  ChoicePart part{.index = static_cast<int>(index), .finish = delta.finish};
  if (job_.echo && !choice.echoed) AddEcho(prompt, output, &choice, &part);
  if (job_.only_echo) {
    if (part.finish) part.finish = FinishReason::kLength;
    return part;
  }
  part.text += delta.text;
  part.tokens.insert(part.tokens.end(), std::make_move_iterator(delta.tokens.begin()),
                     std::make_move_iterator(delta.tokens.end()));
  return part;
}

void Generation::AddEcho(size_t prompt, const Output& output, Choice* choice, ChoicePart* part) {
  choice->echoed = true;
  part->text = job_.prompts[prompt].echo;
  if (!job_.sampling.prompt_logprobs) return;
  size_t offset = 0;
  part->tokens = DescribePrompt(tokenizer_, job_.prompts[prompt].tokens, output.prompt, &offset);
}

void Generation::Emit(ChoicePart part) {
  if (job_.stream) {
    const TimelineSpan span(timeline_, "stream");
    writer_.Write(SseEvent(format_->Event(part)));
    return;
  }
  ChoicePart& whole = choices_[part.index].whole;
  whole.text += part.text;
  whole.tokens.insert(whole.tokens.end(), std::make_move_iterator(part.tokens.begin()),
                      std::make_move_iterator(part.tokens.end()));
  whole.finish = part.finish;
}

void Generation::Finish() {
  const GenerationFigures figures = Figures();
  std::vector<ChoicePart> wholes;
  for (Choice& choice : choices_) wholes.push_back(std::move(choice.whole));
  if (!job_.stream) {
    std::string body = format_->Whole(wholes, figures);
    done_ = true;
    writer_.Send({.body = std::move(body)});
    return;
  }
  std::string last;
  if (const auto closing = format_->Closing(figures)) last = SseEvent(*closing);
  last += kSseDone;
  done_ = true;
  writer_.Write(last);
  writer_.EndStream();
}

GenerationFigures Generation::Figures() const {
  GenerationFigures figures{.cached_tokens = cached_tokens_,
                            .latency_ms = MillisecondsSinceArrival(),
                            .ttft_ms = ttft_ms_};
  for (const GenerationJob::Prompt& prompt : job_.prompts) {
    figures.prompt_tokens += static_cast<int>(prompt.tokens.size());
  }
  if (job_.only_echo) return figures;
  for (const Choice& choice : choices_) {
    figures.completion_tokens += choice.text.completion_tokens();
  }
  return figures;
}

void Generation::Log(int status, std::string finish_reason, std::string error) {
  const GenerationFigures figures = Figures();
  record_.status = status;
  record_.prompt_tokens = figures.prompt_tokens;
  record_.cached_tokens = figures.cached_tokens;
  record_.completion_tokens = figures.completion_tokens;
  record_.latency_ms = figures.latency_ms;
  if (ttft_ms_ > 0) record_.ttft_ms = ttft_ms_;
  record_.finish_reason = std::move(finish_reason);
  record_.error = std::move(error);
  if (log_.wants_prompts()) {
    for (const GenerationJob::Prompt& prompt : job_.prompts) {
      if (!record_.prompt.empty()) record_.prompt += '\n';
      record_.prompt += tokenizer_.Decode(prompt.tokens, /*skip_special=*/false);
    }
  }
  log_.Write(record_);
}

void Generation::Fail(const ApiError& error) {
  AbortAll();
  Log(error.status(), FinishReasonName(FinishReason::kError), error.what());
  if (!job_.stream) {
    writer_.Send({.status = error.status(), .body = error.Body()});
    return;
  }
  writer_.Write(SseEvent(error.Body()) + std::string(kSseDone));
  writer_.EndStream();
}

double Generation::MillisecondsSinceArrival() const {
  return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() -
                                                   record_.arrival)
      .count();
}

}  // namespace sluice
