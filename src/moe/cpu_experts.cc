#include "moe/cpu_experts.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <numeric>

#include "base/check.h"
#include "moe/moe_layer.h"
#include "quant/float_formats.h"

namespace sluice {
namespace {

// What rows take to the host and results back beside the experts: two small copies and a wait, as
// measured behind a busy link.
constexpr double kStartSeconds = 40e-6;
// Experts that are computed to learn what they cost, and rows of each the second time.
constexpr int kTimedExperts = 8;
constexpr int kTimedRows = 16;
constexpr int kTimes = 4;  // each time with others

double SecondsSince(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

template <class Narrow>
void Widen(const void* from, int64_t count, float* to) {
  const auto* values = static_cast<const Narrow*>(from);
  for (int64_t i = 0; i < count; ++i) to[i] = ToFloat(values[i]);
}

ConstTensorView AsTensor(std::span<const int32_t> values) {
  return ConstTensorView(values.data(), DType::kI32, {std::ssize(values)});
}

}  // namespace

CpuExperts::CpuExperts(const ExpertLayout& layout, const std::byte* slab, int num_slots,
                       ThreadPool& pool, CpuTier tier)
    : layout_(layout), slab_(slab), num_slots_(num_slots), pool_(pool), tier_(tier) {
  SLUICE_CHECK_GE(num_slots, 1);
  const double experts = std::min(kTimedExperts, num_slots_);
  const double one = TimeExperts(1);
  const double many = TimeExperts(kTimedRows);
  costs_.host_s = one / experts;
  costs_.host_row_s = std::max(0.0, many - one) / (experts * (kTimedRows - 1));
  costs_.host_start_s = kStartSeconds;
}

// Seconds of a run of some experts with so many rows each. The first run is not counted, and of the
// others the shortest is: what else the machine does makes a run longer only.
double CpuExperts::TimeExperts(int rows_each) {
  const int experts = std::min(kTimedExperts, num_slots_);
  const int rows = experts * rows_each;
  const Tensor x(DType::kF32, {rows_each, layout_.hidden});
  const Tensor y(DType::kF32, {rows, layout_.hidden});
  std::fill_n(x.data<float>(), x.view().NumElements(), 1.0f);
  std::vector<int32_t> gather(rows);
  std::vector<int32_t> offsets(experts + 1);
  std::vector<int32_t> slots(experts);
  for (int row = 0; row < rows; ++row) gather[row] = row % rows_each;
  for (int e = 0; e <= experts; ++e) offsets[e] = e * rows_each;
  double shortest = 0.0;
  for (int time = 0; time < kTimes; ++time) {
    // Other slots than before: in a layer nothing of an expert is in a cache.
    for (int e = 0; e < experts; ++e) slots[e] = (time * experts + e) % num_slots_;
    const auto start = std::chrono::steady_clock::now();
    Compute({.x = x.view(), .gather = gather, .offsets = offsets}, slots, y);
    const double seconds = SecondsSince(start);
    if (time == 1 || seconds < shortest) shortest = seconds;
  }
  return shortest;
}

CoExecutionCosts CpuExperts::Costs(double link_s) const {
  return {.link_s = link_s,
          .host_s = pace_.value() * costs_.host_s,
          .host_row_s = pace_.value() * costs_.host_row_s,
          .host_start_s = costs_.host_start_s};
}

double CpuExperts::Predict(const HostRows& rows, std::span<const int32_t> slots) const {
  double seconds = 0.0;
  for (size_t e = 0; e < slots.size(); ++e) {
    const int count = rows.offsets[e + 1] - rows.offsets[e];
    if (slots[e] >= 0 && count > 0) seconds += costs_.host_s + (count - 1) * costs_.host_row_s;
  }
  return seconds;
}

void CpuExperts::Run(const HostRows& rows, std::span<const int32_t> slots, TensorView y) {
  const double predicted = Predict(rows, slots);
  if (predicted == 0.0) return;
  const auto start = std::chrono::steady_clock::now();
  Compute(rows, slots, y);
  pace_.NoteRun(SecondsSince(start), predicted);
}

// The rows of x that experts here read, as f32; others hold anything.
ConstTensorView CpuExperts::Widened(const HostRows& rows, std::span<const int32_t> slots) {
  if (rows.x.dtype() == DType::kF32) return rows.x;
  const auto widen = rows.x.dtype() == DType::kBF16 ? &Widen<Bf16> : &Widen<F16>;
  const TensorView wide = arena_.Allocate(DType::kF32, rows.x.shape());
  std::vector<bool> done(rows.x.dim(0));
  for (size_t e = 0; e < slots.size(); ++e) {
    if (slots[e] < 0) continue;
    for (int32_t row = rows.offsets[e]; row < rows.offsets[e + 1]; ++row) {
      const int32_t source = rows.gather[row];
      if (done[source]) continue;
      done[source] = true;
      widen(rows.x[source].raw(), layout_.hidden, wide[source].data<float>());
    }
  }
  return wide;
}

void CpuExperts::Compute(const HostRows& rows, std::span<const int32_t> slots, TensorView y) {
  const Arena::Scope scope(arena_);
  ops::OpContext ctx{.pool = pool_, .arena = arena_, .tier = tier_};
  const TensorView inner = arena_.Allocate(DType::kF32, {y.dim(0), layout_.ffn});
  RunSlots({.x = Widened(rows, slots),
            .gather = AsTensor(rows.gather),
            .offsets = AsTensor(rows.offsets),
            .y = y},
           AsTensor(slots), static_cast<int>(slots.size()), inner, layout_, slab_, ctx);
}

}  // namespace sluice
