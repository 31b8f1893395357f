#include "moe/streamed_experts.h"

#include <algorithm>
#include <cstring>
#include <optional>
#include <utility>

#include "base/check.h"
#include "moe/moe_layer.h"
#include "moe/row_offsets.h"
#include "ops/common/upload.h"

namespace sluice {
namespace {

// The streaming options that a policy comes to.
StreamingOptions Settle(StreamingOptions options) {
  SLUICE_CHECK(options.policy != OffloadPolicy::kResident);
  if (options.policy != OffloadPolicy::kPipeline) {
    options.prefetch = false;
    options.ready_first = false;
  }
  return options;
}

size_t CeilDiv(size_t a, size_t b) {
  return (a + b - 1) / b;
}

// A table of slots where products read it.
TensorView SendSlots(std::span<const int32_t> slots, ops::OpContext& ctx) {
  const TensorView sent = ops::Upload(slots, ctx);
  if (ctx.OnCuda()) ctx.inbox->Send();
  return sent;
}

}  // namespace

// One layer of a step. Leases end with it.
struct StreamedExperts::LayerRun {
  int layer;
  size_t nth;  // among those that route
  const ExpertRows& rows;
  ops::OpContext& ctx;
  std::span<const int32_t> ids;  // [tokens, top_k] of the host's
  TensorView inner;              // [rows, ffn] scratch
  std::vector<int32_t> ready;    // the needed of those that ready_slots_ names
  // Experts whose rows are to be computed: not asked for yet, the first one last; being read; in a
  // slot or on the link, in the order in which they come.
  std::vector<int32_t> away;
  std::vector<int32_t> reading;
  std::vector<int32_t> held;
  std::unique_ptr<CpuShare::Layer> cpu_share;  // null where the CPU computes none

