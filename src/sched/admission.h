#pragma once

#include <atomic>
#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

#include "base/error.h"

namespace sluice {

// How much may wait for an engine; 0 = without bound.
struct QueueLimits {
  int max_requests = 0;    // sequences that no step has taken up yet
  int64_t max_tokens = 0;  // of the prompts of sequences that have no token yet
};

// Counts what waits for an engine and refuses what would be too much. Never blocks; any thread.
class Admission {
 public:
  explicit Admission(const QueueLimits& limits) : limits_(limits) {}

  // What one sequence takes of the queue; given back when it goes.
  class Place {
   public:
    Place() = default;
    Place(Admission& admission, int prompt_tokens);
    Place(Place&& other) noexcept { *this = std::move(other); }
    Place& operator=(Place&& other) noexcept;
    ~Place() { Leave(); }

    void OnTakenUp();  // by a step
    void OnPrefilled();
    void Leave();

   private:
    Admission* admission_ = nullptr;  // null: OnTakenUp was called, or it has no sequence
    Admission* prefill_ = nullptr;    // null: likewise OnPrefilled
    int prompt_tokens_ = 0;
  };

  // kResourceExhausted where no request would be let in, however small.
  std::optional<Error> Full() const;

  // Lets a request of so many sequences in, each with a prompt of so many tokens, or throws
  // Error(kResourceExhausted). A request of any size is let in where there is room for the smallest
  // and no prompt waits. Where several come at once, all may find the same place free.
  std::vector<Place> Enter(int sequences, int prompt_tokens);

  int waiting_requests() const { return requests_; }
  int64_t waiting_tokens() const { return tokens_; }

 private:
  const QueueLimits limits_;
  std::atomic<int> requests_ = 0;
  std::atomic<int64_t> tokens_ = 0;
};

}  // namespace sluice
