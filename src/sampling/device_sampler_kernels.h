#pragma once

#include <cstdint>

#include "device/cuda_stream.h"
#include "sampling/weights.h"

// What the device's sampler tells its kernel, and what it is told. Plain data.
namespace sluice::cuda {

// The most alternatives that a row's logprobs have: kMaxLogprobs of sampling_params.h.
inline constexpr int kMostAlternatives = 20;
// The most blocks that share a row.
inline constexpr int kMostRowBlocks = 32;

struct SampleRow {
  int64_t logits_row = 0;
  uint64_t random = 0;            // what the token is drawn by
  float inverse_temperature = 0;  // 0 = greedy
  float min_p = 0;
  float top_p = 1;
  int32_t top_k = 0;  // 0 = all
  int32_t edit_begin = 0;
  int32_t edit_count = 0;
  int32_t num_top = -1;  // alternatives asked for; -1 = no logprobs at all
};

enum SampleProblem : uint32_t { kNoProblem = 0, kIsNan = 1 };

struct SampleOutcome {
  uint32_t problem = kNoProblem;
  float raw_largest = 0;  // of the logits as they came; where they are asked for
  float largest = 0;      // of the edited logits
  int32_t token = 0;
  // Only where logprobs are asked for.
  float own = 0;  // the token's raw logit
  int32_t rank = 0;
  uint64_t raw_mass = 0;  // of e^(logits - raw_largest)
  int32_t top_count = 0;
  float top_values[kMostAlternatives];  // raw logits, in no order
  int32_t top_tokens[kMostAlternatives];
};

// A select's histograms: one a level of the keys' bits.
inline constexpr int kSelectBins = 2048;
inline constexpr int kSelectLevels = 3;
struct SelectHistogram {
  uint64_t masses[kSelectBins];
  uint32_t counts[kSelectBins];
};

// A row's state while its blocks work, zero when the kernel starts.
struct SampleState {
  uint64_t raw_best;  // the largest logit's bits, ordered, and its token's complement
  uint64_t best;
  uint64_t raw_mass;
  uint32_t arrived;   // at the barriers
  uint32_t finished;  // blocks
  uint32_t problem;
  int32_t token;
  uint32_t rank;
  uint32_t top_count;
  uint32_t ties_end[3];  // by select
  float top_values[kMostAlternatives];
  int32_t top_tokens[kMostAlternatives];
  uint64_t masses[kMostRowBlocks];   // of what is kept, by block
  uint32_t ties[3][kMostRowBlocks];  // by select and block
};

// Which selects a row may make: each has histograms of its own.
enum SampleSelect { kSelectAlternatives = 0, kSelectTopK = 1, kSelectTopP = 2, kSelects = 3 };
struct SampleHistograms {
  SelectHistogram levels[kSelects][kSelectLevels];
};

struct SampleParams {
  float* logits;  // [.., vocab]; rows with edits are written and put back
  int64_t vocab;
  const SampleRow* rows;  // [count]
  const LogitEdit* edits;
  float* saved;                  // [edits] the logits that were edited
  SampleState* states;           // [count]
  SampleHistograms* histograms;  // [count]; null where no row selects
  SampleOutcome* outcomes;       // [count], memory of the host that the device writes
  int32_t* tokens;               // [count] the outcomes' tokens again, on the device
  int count;
};

// Samples each row as sampler.h says. One launch.
void SampleRows(const SampleParams& params, CudaStream& stream);

struct FillInParams {
  int32_t* tokens;  // [count]
  int64_t count;
  const int32_t* drawn;  // SampleParams::tokens
};

// Each token -1 - i becomes drawn[i].
void FillInTokens(const FillInParams& params, CudaStream& stream);

}  // namespace sluice::cuda