  size_t NumOutstanding() const { return away.size() + reading.size() + held.size(); }
};

StreamedExperts::StreamedExperts(ExpertStore& store, const Options& options)
    : store_(store),
      options_{.streaming = Settle(options.streaming),
               .top_k = options.top_k,
               .cpu_share = options.cpu_share,
               .timeline = options.timeline},
      asked_early_(static_cast<size_t>(store.num_experts())),
      counts_(static_cast<size_t>(store.num_experts())),
      slots_(static_cast<size_t>(store.num_experts())),
      ready_slots_(static_cast<size_t>(store.num_experts())),
      ahead_(store, options.top_k) {
  stats_.layers.resize(static_cast<size_t>(store.experts().num_layers()));
}

void StreamedExperts::Choose(int layer, ConstTensorView ids, ConstTensorView h,
                             ops::OpContext& ctx) {
  layer_ = layer;
  AddPart(ids, ctx);
  if (options_.cpu_share != nullptr) options_.cpu_share->Bring(h, ctx);
}

void StreamedExperts::Run(const ExpertRows& rows, ops::OpContext& ctx) {
  const Arena::Scope scope(ctx.arena);
  const ExpertLayout& layout = store_.layout();
  LayerRun run{
      .layer = layer_,
      .nth = static_cast<size_t>(store_.experts().OrdinalOf(layer_)),
      .rows = rows,
      .ctx = ctx,
      .inner = ctx.arena.Allocate(ctx.ProductDType(layout.dtype), {rows.y.dim(0), layout.ffn})};
  QueueReady(run);
  AskEarly(layer_, num_parts_ - 1);
  run.ids = AwaitPart(layer_, num_parts_ - 1);
  num_parts_ = parts_asked_ = 0;
  Count(run.ids);
  store_.NoteUse(layer_, counts_);
  FindNeeded(run);
  BeginCpuShare(run);
  AskForMissing(run);
  // The link has work by now, and nothing that follows holds it up.
  EndReady(run);
  NoteTimes();
  // What a device computes with at once does not wait for a forecast.
  if (ctx.OnCuda() && !run.held.empty() && !Waits(run)) RunWave(run, NextWave(run));
  // Where the CPU is the device, this thread computes its share: once the link has work.
  const bool is_share_here = !ctx.OnCuda();
  if (is_share_here && run.away.empty() && waits_.transfers > 0) EndCpuShare(run);
  bool looked_ahead = false;
  while (run.NumOutstanding() > 0) {
    AskForMissing(run);
    if (run.away.empty() && !std::exchange(looked_ahead, true)) {
      LookAhead(run.nth, run.ids);
      AskAhead();
      if (is_share_here) EndCpuShare(run);
    }
    AskAhead();
    if (Waits(run)) {
      const TimelineSpan span(options_.timeline, "read expert");
      SLUICE_CHECK(store_.Pump(true));
      TakeRead(run);
    } else {
      RunWave(run, NextWave(run));
      store_.Pump(false);
      TakeRead(run);
    }
  }
  if (!looked_ahead) LookAheadLater(run);
  AskAhead();
  EndCpuShare(run);
  ran_ = true;
}

// Whether there is nothing to compute with before a read has ended: that of an expert which the
// next wave needs, or one to a slot that is wanted.
bool StreamedExperts::Waits(const LayerRun& run) const {
  return run.held.empty() || (!options_.streaming.ready_first && !run.reading.empty());
}

void StreamedExperts::BeginStep() {
  failures_.clear();
  unseen_ids_.clear();
  num_parts_ = parts_asked_ = 0;
}

void StreamedExperts::Announce(int layer, ConstTensorView ids, ops::OpContext& ctx) {
  if (options_.streaming.policy != OffloadPolicy::kPipeline) return;
  AddPart(ids, ctx);
  AskEarly(layer, ctx.OnCuda() ? num_parts_ - 1 : num_parts_);
}

// Begins to bring a choice to the host.
void StreamedExperts::AddPart(ConstTensorView ids, ops::OpContext& ctx) {
  SLUICE_CHECK_EQ(ids.dim(1), options_.top_k);
  if (num_parts_ == 0) std::swap(chosen_, chosen_before_);
  if (parts_.size() == num_parts_) parts_.emplace_back();
  Part& part = parts_[num_parts_++];
  const ConstTensorView host = part.copy.Of(ids, ctx);
  part.ids = {host.data<int32_t>(), static_cast<size_t>(ids.NumElements())};
  (num_parts_ == 1 ? chosen_ : part.known).Mark(ctx);
  LookAheadNow();
}

// The router's cut: waits for a part's choice. With the first one the layer begins.
std::span<const int32_t> StreamedExperts::AwaitPart(int layer, size_t index) {
  const TimelineSpan span(options_.timeline, "router cut");
  Part& part = parts_[index];
  (index == 0 ? chosen_ : part.known).Await();
  for (const int32_t id : part.ids) SLUICE_CHECK(id >= 0 && id < store_.num_experts());
  if (index > 0) return part.ids;
  const auto nth = static_cast<size_t>(store_.experts().OrdinalOf(layer));
  if (std::exchange(ran_, false)) unnoted_ = waits_;
  waits_ = {.nth = nth};
  std::fill(asked_early_.begin(), asked_early_.end(), 0);
  num_asked_early_ = 0;
  store_.BeginLayer(layer);
  return part.ids;
}

// Asks for what the parts before `until` chose, as far as there are slots.
void StreamedExperts::AskEarly(int layer, size_t until) {
  for (; parts_asked_ < until; ++parts_asked_) {
    Count(AwaitPart(layer, parts_asked_));
    std::vector<int32_t> away;
    for (int32_t expert = 0; expert < store_.num_experts(); ++expert) {
      const bool chosen = counts_[static_cast<size_t>(expert)] > 0;
      if (chosen && store_.PlaceOf(layer, expert) == ExpertStore::Place::kAway) {
        away.push_back(expert);
      }
    }
    SortForAsking(away);
    for (; !away.empty(); away.pop_back()) {
      if (!Ask(layer, waits_.nth, away.back(), FetchReason::kDemand)) break;
      asked_early_[static_cast<size_t>(away.back())] = ++num_asked_early_;
    }
  }
}

void StreamedExperts::Count(std::span<const int32_t> ids) {
  std::fill(counts_.begin(), counts_.end(), 0);
  for (const int32_t id : ids) ++counts_[static_cast<size_t>(id)];
}

// Of experts in the order of their ids: puts the first one to be asked for last.
void StreamedExperts::SortForAsking(std::vector<int32_t>& experts) const {
  std::reverse(experts.begin(), experts.end());
  if (options_.streaming.policy != OffloadPolicy::kPipeline) return;
  std::stable_sort(experts.begin(), experts.end(),
                   [&](int32_t a, int32_t b) { return counts_[a] < counts_[b]; });
}

// Queues a device's products of all experts that are there: of those it takes the chosen ones.
// Slots stay as they are until the choice is known, but for parts, whose experts are asked for
// before.
void StreamedExperts::QueueReady(LayerRun& run) {
  std::fill(ready_slots_.begin(), ready_slots_.end(), -1);
  if (!run.ctx.OnCuda() || !options_.streaming.ready_first || num_parts_ > 1) return;
  int count = 0;
  for (int32_t expert = 0; expert < store_.num_experts(); ++expert) {
    ready_slots_[expert] = store_.ReadySlot(run.layer, expert);
    if (ready_slots_[expert] >= 0) ++count;
  }
  if (count == 0) return;
  const TensorView slots = SendSlots(ready_slots_, run.ctx);
  RunSlots(run.rows, slots, count, run.inner, store_.layout(), store_.slab(), run.ctx);
}

// From here on others may get those slots, once the products are done.
void StreamedExperts::EndReady(const LayerRun& run) {
  if (run.ready.empty()) return;
  const ExpertLease lease = store_.Pin(run.layer, run.ready);
  for (size_t i = 0; i < run.ready.size(); ++i) {
    SLUICE_CHECK_EQ(lease.slots()[i], ready_slots_[run.ready[i]]);
  }
}

// What the layer before waited for, whose last wave is behind the device by now.
void StreamedExperts::NoteTimes() {
  if (!unnoted_) return;
  const LayerWaits before = *std::exchange(unnoted_, std::nullopt);
  LayerOffloadStats& stats = StatsOf(before.nth);
  for (size_t i = 0; i < before.waves; ++i) {
    const double waited = times_[i].began.SecondsSince(times_[i].came);
    (i == 0 && !before.began_ready ? stats.between_s : stats.wait_s) += waited;
  }
  if (before.cpu_share) stats.wait_s += options_.cpu_share->SecondsWaited();
  const bool waited = before.transfers > 0 && before.waves > 0;
  const ComputeMoment& idle = waited ? times_[before.waves - 1].began : chosen_before_;
  ahead_.window().NoteTransfers(idle.SecondsSince(chosen_before_), before.transfers);
  if ((before.nth + 1) % stats_.layers.size() == waits_.nth) {
    ahead_.window().NoteWindow(static_cast<int>(waits_.nth), chosen_.SecondsSince(idle));
  }
}

// Sorts the experts that the layer needs by where they are.
void StreamedExperts::FindNeeded(LayerRun& run) {
  LayerOffloadStats& stats = StatsOf(run.nth);
  stats.prefetch_used += ahead_.Judge(run.nth, counts_, asked_early_);
  const bool whole = options_.streaming.policy == OffloadPolicy::kSerial;
  uint64_t early = 0;  // asked for, though the layer's last choice was not known
  for (int32_t expert = 0; expert < store_.num_experts(); ++expert) {
    if (counts_[static_cast<size_t>(expert)] == 0 && !whole) continue;
    ++stats.requests;
    const bool is_early = asked_early_[static_cast<size_t>(expert)] > 0;
    switch (store_.PlaceOf(run.layer, expert)) {
      case ExpertStore::Place::kSlot:
        if (ready_slots_[expert] >= 0) {
          run.ready.push_back(expert);
          break;
        }
        if (is_early) ++early;
        if (is_early || !store_.Ready(run.layer, expert)) ++waits_.transfers;
        if (whole) store_.Keep(run.layer, expert);
        run.held.push_back(expert);
        break;
      case ExpertStore::Place::kReading:
        if (is_early) ++early;
        ++waits_.transfers;
        if (whole) store_.Keep(run.layer, expert);
        run.reading.push_back(expert);
        break;
      case ExpertStore::Place::kFailed:
        // For a step that ended before it took note: it is asked for again.
        store_.TakeFailure(run.layer, expert);
        [[fallthrough]];
      case ExpertStore::Place::kAway:
        ++waits_.transfers;
        run.away.push_back(expert);
    }
  }
  stats.misses += run.away.size() + early;
  stats.hits += run.ready.size() + run.held.size() + run.reading.size() - early;
  waits_.began_ready = !run.ready.empty();
  std::stable_sort(run.held.begin(), run.held.end(),
                   [&](int32_t a, int32_t b) { return asked_early_[a] < asked_early_[b]; });
  SortForAsking(run.away);
}

// What the CPU computes of the missing experts is not asked for.
void StreamedExperts::BeginCpuShare(LayerRun& run) {
  if (options_.cpu_share == nullptr) return;
  run.cpu_share = options_.cpu_share->Begin({.layer = run.layer,
                                             .ids = run.ids,
                                             .counts = counts_,
                                             .away = run.away,
                                             .transfers = waits_.transfers},
                                            run.rows, run.ctx);
  if (run.cpu_share == nullptr) return;
  const std::span<const int32_t> experts = run.cpu_share->experts();
  std::erase_if(run.away, [&](int32_t expert) {
    return std::binary_search(experts.begin(), experts.end(), expert);
  });
  LayerOffloadStats& stats = StatsOf(run.nth);
  stats.misses -= experts.size();
  stats.cpu += experts.size();
  waits_.transfers -= experts.size();
}

// Once, however often it is called.
void StreamedExperts::EndCpuShare(LayerRun& run) {
  if (run.cpu_share == nullptr) return;
  KeepOne(run);
  run.cpu_share->Finish();
  waits_.cpu_share = run.ctx.OnCuda();
  run.cpu_share.reset();
}

// Where the link has nothing else to do, it brings one of the CPU's experts for the next time, in
// the place of one that is expected to be used later. Without that, slots would keep what they were
// filled with wherever the CPU alone is the quicker.
void StreamedExperts::KeepOne(LayerRun& run) {
  if (waits_.transfers > 0 || ahead_.AnyAsked()) return;
  for (const int32_t expert : run.cpu_share->experts()) {
    if (Ask(run.layer, run.nth, expert, FetchReason::kPrefetch)) return;
  }
}

// Begins to bring an expert, if there is a slot for it.
bool StreamedExperts::Ask(int layer, size_t nth, int32_t expert, FetchReason reason) {
  if (!store_.Fetch(layer, expert, reason)) return false;
  const auto bytes = static_cast<uint64_t>(store_.layout().SlotBytes());
  LayerOffloadStats& stats = StatsOf(nth);
  if (store_.PlaceOf(layer, expert) == ExpertStore::Place::kReading) stats.disk_bytes += bytes;
  if (store_.host() != nullptr) stats.link_bytes += bytes;
  return true;
}

void StreamedExperts::AskForMissing(LayerRun& run) {
  while (!run.away.empty()) {
    const int32_t expert = run.away.back();
    if (!Ask(run.layer, run.nth, expert, FetchReason::kDemand)) return;
    run.away.pop_back();
    if (store_.PlaceOf(run.layer, expert) == ExpertStore::Place::kSlot) {
      run.held.push_back(expert);
    } else {
      run.reading.push_back(expert);
    }
  }
}

// Of a layer that waited for nothing. A device has little queued then, and what comes next is to be
// queued first; on a CPU that would be when the next layer has attended, and behind the last layer
// or the host's own share it would be late.
void StreamedExperts::LookAheadLater(const LayerRun& run) {
  const bool is_last = run.nth + 1 == stats_.layers.size();
  if (run.ctx.OnCuda() && !is_last && run.cpu_share == nullptr) {
    unseen_ids_.assign(run.ids.begin(), run.ids.end());
  } else {
    LookAhead(run.nth, run.ids);
  }
}

void StreamedExperts::LookAheadNow() {
  if (unseen_ids_.empty()) return;
  LookAhead(waits_.nth, unseen_ids_);
  unseen_ids_.clear();
  AskAhead();
}

// Chooses what is worth bringing for the layer behind the n-th, by what that has chosen.
void StreamedExperts::LookAhead(size_t nth, std::span<const int32_t> ids) {
  if (options_.streaming.policy != OffloadPolicy::kPipeline) return;
  const NextExperts::Hits& hits = ahead_.Observe(nth, ids, options_.streaming.prefetch);
  StatsOf(nth).forecast = hits.needed;
  StatsOf(nth).forecast_hits = hits.foretold;
}

// As far as there are slots for it.
void StreamedExperts::AskAhead() {
  const size_t nth = ahead_.nth();
  while (const std::optional<int32_t> expert = ahead_.Next()) {
    if (!Ask(LayerOf(nth), nth, *expert, FetchReason::kPrefetch)) return;
    ahead_.NoteAsked();
    ++StatsOf(nth).prefetched;
  }
}

// Takes note of what has been read, and gives up what could not be.
void StreamedExperts::TakeRead(LayerRun& run) {
  std::erase_if(run.reading, [&](int32_t expert) {
    switch (store_.PlaceOf(run.layer, expert)) {
      case ExpertStore::Place::kReading:
        return false;
      case ExpertStore::Place::kSlot:
        run.held.push_back(expert);
        break;
      case ExpertStore::Place::kAway:  // a prefetch that failed: now it is asked for
        run.away.push_back(expert);
        break;
      case ExpertStore::Place::kFailed:
        Fail(run, expert);
    }
    return true;
  });
}

void StreamedExperts::Fail(LayerRun& run, int32_t expert) {
  const std::string error = store_.TakeFailure(run.layer, expert);
  ++StatsOf(run.nth).failed;
  for (size_t i = 0; i < run.ids.size(); ++i) {
    if (run.ids[i] != expert) continue;
    failures_.push_back({static_cast<int64_t>(i) / options_.top_k, error});
  }
  const std::vector<int32_t> offsets = RowOffsets(counts_);
  const TensorView failed = run.rows.y.Slice(offsets[expert], offsets[expert + 1]);
  const auto bytes = static_cast<size_t>(failed.NumBytes());
  if (bytes == 0) return;
  if (run.ctx.OnCuda()) {
    run.ctx.cuda->Fill(failed.raw(), 0, bytes);
  } else {
    std::memset(failed.raw(), 0, bytes);
  }
}

std::vector<int32_t> StreamedExperts::NextWave(LayerRun& run) {
  std::vector<int32_t> wave;
  if (!options_.streaming.ready_first) {
    wave.swap(run.held);
    return wave;
  }
  const auto behind = std::stable_partition(run.held.begin(), run.held.end(), [&](int32_t expert) {
    return store_.Ready(run.layer, expert);
  });
  const auto ready = static_cast<size_t>(behind - run.held.begin());
  size_t least = 1;
  if (run.ctx.OnCuda() && (waits_.waves > 0 || waits_.began_ready)) {
    least = std::min(CeilDiv(run.NumOutstanding(), 4), CeilDiv(run.held.size(), 2));
  }
  const auto end = run.held.begin() + static_cast<ptrdiff_t>(std::max(ready, least));
  wave.assign(run.held.begin(), end);
  run.held.erase(run.held.begin(), end);
  return wave;
}

void StreamedExperts::RunWave(LayerRun& run, std::span<const int32_t> experts) {
  const ExpertLease lease = store_.Pin(run.layer, experts);
  // Ahead of the wait, so that on a device the table is there before the experts are.
  const Arena::Scope scope(run.ctx.arena);
  std::fill(slots_.begin(), slots_.end(), -1);
  for (size_t i = 0; i < experts.size(); ++i) slots_[experts[i]] = lease.slots()[i];
  const TensorView slots = SendSlots(slots_, run.ctx);

  if (times_.size() == waits_.waves) times_.emplace_back();
  WaveTimes& times = times_[waits_.waves++];
  times.came.Mark(run.ctx);
  {
    const TimelineSpan span(options_.timeline, "await experts");
    lease.Await();
  }
  times.began.Mark(run.ctx);
  RunSlots(run.rows, slots, static_cast<int>(experts.size()), run.inner, store_.layout(),
           store_.slab(), run.ctx);
  lease.CheckUnchanged();
}

}  // namespace sluice
