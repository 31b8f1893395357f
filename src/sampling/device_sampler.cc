#include "sampling/device_sampler.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "base/check.h"
#include "sampling/device_sampler_kernels.h"

namespace sluice {
namespace {

static_assert(cuda::kMostAlternatives >= kMaxLogprobs);

cuda::SampleRow RowOf(const SampleContext& context, int64_t logits_row) {
  const SamplingParams& params = context.params;
  const bool greedy = params.temperature < kGreedyTemperature;
  return {.logits_row = logits_row,
          .random = greedy ? 0 : RandomBitsOf(context),
          .inverse_temperature = greedy ? 0 : 1.0f / params.temperature,
          .min_p = params.min_p,
          .top_p = params.top_p,
          .top_k = params.top_k,
          .num_top = params.logprobs.value_or(-1)};
}

bool Selects(const cuda::SampleRow& row) {
  const bool truncates = row.inverse_temperature > 0 && (row.top_k > 0 || row.top_p < 1);
  return truncates || row.num_top > 0;
}

}  // namespace

DeviceSampler::DeviceSampler(CudaStream& stream, int64_t vocab_size, int max_rows)
    : stream_(stream),
      vocab_size_(vocab_size),
      max_rows_(max_rows),
      states_(max_rows * sizeof(cuda::SampleState), MemoryKind::kCuda),
      histograms_(max_rows * sizeof(cuda::SampleHistograms), MemoryKind::kCuda),
      tokens_(max_rows * sizeof(int32_t), MemoryKind::kCuda) {
  SLUICE_CHECK_GE(vocab_size, 1);
  SLUICE_CHECK_LE(vocab_size, kMaxVocabulary);
}

uint64_t DeviceSampler::DeviceBytes(int max_rows) {
  return max_rows * (sizeof(cuda::SampleState) + sizeof(cuda::SampleHistograms) + sizeof(int32_t));
}

void DeviceSampler::Queue(TensorView logits, std::span<const Request> requests, Draws& draws) {
  SLUICE_CHECK_LE(std::ssize(requests), max_rows_);
  SLUICE_CHECK_EQ(logits.dim(1), vocab_size_);
  SLUICE_CHECK(logits.IsContiguous());
  const size_t count = requests.size();
  std::vector<cuda::SampleRow> rows;
  bool selects = false;
  edits_.clear();
  draws.logprobs_.clear();
  for (const Request& request : requests) {
    SLUICE_CHECK_LT(request.row, logits.dim(0));
    cuda::SampleRow row = RowOf(*request.context, request.row);
    EditsOf(*request.context, static_cast<size_t>(vocab_size_), scratch_);
    row.edit_begin = static_cast<int32_t>(edits_.size());
    row.edit_count = static_cast<int32_t>(scratch_.edits.size());
    edits_.insert(edits_.end(), scratch_.edits.begin(), scratch_.edits.end());
    selects = selects || Selects(row);
    rows.push_back(row);
    draws.logprobs_.push_back(request.context->params.logprobs);
  }

  const size_t rows_bytes = count * sizeof(cuda::SampleRow);
  const size_t edits_bytes = edits_.size() * sizeof(LogitEdit);
  Reserve(rows_bytes + edits_bytes, MemoryKind::kPinned, draws.told_);
  Reserve(count * sizeof(cuda::SampleOutcome), MemoryKind::kPinned, draws.outcomes_);
  Reserve(rows_bytes + edits_bytes, MemoryKind::kCuda, told_);
  Reserve(edits_.size() * sizeof(float), MemoryKind::kCuda, saved_);
  std::memcpy(draws.told_.data(), rows.data(), rows_bytes);
  if (edits_bytes > 0) std::memcpy(draws.told_.data() + rows_bytes, edits_.data(), edits_bytes);
  if constexpr (kCudaBuilt) {
    stream_.Copy(told_.data(), draws.told_.data(), rows_bytes + edits_bytes);
    stream_.Fill(states_.data(), 0, count * sizeof(cuda::SampleState));
    if (selects) stream_.Fill(histograms_.data(), 0, count * sizeof(cuda::SampleHistograms));
    cuda::SampleRows({.logits = logits.data<float>(),
                      .vocab = vocab_size_,
                      .rows = reinterpret_cast<const cuda::SampleRow*>(told_.data()),
                      .edits = reinterpret_cast<const LogitEdit*>(told_.data() + rows_bytes),
                      .saved = reinterpret_cast<float*>(saved_.data()),
                      .states = reinterpret_cast<cuda::SampleState*>(states_.data()),
                      .histograms = reinterpret_cast<cuda::SampleHistograms*>(histograms_.data()),
                      .outcomes = reinterpret_cast<cuda::SampleOutcome*>(draws.outcomes_.data()),
                      .tokens = reinterpret_cast<int32_t*>(tokens_.data()),
                      .count = static_cast<int>(count)},
                     stream_);
  }
}

void DeviceSampler::FillIn(TensorView tokens) {
  if constexpr (kCudaBuilt) {
    cuda::FillInTokens({.tokens = tokens.data<int32_t>(),
                        .count = tokens.NumElements(),
                        .drawn = reinterpret_cast<const int32_t*>(tokens_.data())},
                       stream_);
  }
}

SampledToken DeviceSampler::Result(const Draws& draws, size_t i) {
  const auto& outcome = reinterpret_cast<const cuda::SampleOutcome*>(draws.outcomes_.data())[i];
  CheckLargest(outcome.largest, outcome.problem == cuda::kIsNan);
  CheckDrawable(outcome.largest);
  const std::optional<int>& asked = draws.logprobs_.at(i);
  if (!asked) return {.token = outcome.token};
  scratch_.candidates.clear();
  for (int k = 0; k < std::min(outcome.top_count, cuda::kMostAlternatives); ++k) {
    scratch_.candidates.push_back({outcome.top_values[k], outcome.top_tokens[k]});
  }
  return ScoreOf({outcome.own, outcome.token}, outcome.rank, outcome.raw_largest, outcome.raw_mass,
                 scratch_.candidates);
}

void DeviceSampler::Reserve(size_t bytes, MemoryKind kind, Buffer& buffer) {
  if (bytes <= buffer.size()) return;
  // Steps that are queued may still use what goes.
  if (kind == MemoryKind::kCuda) stream_.Synchronize();
  buffer = Buffer(std::max<size_t>(64 << 10, std::bit_ceil(bytes)), kind);
}

}  // namespace sluice
