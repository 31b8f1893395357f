#include <algorithm>
#include <cstring>
#include <numeric>
#include <vector>

#include "base/check.h"
#include "base/error.h"
#include "moe/token_dispatcher.h"
#include "ops/permute/dispatch_plan.h"

namespace sluice {
namespace {

std::vector<int64_t> Offsets(std::span<const int64_t> counts, int64_t unit) {
  std::vector<int64_t> offsets = {0};
  for (int64_t count : counts) offsets.push_back(offsets.back() + count * unit);
  return offsets;
}

std::span<std::byte> Bytes(const TensorView& view) {
  return {static_cast<std::byte*>(view.raw()), static_cast<size_t>(view.NumBytes())};
}

class AllToAllDispatcher : public TokenDispatcher {
 public:
  AllToAllDispatcher(int num_experts, ProcessGroup& group)
      : num_experts_(num_experts), experts_per_rank_(num_experts / group.size()), group_(group) {
    SLUICE_CHECK_EQ(experts_per_rank_ * group.size(), num_experts);
  }

  // 1. Sort this rank's (token, expert) pairs by expert: pairs of one owner are then adjacent.
  // 2. Exchange how many rows go where, then the rows and their expert ids.
  // 3. Sort what came by local expert; ties keep (sender, sender's row) order.
  ExpertRows Dispatch(ConstTensorView x, ConstTensorView ids, ops::OpContext& ctx) override {
    if (ctx.OnCuda()) {
      throw Error(ErrorCode::kUnsupported,
                  "expert parallelism runs on the CPU alone: use --device cpu, or one rank");
    }
    hidden_ = x.dim(1);
    plan_ = ops::BuildDispatchPlan(ids, num_experts_, ctx);
    CountRows();

    const TensorView sent = ctx.arena.Allocate(DType::kF32, {sent_rows_, hidden_});
    const TensorView sent_experts = ctx.arena.Allocate(DType::kI32, {sent_rows_});
    GatherRows(x, sent, sent_experts);
    const TensorView received = ctx.arena.Allocate(DType::kF32, {received_rows_, hidden_});
    const TensorView experts = ctx.arena.Allocate(DType::kI32, {received_rows_});
    Exchange(sent, send_counts_, received, recv_counts_, hidden_ * sizeof(float));
    Exchange(sent_experts, send_counts_, experts, recv_counts_, sizeof(int32_t));

    SortByLocalExpert({experts.data<int32_t>(), size_t(received_rows_)});
    y_ = ctx.arena.Allocate(DType::kF32, {received_rows_, hidden_});
    return {.x = received,
            .gather = ConstTensorView(arrival_.data(), DType::kI32, {received_rows_}),
            .offsets = ConstTensorView(offsets_.data(), DType::kI32, {experts_per_rank_ + 1}),
            .y = y_};
  }

  // The way back: undo the sort, return the rows, and sum at the token's own rank.
  void Combine(ConstTensorView weights, TensorView out, ops::OpContext& ctx) override {
    const TensorView by_arrival = ctx.arena.Allocate(DType::kF32, {received_rows_, hidden_});
    for (int64_t row = 0; row < received_rows_; ++row) {
      std::memcpy(by_arrival.data<float>() + arrival_[row] * hidden_,
                  y_.data<float>() + row * hidden_, hidden_ * sizeof(float));
    }
    const TensorView returned = ctx.arena.Allocate(DType::kF32, {sent_rows_, hidden_});
    Exchange(by_arrival, recv_counts_, returned, send_counts_, hidden_ * sizeof(float));
    ops::Combine(returned, plan_.row_of, weights, out, ctx);
  }

 private:
  void CountRows() {
    const int32_t* offsets = plan_.offsets.data<int32_t>();
    send_counts_.resize(group_.size());
    for (int r = 0; r < group_.size(); ++r) {
      send_counts_[r] = offsets[(r + 1) * experts_per_rank_] - offsets[r * experts_per_rank_];
    }
    recv_counts_ = group_.ExchangeCounts(send_counts_);
    sent_rows_ = plan_.row_token.dim(0);
    received_rows_ = std::accumulate(recv_counts_.begin(), recv_counts_.end(), int64_t{0});
  }

  void GatherRows(ConstTensorView x, TensorView rows, TensorView experts) const {
    const int32_t* token = plan_.row_token.data<int32_t>();
    const int32_t* offsets = plan_.offsets.data<int32_t>();
    for (int32_t expert = 0; expert < num_experts_; ++expert) {
      for (int32_t row = offsets[expert]; row < offsets[expert + 1]; ++row) {
        std::memcpy(rows.data<float>() + row * hidden_, x.data<float>() + token[row] * x.stride(0),
                    hidden_ * sizeof(float));
        experts.data<int32_t>()[row] = expert % experts_per_rank_;
      }
    }
  }

  void Exchange(const TensorView& from, const std::vector<int64_t>& from_counts,
                const TensorView& to, const std::vector<int64_t>& to_counts, int64_t row_bytes) {
    group_.AllToAll(Bytes(from), Offsets(from_counts, row_bytes), Bytes(to),
                    Offsets(to_counts, row_bytes));
  }

  void SortByLocalExpert(std::span<const int32_t> experts) {
    offsets_.assign(experts_per_rank_ + 1, 0);
    for (int32_t expert : experts) ++offsets_[expert + 1];
    std::partial_sum(offsets_.begin(), offsets_.end(), offsets_.begin());
    std::vector<int32_t> next(offsets_.begin(), offsets_.end() - 1);
    arrival_.resize(experts.size());
    for (size_t i = 0; i < experts.size(); ++i) {
      arrival_[next[experts[i]]++] = static_cast<int32_t>(i);
    }
  }

  int num_experts_;
  int experts_per_rank_;
  ProcessGroup& group_;

  // Of the layer in hand.
  int64_t hidden_ = 0;
  ops::DispatchPlan plan_;
  std::vector<int64_t> send_counts_;  // [ranks] rows that go to each rank
  std::vector<int64_t> recv_counts_;  // [ranks] rows that came from each
  int64_t sent_rows_ = 0;
  int64_t received_rows_ = 0;
  std::vector<int32_t> offsets_;  // [local experts + 1]
  std::vector<int32_t> arrival_;  // [received rows] arrival index of each sorted row
  TensorView y_;
};

}  // namespace

std::unique_ptr<TokenDispatcher> MakeAllToAllDispatcher(int num_experts, ProcessGroup& group) {
  return std::make_unique<AllToAllDispatcher>(num_experts, group);
}

}  // namespace sluice
