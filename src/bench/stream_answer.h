#pragma once

#include <string>
#include <string_view>

#include "bench/serving_figures.h"

namespace sluice {

// Reads the streamed answer of an OpenAI-compatible server: server-sent events (WHATWG HTML, 9.2)
// with a completion's or a chat's chunks in them, and an error where the server gave up. Knows one
// choice, the first. Writes what it finds to an outcome, which must outlive it: when pieces with
// text came (what only opens a chat or ends an answer is none), tokens where the server counts
// them, and the first error.
class StreamAnswer {
 public:
  explicit StreamAnswer(RequestOutcome& outcome) : outcome_(outcome) {}

  // Takes the next bytes of the body, cut anywhere, which came `now_s` after the run's beginning.
  void Feed(std::string_view bytes, double now_s);

  // After the last byte. An answer is whole that said so, with a finish_reason or [DONE].
  void Finish();

 private:
  void OnLine(std::string_view line, double now_s);
  void OnEvent(std::string_view data, double now_s);
  void Fail(std::string error);

  RequestOutcome& outcome_;
  std::string line_;  // begun
  std::string data_;  // of the event that has begun
  bool counted_ = false;
  bool whole_ = false;
};

// Names an answer that is no stream: "HTTP 429: too many requests wait", with the message of the
// body where it is an error as OpenAI words it.
std::string RefusalText(int status, std::string_view body);

}  // namespace sluice
