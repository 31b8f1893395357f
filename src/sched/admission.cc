#include "sched/admission.h"

#include <fmt/format.h>

namespace sluice {

namespace {

Error TooManyRequests(int waiting) {
  return {
      ErrorCode::kResourceExhausted,
      fmt::format("the server is overloaded: {} requests wait already; try again later", waiting)};
}

Error TooManyTokens(int64_t waiting) {
  return {
      ErrorCode::kResourceExhausted,
      fmt::format("the server is overloaded: prompts of {} tokens wait already; try again later",
                  waiting)};
}

}  // namespace

Admission::Place::Place(Admission& admission, int prompt_tokens)
    : admission_(&admission), prefill_(&admission), prompt_tokens_(prompt_tokens) {
  ++admission.requests_;
  admission.tokens_ += prompt_tokens;
}

Admission::Place& Admission::Place::operator=(Place&& other) noexcept {
  Leave();
  admission_ = std::exchange(other.admission_, nullptr);
  prefill_ = std::exchange(other.prefill_, nullptr);
  prompt_tokens_ = other.prompt_tokens_;
  return *this;
}

void Admission::Place::OnTakenUp() {
  if (Admission* admission = std::exchange(admission_, nullptr)) --admission->requests_;
}

void Admission::Place::OnPrefilled() {
  if (Admission* admission = std::exchange(prefill_, nullptr)) {
    admission->tokens_ -= prompt_tokens_;
  }
}

void Admission::Place::Leave() {
  OnTakenUp();
  OnPrefilled();
}

std::optional<Error> Admission::Full() const {
  const int requests = requests_;
  if (limits_.max_requests > 0 && requests >= limits_.max_requests) {
    return TooManyRequests(requests);
  }
  const int64_t tokens = tokens_;
  if (limits_.max_tokens > 0 && tokens >= limits_.max_tokens) return TooManyTokens(tokens);
  return std::nullopt;
}

std::vector<Admission::Place> Admission::Enter(int sequences, int prompt_tokens) {
  if (const std::optional<Error> full = Full()) throw *full;
  const int64_t tokens = tokens_;
  const int64_t more = int64_t{sequences} * prompt_tokens;
  if (limits_.max_tokens > 0 && tokens > 0 && tokens + more > limits_.max_tokens) {
    throw TooManyTokens(tokens);
  }
  std::vector<Place> places;
  places.reserve(static_cast<size_t>(sequences));
  for (int i = 0; i < sequences; ++i) places.emplace_back(*this, prompt_tokens);
  return places;
}

}  // namespace sluice
