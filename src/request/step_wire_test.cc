#include "request/step_wire.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <vector>

#include "base/error.h"

namespace sluice {
namespace {

template <class T>
std::vector<std::byte> ToWire(const T& value) {
  std::vector<std::byte> bytes(1 << 16);
  WireWriter writer(bytes);
  writer.Write(value);
  bytes.resize(writer.num_bytes());
  return bytes;
}

// The bindings break when a struct gets a field, here as in its Fields.
void ExpectSame(const TokenLogprob& got, const TokenLogprob& want) {
  const auto& [token, logprob] = got;
  EXPECT_EQ(token, want.token);
  EXPECT_EQ(logprob, want.logprob);
}

void ExpectSame(const SampledToken& got, const SampledToken& want) {
  const auto& [token, logprob, rank, top] = got;
  EXPECT_EQ(token, want.token);
  EXPECT_EQ(logprob, want.logprob);
  EXPECT_EQ(rank, want.rank);
  ASSERT_EQ(top.size(), want.top.size());
  for (size_t i = 0; i < top.size(); ++i) ExpectSame(top[i], want.top[i]);
}

void ExpectSame(const SamplingParams& got, const SamplingParams& want) {
  const auto& [temperature, top_p, top_k, min_p, repetition_penalty, presence_penalty,
               frequency_penalty, logit_bias, seed, n, max_tokens, min_tokens, ignore_eos,
               stop_token_ids, stop, include_stop_str_in_output, logprobs, prompt_logprobs] = got;
  EXPECT_EQ(temperature, want.temperature);
  EXPECT_EQ(top_p, want.top_p);
  EXPECT_EQ(top_k, want.top_k);
  EXPECT_EQ(min_p, want.min_p);
  EXPECT_EQ(repetition_penalty, want.repetition_penalty);
  EXPECT_EQ(presence_penalty, want.presence_penalty);
  EXPECT_EQ(frequency_penalty, want.frequency_penalty);
  EXPECT_EQ(logit_bias, want.logit_bias);
  EXPECT_EQ(seed, want.seed);
  EXPECT_EQ(n, want.n);
  EXPECT_EQ(max_tokens, want.max_tokens);
  EXPECT_EQ(min_tokens, want.min_tokens);
  EXPECT_EQ(ignore_eos, want.ignore_eos);
  EXPECT_EQ(stop_token_ids, want.stop_token_ids);
  EXPECT_EQ(stop, want.stop);
  EXPECT_EQ(include_stop_str_in_output, want.include_stop_str_in_output);
  EXPECT_EQ(logprobs, want.logprobs);
  EXPECT_EQ(prompt_logprobs, want.prompt_logprobs);
}

void ExpectSame(const std::vector<PageCopy>& got, const std::vector<PageCopy>& want) {
  ASSERT_EQ(got.size(), want.size());
  for (size_t i = 0; i < got.size(); ++i) {
    const auto& [from, to] = got[i];
    EXPECT_EQ(from, want[i].from);
    EXPECT_EQ(to, want[i].to);
  }
}

void ExpectSame(const SampleContext& got, const SampleContext& want) {
  const auto& [params, seed, prompt_length, history, generated, end_ids] = got;
  ExpectSame(params, want.params);
  EXPECT_EQ(seed, want.seed);
  EXPECT_EQ(prompt_length, want.prompt_length);
  EXPECT_EQ(history, want.history);
  EXPECT_EQ(generated, want.generated);
  EXPECT_EQ(end_ids, want.end_ids);
}

void ExpectSame(const SequenceSlice& got, const SequenceSlice& want) {
  const auto& [sequence, tokens, positions, kv_positions, pages, kv_length, layers, mask, ancestors,
               sample_rows, sample, score_rows] = got;
  EXPECT_EQ(sequence, want.sequence);
  EXPECT_EQ(tokens, want.tokens);
  EXPECT_EQ(positions, want.positions);
  EXPECT_EQ(kv_positions, want.kv_positions);
  EXPECT_EQ(pages, want.pages);
  EXPECT_EQ(kv_length, want.kv_length);
  const auto& [nth, of] = layers;
  EXPECT_EQ(nth, want.layers.nth);
  EXPECT_EQ(of, want.layers.of);
  EXPECT_EQ(mask, want.mask);
  EXPECT_EQ(ancestors, want.ancestors);
  EXPECT_EQ(sample_rows, want.sample_rows);
  ExpectSame(sample, want.sample);
  ASSERT_EQ(score_rows.size(), want.score_rows.size());
  for (size_t i = 0; i < score_rows.size(); ++i) {
    const auto& [row, target] = score_rows[i];
    EXPECT_EQ(row, want.score_rows[i].row);
    EXPECT_EQ(target, want.score_rows[i].target);
  }
}

// Every field has a value of its own, and none its default.
StepPlan FullPlan() {
  SequenceSlice slice;
  slice.sequence = 1;
  slice.tokens = {2, 3};
  slice.positions = {4, 5};
  slice.kv_positions = {6, 7};
  slice.pages = {8, 9, 10};
  slice.kv_length = 11;
  slice.layers = {.nth = 36, .of = 37};
  slice.mask = StepMask::kTree;
  slice.ancestors = {12, ~uint64_t{0}};
  slice.sample_rows = {1};
  slice.sample.params = {.temperature = 0.1f,
                         .top_p = 0.2f,
                         .top_k = 13,
                         .min_p = 0.3f,
                         .repetition_penalty = 0.4f,
                         .presence_penalty = 0.5f,
                         .frequency_penalty = 0.6f,
                         .logit_bias = {{14, 0.7f}, {15, -0.8f}},
                         .seed = 16,
                         .n = 17,
                         .max_tokens = 18,
                         .min_tokens = 19,
                         .ignore_eos = true,
                         .stop_token_ids = {20},
                         .stop = {"one", "two"},
                         .include_stop_str_in_output = true,
                         .logprobs = 3,
                         .prompt_logprobs = 4};
  slice.sample.seed = 21;
  slice.sample.prompt_length = 22;
  slice.sample.history = {23, 24};
  slice.sample.generated = 25;
  slice.sample.end_ids = {26};
  slice.score_rows = {{.row = 27, .target = 28}};
  return {.step = 29,
          .swap_out = {{.from = 30, .to = 31}},
          .swap_in = {{.from = 32, .to = 33}, {.from = 34, .to = 35}},
          .slices = {slice, SequenceSlice()}};
}

StepResult FullResult() {
  SliceResult slice;
  slice.sequence = 1;
  slice.samples = {{.token = 2, .logprob = -0.5f, .rank = 3, .top = {{4, -0.25f}, {5, -1}}}};
  slice.scores = {{.token = 6, .logprob = -2, .rank = 7, .top = {}}};
  slice.error = "slice";
  return {.step = 8, .slices = {slice, SliceResult()}, .error = "step", .worker_lost = true};
}

TEST(StepWire, APlanComesBackWhole) {
  const StepPlan want = FullPlan();
  const auto got = FromWire<StepPlan>(ToWire(want));
  const auto& [step, swap_out, swap_in, slices] = got;
  EXPECT_EQ(step, want.step);
  ExpectSame(swap_out, want.swap_out);
  ExpectSame(swap_in, want.swap_in);
  ASSERT_EQ(slices.size(), 2u);
  for (size_t i = 0; i < 2; ++i) ExpectSame(slices[i], want.slices[i]);
}

TEST(StepWire, AResultComesBackWhole) {
  const StepResult want = FullResult();
  const auto got = FromWire<StepResult>(ToWire(want));
  const auto& [step, slices, error, worker_lost] = got;
  EXPECT_EQ(step, want.step);
  EXPECT_EQ(error, want.error);
  EXPECT_EQ(worker_lost, want.worker_lost);
  ASSERT_EQ(slices.size(), 2u);
  for (size_t i = 0; i < 2; ++i) {
    const auto& [sequence, samples, scores, slice_error] = slices[i];
    EXPECT_EQ(sequence, want.slices[i].sequence);
    EXPECT_EQ(slice_error, want.slices[i].error);
    ASSERT_EQ(samples.size(), want.slices[i].samples.size());
    for (size_t j = 0; j < samples.size(); ++j) ExpectSame(samples[j], want.slices[i].samples[j]);
    ASSERT_EQ(scores.size(), want.slices[i].scores.size());
    for (size_t j = 0; j < scores.size(); ++j) ExpectSame(scores[j], want.slices[i].scores[j]);
  }
}

// Reads it or throws Error; anything else fails the test.
template <class T>
bool IsRefused(const std::vector<std::byte>& bytes) {
  try {
    FromWire<T>(bytes);
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kDataLoss);
    return true;
  }
  return false;
}

template <class T>
void Damage(const T& value) {
  const std::vector<std::byte> whole = ToWire(value);
  int refused = 0;
  for (size_t i = 0; i < whole.size(); ++i) {
    EXPECT_TRUE(IsRefused<T>({whole.begin(), whole.begin() + static_cast<ptrdiff_t>(i)}));
    for (const std::byte damage : {std::byte{0x01}, std::byte{0x80}, std::byte{0xff}}) {
      std::vector<std::byte> bytes = whole;
      bytes[i] ^= damage;
      if (IsRefused<T>(bytes)) ++refused;
    }
  }
  EXPECT_GT(refused, 100);  // counts, flags and choices
}

TEST(StepWire, DamageIsAnErrorAtMost) {
  Damage(FullPlan());
  Damage(FullResult());
}

}  // namespace
}  // namespace sluice
