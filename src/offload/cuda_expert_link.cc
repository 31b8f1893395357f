#include <spdlog/spdlog.h>

#include <algorithm>
#include <chrono>
#include <deque>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "base/check.h"
#include "base/error.h"
#include "device/cuda_stream.h"
#include "offload/expert_link.h"

namespace sluice {
namespace {

using Clock = Timeline::Clock;

class CudaLink : public ExpertLink {
 public:
  CudaLink(CudaStream& compute, Timeline* timeline)
      : compute_(compute),
        stream_(compute.device()),
        timeline_(timeline),
        track_(timeline == nullptr ? -1 : timeline->AddTrack("link")) {}

  // What is under way reads and writes memory of others.
  ~CudaLink() override {
    try {
      stream_.Synchronize();
    } catch (const Error& error) {
      spdlog::warn("ending the copies of experts: {}", error.what());
    }
  }
  CudaLink(const CudaLink&) = delete;
  CudaLink& operator=(const CudaLink&) = delete;

  Ticket Copy(std::byte* target, const std::byte* source, size_t bytes, Mark readers,
              const Label& label) override {
    return Queue(bytes, readers, label, [=, this] { stream_.Copy(target, source, bytes); });
  }
  Ticket Poison(std::byte* target, size_t bytes, Mark readers) override {
    return Queue(0, readers, {}, [=, this] { stream_.Fill(target, 0xff, bytes); });
  }

  bool Arrived(Ticket ticket) override {
    if (ticket < first_) return true;
    if (!Find(ticket).end.Reached()) return false;
    NoteArrivals();
    return true;
  }

  void Await(Ticket ticket) override {
    if (ticket < first_ || ticket <= awaited_) return;
    Find(ticket).end.HoldBack(compute_);
    awaited_ = ticket;
  }

  void Wait(Ticket ticket) override {
    if (ticket < first_) return;
    Find(ticket).end.Synchronize();
    NoteArrivals();
  }

  Mark MarkReaders() override {
    while (!marks_.empty() && marks_.front().Reached()) {
      events_.push_back(std::move(marks_.front()));
      marks_.pop_front();
      ++first_mark_;
    }
    marks_.push_back(TakeEvent());
    marks_.back().Record(compute_);
    return first_mark_ + marks_.size() - 1;
  }

  LinkUse Use() override {
    NoteArrivals();
    return use_;
  }

 private:
  // A copy or a poisoning under way.
  struct Entry {
    size_t bytes = 0;  // 0 = no copy
    // Recorded before it where the stream was idle or waited; else it began when the one before it
    // ended, and one event tells both.
    std::optional<CudaEvent> begin;
    CudaEvent end;
    // For a timeline.
    Label label;
    Clock::time_point queued;
    bool at_once = false;  // it began when it was queued
  };

  Entry& Find(Ticket ticket) {
    SLUICE_CHECK_LT(ticket - first_, entries_.size());
    return entries_[ticket - first_];
  }

  // Arrivals are noted behind it, since something waits for the copy.
  template <class Work>
  Ticket Queue(size_t bytes, Mark readers, const Label& label, const Work& work) {
    const bool is_idle = entries_.empty() || entries_.back().end.Reached();
    const bool waits = HoldBack(readers);
    Entry entry{.bytes = bytes,
                .begin = {},
                .end = TakeEvent(),
                .label = label,
                .queued = Clock::now(),
                .at_once = is_idle && !waits};
    if (is_idle || waits) {
      entry.begin = TakeEvent();
      entry.begin->Record(stream_);
    }
    work();
    entry.end.Record(stream_);
    entries_.push_back(std::move(entry));
    NoteArrivals();
    return first_ + entries_.size() - 1;
  }

  // Makes what is queued next wait for the readers. False where they are through.
  bool HoldBack(Mark readers) {
    if (readers < first_mark_ || readers <= held_back_) return false;
    const CudaEvent& mark = marks_[readers - first_mark_];
    held_back_ = readers;
    if (mark.Reached()) return false;
    mark.HoldBack(stream_);
    return true;
  }

  void NoteArrivals() {
    while (!entries_.empty() && entries_.front().end.Reached()) {
      Entry& entry = entries_.front();
      if (entry.bytes > 0) {
        ++use_.copies;
        use_.bytes += entry.bytes;
        use_.busy_s += SecondsOf(entry);
      }
      if (timeline_ != nullptr) NoteTimes(entry);
      if (entry.begin) events_.push_back(std::move(*entry.begin));
      if (last_end_) events_.push_back(std::move(*last_end_));
      last_end_ = std::move(entry.end);
      entries_.pop_front();
      ++first_;
    }
  }

  // Of the first of those that have not been noted, which has ended.
  double SecondsOf(const Entry& entry) const {
    return entry.end.SecondsSince(entry.begin ? *entry.begin : *last_end_);
  }

  // Likewise. Laid on the host's clock where it began when it was queued; else by the time since
  // the end of the one before.
  void NoteTimes(const Entry& entry) {
    Clock::time_point begin = last_end_at_;
    if (entry.at_once || !last_end_) {
      begin = std::max(entry.queued, last_end_at_);
    } else if (entry.begin) {
      begin += ToDuration(entry.begin->SecondsSince(*last_end_));
    }
    last_end_at_ = begin + ToDuration(SecondsOf(entry));
    if (entry.bytes == 0) return;
    timeline_->Add(track_, entry.label.name, begin, last_end_at_, entry.label.facts);
  }

  static Clock::duration ToDuration(double seconds) {
    return std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(seconds));
  }

  CudaEvent TakeEvent() {
    if (events_.empty()) return {};
    CudaEvent event = std::move(events_.back());
    events_.pop_back();
    return event;
  }

  CudaStream& compute_;
  CudaStream stream_;
  Timeline* const timeline_;
  const int track_;
  std::deque<Entry> entries_;  // under way; of tickets first_ and on
  Ticket first_ = 1;
  Ticket awaited_ = 0;                 // the last one that the compute waits for
  std::optional<CudaEvent> last_end_;  // of the last one that has arrived
  Clock::time_point last_end_at_;      // on the host's clock, where there is a timeline
  std::deque<CudaEvent> marks_;        // those not known to be reached; of marks first_mark_ and on
  Mark first_mark_ = 1;
  Mark held_back_ = 0;             // the last readers that the stream waits for
  std::vector<CudaEvent> events_;  // to be used again
  LinkUse use_;
};

}  // namespace

std::unique_ptr<ExpertLink> MakeCudaLink(CudaStream& compute, Timeline* timeline) {
  return std::make_unique<CudaLink>(compute, timeline);
}

}  // namespace sluice
