#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <filesystem>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

namespace sluice {

// What a span is of; what is negative is not said.
struct SpanFacts {
  int64_t step = -1;
  int64_t sequences = -1;
  int64_t tokens = -1;
  int64_t layer = -1;
  int64_t expert = -1;  // of the layer
};

// What a process did when: spans on a track for each thread and for the GPU, written to a file of
// Chrome's trace events, which ui.perfetto.dev opens. In a build with CUDA the threads' spans are
// NVTX ranges too. Any thread may call it.
class Timeline {
 public:
  using Clock = std::chrono::steady_clock;

  // Of the spans, so many that ended last are kept.
  static constexpr size_t kMostSpans = size_t{1} << 20;

  // Writes a file without spans, which stays if the process is killed. Throws
  // Error(kResourceExhausted) where it cannot.
  explicit Timeline(std::filesystem::path file, size_t most_spans = kMostSpans);
  // Writes what was recorded; logs why it could not.
  ~Timeline();
  Timeline(const Timeline&) = delete;
  Timeline& operator=(const Timeline&) = delete;

  // A track by this name; its spans must lie in each other or apart.
  int AddTrack(const std::string& name);
  // Names the calling thread's track; one that nobody names is "thread N".
  void NameThread(const std::string& name);

  // `name` is a literal: it is kept as it is.
  void Add(int track, const char* name, Clock::time_point begin, Clock::time_point end,
           const SpanFacts& facts);

 private:
  friend class TimelineSpan;
  struct Span {
    const char* name;
    int track;
    Clock::time_point begin;
    Clock::time_point end;
    SpanFacts facts;
  };

  static void BeginRange(const char* name);  // of NVTX, on this thread
  static void EndRange();
  void AddOfThread(const char* name, Clock::time_point begin, const SpanFacts& facts);
  int TrackOfThread();  // with the mutex held
  void Write();         // likewise

  const std::filesystem::path file_;
  const size_t most_spans_;
  const Clock::time_point start_ = Clock::now();
  std::mutex mutex_;  // guards what follows
  std::deque<Span> spans_;
  std::vector<std::string> tracks_;       // names
  std::vector<std::thread::id> threads_;  // [track]; of no thread where it is none's
};

// From construction to destruction a span of this thread on a timeline, or nothing without one.
class TimelineSpan {
 public:
  TimelineSpan(Timeline* timeline, const char* name, const SpanFacts& facts = {})
      : timeline_(timeline) {
    if (timeline_ != nullptr) Begin(name, facts);
  }
  ~TimelineSpan() {
    if (timeline_ != nullptr) End();
  }
  TimelineSpan(const TimelineSpan&) = delete;
  TimelineSpan& operator=(const TimelineSpan&) = delete;

  // What was not known when it began.
  void Describe(const SpanFacts& facts) { facts_ = facts; }

 private:
  void Begin(const char* name, const SpanFacts& facts);
  void End();

  Timeline* const timeline_;
  const char* name_ = nullptr;
  Timeline::Clock::time_point begin_;
  SpanFacts facts_;
};

}  // namespace sluice
