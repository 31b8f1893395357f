#include "moe/cpu_share.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "moe/row_offsets.h"
#include "ops/common/copy_few_bytes.h"
#include "plan/co_execution.h"

namespace sluice {
namespace {

// Tokens of a step whose hidden states go to the host: as many as the steps of a server have. With
// more, experts have so many rows that the link serves nearly all of them sooner.
constexpr int64_t kMostTokens = 2048;

// Of what the last copies took, in the mean.
constexpr double kNewestCopies = 0.125;

}  // namespace

CpuShare::CpuShare(ExpertStore& store, ThreadPool& pool, const Options& options)
    : store_(store),
      options_(options),
      cpu_(store.layout(), store.host()->slab(), store.host()->num_slots(), pool, options.tier) {
  if (!options.beside_device) return;
  side_.emplace([timeline = options.timeline] {
    if (timeline != nullptr) timeline->NameThread("experts on the CPU");
  });
}

void CpuShare::Bring(ConstTensorView h, ops::OpContext& ctx) {
  h_ = {};
  if (h.dim(0) > kMostTokens) return;
  h_ = copy_of_h_.Of(h, ctx);
  h_known_.Mark(ctx);
}

std::unique_ptr<CpuShare::Layer> CpuShare::Begin(const Need& need, const ExpertRows& rows,
                                                 ops::OpContext& ctx) {
  SLUICE_CHECK_EQ(ctx.OnCuda(), side_.has_value());
  if (h_.empty() || need.away.empty() || store_.NumFreeSlots() > 0) return nullptr;
  std::vector<int32_t> experts = Choose(need);
  if (experts.empty()) return nullptr;
  std::unique_ptr<Layer> layer(new Layer(*this, std::move(experts), need, rows, ctx));
  // The thread that asks for the other experts and drives the device does not wait for these.
  if (side_) layer->BeginAside();
  return layer;
}

// Ascending.
std::vector<int32_t> CpuShare::Choose(const Need& need) {
  const HostExperts& host = *store_.host();
  std::vector<int32_t> experts;
  for (const int32_t expert : need.away) {
    if (host.SlotOf(store_.experts().IndexOf(need.layer, expert)) >= 0) experts.push_back(expert);
  }
  // Those beyond a small host tier are read by way of its slots, of which half stay free for that.
  if (!host.HoldsAll()) {
    experts.resize(std::min(experts.size(), static_cast<size_t>(host.num_slots() / 2)));
  }
  if (experts.empty()) return experts;
  std::vector<int> tokens;
  for (auto it = experts.rbegin(); it != experts.rend(); ++it) tokens.push_back(need.counts[*it]);
  NoteCopies();
  const size_t queued = need.transfers - experts.size();
  const int share = HostShare(tokens, static_cast<double>(queued) * copy_s_, cpu_.Costs(copy_s_));
  if (share == 0) cpu_.NoteLeftOut();
  experts.resize(static_cast<size_t>(share));
  std::sort(experts.begin(), experts.end());
  return experts;
}

// Of the link's own time, not of what is computed beside it.
void CpuShare::NoteCopies() {
  const LinkUse use = store_.link()->Use();
  if (use.copies == link_use_.copies) return;
  const double each =
      (use.busy_s - link_use_.busy_s) / static_cast<double>(use.copies - link_use_.copies);
  copy_s_ = copy_s_ == 0.0 ? each : copy_s_ + kNewestCopies * (each - copy_s_);
  link_use_ = use;
}

HostLease CpuShare::Hold(int layer, std::span<const int32_t> experts) const {
  std::vector<int32_t> indices;
  for (const int32_t expert : experts) indices.push_back(store_.experts().IndexOf(layer, expert));
  return store_.host()->Pin(indices);
}

CpuShare::Layer::Layer(CpuShare& share, std::vector<int32_t> experts, const Need& need,
                       const ExpertRows& rows, ops::OpContext& ctx)
    : share_(share),
      ctx_(ctx),
      experts_(std::move(experts)),
      lease_(share.Hold(need.layer, experts_)),
      slots_(need.counts.size(), -1),
      row_offsets_(RowOffsets(need.counts)),
      all_y_(rows.y),
      y_(rows.y) {
  for (size_t i = 0; i < experts_.size(); ++i) slots_[experts_[i]] = lease_.slots()[i];
  if (share_.side_) PlaceInStaging(need.counts);
  std::vector<int32_t> next(row_offsets_.begin(), row_offsets_.end() - 1);
  gather_.resize(row_offsets_.back());
  for (size_t i = 0; i < need.ids.size(); ++i) {
    if (slots_[need.ids[i]] < 0) continue;
    gather_[next[need.ids[i]]++] = static_cast<int32_t>(i) / share_.options_.top_k;
  }
}

// Beside a device: its rows alone, without gaps, in memory that the device reads. That is written
// again for a later layer, whose choice is known when the device has passed ScatterRows.
void CpuShare::Layer::PlaceInStaging(std::span<const int32_t> counts) {
  std::vector<int32_t> own(counts.size());
  for (const int32_t expert : experts_) own[expert] = counts[expert];
  const std::vector<int32_t> all_offsets = std::exchange(row_offsets_, RowOffsets(own));
  staging_.emplace(*ctx_.staging);
  const int64_t num_rows = row_offsets_.back();
  y_ = ctx_.staging->Allocate(all_y_.dtype(), {num_rows, all_y_.dim(1)});
  target_rows_ = ctx_.staging->Allocate(DType::kI32, {num_rows});
  int32_t* row = target_rows_.data<int32_t>();
  for (const int32_t expert : experts_) {
    std::iota(row, row + own[expert], all_offsets[expert]);
    row += own[expert];
  }
}

CpuShare::Layer::~Layer() {
  if (!share_.side_) return;
  try {
    share_.side_->Finish();
  } catch (...) {  // the step has failed of something else
  }
}

void CpuShare::Layer::BeginAside() {
  share_.side_->Begin([this] {
    ctx_.cuda->UseDevice();
    Compute();
  });
}

void CpuShare::Layer::Compute() const {
  const TimelineSpan span(share_.options_.timeline, "experts on the CPU");
  share_.h_known_.Await();
  share_.cpu_.Run({.x = share_.h_, .gather = gather_, .offsets = row_offsets_}, slots_, y_);
}

void CpuShare::Layer::Finish() {
  if (!share_.side_) return Compute();
  share_.came_.Mark(ctx_);
  share_.side_->Finish();
  share_.began_.Mark(ctx_);
  if constexpr (kCudaBuilt) {
    ops::cuda::ScatterRows(all_y_.raw(), y_.raw(), target_rows_.data<int32_t>(), y_.dim(0),
                           static_cast<size_t>(all_y_[0].NumBytes()), *ctx_.cuda);
  }
}

}  // namespace sluice
