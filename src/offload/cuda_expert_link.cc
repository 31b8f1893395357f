#include <spdlog/spdlog.h>

#include <algorithm>
#include <array>
#include <deque>
#include <memory>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "base/check.h"
#include "base/error.h"
#include "device/cuda_stream.h"
#include "offload/expert_link.h"

namespace sluice {
namespace {

// Streams that copies go to in turn. Between a copy and the next of its stream some 20 us go by for
// the event that tells of its end: with two streams the link does not rest meanwhile.
constexpr size_t kLanes = 2;

class CudaLink : public ExpertLink {
 public:
  explicit CudaLink(CudaStream& compute)
      : compute_(compute), lanes_{Lane(compute.device()), Lane(compute.device())} {
    for (Lane& lane : lanes_) {
      lane.last_end.Record(lane.stream);
      lane.stream.Synchronize();
    }
  }

  // What is under way reads and writes memory of others.
  ~CudaLink() override {
    try {
      Drain();
    } catch (const Error& error) {
      spdlog::warn("ending the copies of experts: {}", error.what());
    }
  }
  CudaLink(const CudaLink&) = delete;
  CudaLink& operator=(const CudaLink&) = delete;

  Ticket Copy(std::byte* target, const std::byte* source, size_t bytes, Before before) override {
    return Queue(bytes, before, [=](CudaStream& stream) { stream.Copy(target, source, bytes); });
  }
  Ticket Poison(std::byte* target, size_t bytes, Before before) override {
    return Queue(0, before, [=](CudaStream& stream) { stream.Fill(target, 0xff, bytes); });
  }

  bool Arrived(Ticket ticket) override {
    if (ticket < first_ || Find(ticket).arrived) return true;
    if (!Find(ticket).end.Reached()) return false;
    Retire();
    return true;
  }

  // A stream's copies are in order: the compute waits for the last one of each alone.
  void Await(std::span<const Ticket> tickets) override {
    std::array<Ticket, kLanes> last{};
    for (const Ticket ticket : tickets) {
      if (ticket < first_) continue;
      last[LaneOf(ticket)] = std::max(last[LaneOf(ticket)], ticket);
    }
    for (size_t i = 0; i < kLanes; ++i) {
      if (last[i] <= lanes_[i].awaited || last[i] < first_) continue;
      Find(last[i]).end.HoldBack(compute_);
      lanes_[i].awaited = last[i];
    }
  }

  void Wait(Ticket ticket) override {
    if (Arrived(ticket)) return;
    Find(ticket).end.Synchronize();
    Retire();
  }

  void Drain() override {
    for (Lane& lane : lanes_) lane.stream.Synchronize();
    Retire();
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
    Retire();
    return use_;
  }

 private:
  // A copy or a poisoning under way.
  struct Entry {
    size_t bytes = 0;  // 0 = no copy
    // Recorded before it where its stream was idle or waited; else it began when the one before it
    // on the stream ended.
    std::optional<CudaEvent> begin;
    CudaEvent end;
    bool arrived = false;
  };
  // A stream, and how far it has come. Entries go to the lanes in turn.
  struct Lane {
    explicit Lane(const CudaDeviceInfo& device) : stream(device) {}
    CudaStream stream;
    Mark held_back = 0;  // the last readers that it waits for
    Ticket last = 0;     // the last entry
    Ticket awaited = 0;  // the last entry that the compute waits for
    CudaEvent last_end;  // of the last entry that has arrived
  };

  size_t LaneOf(Ticket ticket) const { return ticket % kLanes; }

  Entry& Find(Ticket ticket) {
    SLUICE_CHECK_LT(ticket - first_, entries_.size());
    return entries_[ticket - first_];
  }

  template <class Work>
  Ticket Queue(size_t bytes, Before before, const Work& work) {
    Retire();
    const Ticket ticket = first_ + entries_.size();
    Lane& lane = lanes_[LaneOf(ticket)];
    const bool idle = lane.last < first_ || Find(lane.last).arrived;
    const bool waits = HoldBack(before, lane);
    Entry entry{.bytes = bytes, .begin = {}, .end = TakeEvent()};
    if (idle || waits) {
      entry.begin = TakeEvent();
      entry.begin->Record(lane.stream);
    }
    work(lane.stream);
    entry.end.Record(lane.stream);
    entries_.push_back(std::move(entry));
    lane.last = ticket;
    return ticket;
  }

  // Makes what the lane gets next wait for what comes before it. False where it need not.
  bool HoldBack(Before before, Lane& lane) {
    bool waits = false;
    if (before.readers >= first_mark_ && before.readers > lane.held_back) {
      const CudaEvent& mark = marks_[before.readers - first_mark_];
      waits = !mark.Reached();
      if (waits) mark.HoldBack(lane.stream);
      lane.held_back = before.readers;
    }
    if (before.written < first_ || &lanes_[LaneOf(before.written)] == &lane) return waits;
    const Entry& written = Find(before.written);
    if (written.arrived) return waits;
    written.end.HoldBack(lane.stream);
    return true;
  }

  // Takes note of what has arrived, in each lane up to the first entry that has not.
  void Retire() {
    std::array<bool, kLanes> pending{};
    size_t lanes_pending = 0;
    for (size_t i = 0; i < entries_.size() && lanes_pending < kLanes; ++i) {
      const size_t lane = LaneOf(first_ + i);
      if (entries_[i].arrived || pending[lane]) continue;
      if (entries_[i].end.Reached()) {
        NoteArrival(entries_[i], lane);
      } else {
        pending[lane] = true;
        ++lanes_pending;
      }
    }
    while (!entries_.empty() && entries_.front().arrived) {
      entries_.pop_front();
      ++first_;
    }
  }

  // Counts the time that a copy ran beyond those noted before it.
  void NoteArrival(Entry& entry, size_t at) {
    Lane& lane = lanes_[at];
    entry.arrived = true;
    const double alone = entry.end.SecondsSince(entry.begin ? *entry.begin : lane.last_end);
    const double beyond = entry.end.SecondsSince(lanes_[latest_].last_end);  // < 0: ended before
    if (entry.bytes > 0) {
      ++use_.copies;
      use_.bytes += entry.bytes;
      use_.busy_s += std::max(0.0, std::min(alone, beyond));
    }
    if (beyond > 0) latest_ = at;
    if (entry.begin) events_.push_back(std::move(*entry.begin));
    events_.push_back(std::exchange(lane.last_end, std::move(entry.end)));
  }

  CudaEvent TakeEvent() {
    if (events_.empty()) return {};
    CudaEvent event = std::move(events_.back());
    events_.pop_back();
    return event;
  }

  CudaStream& compute_;
  std::array<Lane, kLanes> lanes_;
  size_t latest_ = 0;          // the lane whose last_end is the latest
  std::deque<Entry> entries_;  // under way; of tickets first_ and on
  Ticket first_ = 1;
  std::deque<CudaEvent> marks_;  // those not known to be reached; of marks first_mark_ and on
  Mark first_mark_ = 1;
  std::vector<CudaEvent> events_;  // to be used again
  LinkUse use_;
};

}  // namespace

std::unique_ptr<ExpertLink> MakeCudaLink(CudaStream& compute) {
  return std::make_unique<CudaLink>(compute);
}

}  // namespace sluice
