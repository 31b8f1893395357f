#include "sampling/device_sampler.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <random>

#include "base/error.h"
#include "sampling/random.h"

namespace sluice {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();

class DeviceSamplerCudaTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (CudaDevices().empty()) GTEST_SKIP() << "there is no CUDA device";
    stream_ = std::make_unique<CudaStream>();
  }

  // Samples row i of `logits` under contexts[i], all at once, and expects what Sample gives.
  void ExpectAsOnTheHost(const std::vector<std::vector<float>>& logits,
                         const std::vector<SampleContext>& contexts) {
    const auto rows = static_cast<int64_t>(logits.size());
    const auto vocab = static_cast<int64_t>(logits[0].size());
    const Tensor pinned(DType::kF32, {rows, vocab}, MemoryKind::kPinned);
    const Tensor device(DType::kF32, {rows, vocab}, MemoryKind::kCuda);
    std::vector<DeviceSampler::Request> requests;
    for (int64_t i = 0; i < rows; ++i) {
      std::copy(logits[i].begin(), logits[i].end(), pinned.data<float>() + i * vocab);
      // Requests in another order than the rows.
      requests.push_back({.row = rows - 1 - i, .context = &contexts[rows - 1 - i]});
    }
    DeviceSampler sampler(*stream_, vocab, static_cast<int>(rows));
    DeviceSampler::Draws draws;
    for (int repeat = 0; repeat < 2; ++repeat) {
      stream_->Copy(device.data<float>(), pinned.data<float>(), device.view().NumBytes());
      sampler.Queue(device, requests, draws);
      const Tensor after(DType::kF32, {rows, vocab}, MemoryKind::kPinned);
      stream_->Copy(after.data<float>(), device.data<float>(), device.view().NumBytes());
      stream_->Synchronize();
      EXPECT_EQ(std::memcmp(after.data<float>(), pinned.data<float>(), after.view().NumBytes()), 0);
      for (int64_t i = 0; i < rows; ++i) {
        SCOPED_TRACE(::testing::Message()
                     << "row " << requests[i].row << " of " << rows << ", " << vocab << " tokens");
        ExpectSame(sampler.Result(draws, i),
                   Sample(logits[requests[i].row], *requests[i].context, scratch_));
      }
    }
  }

  static void ExpectSame(const SampledToken& got, const SampledToken& want) {
    EXPECT_EQ(got.token, want.token);
    EXPECT_EQ(got.rank, want.rank);
    EXPECT_EQ(got.logprob, want.logprob);
    ASSERT_EQ(got.top.size(), want.top.size());
    for (size_t k = 0; k < got.top.size(); ++k) {
      EXPECT_EQ(got.top[k].token, want.top[k].token);
      EXPECT_EQ(got.top[k].logprob, want.top[k].logprob);
    }
  }

  std::unique_ptr<CudaStream> stream_;
  SampleScratch scratch_;
};

// Logits with the spread of a model's. `step` > 0 rounds them to its multiples, so that many tie.
std::vector<float> RandomLogits(int64_t vocab, std::mt19937& random, float spread, float step = 0) {
  std::normal_distribution<float> normal(0, spread);
  std::vector<float> logits(static_cast<size_t>(vocab));
  for (float& logit : logits) {
    logit = normal(random);
    if (step > 0) logit = std::round(logit / step) * step;
  }
  return logits;
}

std::vector<SamplingParams> EveryKindOfParams() {
  std::vector<SamplingParams> all = {{.temperature = 0}, {}, {.temperature = 0.3f}};
  for (const int top_k : {0, 1, 20, 1000, 1 << 20}) {
    for (const float top_p : {1e-6f, 0.2f, 0.95f, 0.9999f, 1.0f}) {
      for (const float min_p : {0.0f, 0.05f, 1.0f}) {
        all.push_back({.temperature = 0.7f, .top_p = top_p, .top_k = top_k, .min_p = min_p});
      }
    }
  }
  for (const int logprobs : {0, 1, 5, kMaxLogprobs}) {
    all.push_back({.temperature = 0, .logprobs = logprobs});
    all.push_back({.top_p = 0.9f, .top_k = 50, .logprobs = logprobs});
  }
  return all;
}

TEST_F(DeviceSamplerCudaTest, EqualsTheHostWhateverIsAsked) {
  std::mt19937 random(1);
  const std::vector<SamplingParams> params = EveryKindOfParams();
  for (const int64_t vocab : {1, 5, 333, 4096, 50304, 151936}) {
    for (const float step : {0.0f, 0.5f}) {
      for (size_t first = 0; first < params.size(); first += 64) {
        std::vector<SampleContext> contexts;
        std::vector<std::vector<float>> logits;
        for (size_t i = first; i < std::min(params.size(), first + 64); ++i) {
          contexts.push_back({.params = params[i], .seed = random()});
          logits.push_back(RandomLogits(vocab, random, i % 2 == 0 ? 3.0f : 0.5f, step));
        }
        ExpectAsOnTheHost(logits, contexts);
      }
    }
  }
}

TEST_F(DeviceSamplerCudaTest, EqualsTheHostForAFewRows) {
  std::mt19937 random(2);
  const std::vector<SamplingParams> params = EveryKindOfParams();
  for (const size_t rows : {1, 3, 16}) {
    for (size_t first = 0; first + rows <= params.size(); first += rows) {
      std::vector<SampleContext> contexts;
      std::vector<std::vector<float>> logits;
      for (size_t i = first; i < first + rows; ++i) {
        contexts.push_back({.params = params[i], .seed = random(), .generated = 7});
        logits.push_back(RandomLogits(32000, random, 2.0f));
      }
      ExpectAsOnTheHost(logits, contexts);
    }
  }
}

TEST_F(DeviceSamplerCudaTest, EqualsTheHostUnderEveryEdit) {
  std::mt19937 random(3);
  std::vector<SampleContext> contexts;
  std::vector<std::vector<float>> logits;
  constexpr int kVocab = 20000;
  for (int i = 0; i < 32; ++i) {
    SampleContext& context = contexts.emplace_back();
    context.seed = random();
    context.params.temperature = i % 2 == 0 ? 0.0f : 0.9f;
    if (i % 4 < 2) context.params.top_p = 0.9f;
    if (i % 3 == 0) context.params.logprobs = i % 5;
    if ((i & 1) != 0) context.params.logit_bias = {{7, 9.0f}, {19999, -100.0f}, {7, 1.5f}};
    if ((i & 2) != 0) context.params.repetition_penalty = 1.3f;
    if ((i & 4) != 0) context.params.presence_penalty = 0.7f;
    if ((i & 8) != 0) context.params.frequency_penalty = -0.4f;
    if ((i & 16) != 0) context.params.min_tokens = 1000;
    context.end_ids = {3, 7};
    context.prompt_length = 200;
    context.generated = 100 * (i % 3);
    logits.push_back(RandomLogits(kVocab, random, 3.0f));
    const auto best = std::max_element(logits.back().begin(), logits.back().end());
    if (!NeedsHistory(context.params)) continue;
    for (int t = 0; t < context.prompt_length + context.generated; ++t) {
      context.history.push_back(t % 10 == 0 ? static_cast<TokenId>(best - logits.back().begin())
                                            : static_cast<TokenId>(random() % kVocab));
    }
  }
  ExpectAsOnTheHost(logits, contexts);
}

TEST_F(DeviceSamplerCudaTest, TheLowerIdWinsATie) {
  std::vector<float> logits(4000, -1.0f);
  logits[3999] = logits[1733] = logits[2000] = 2.0f;
  std::vector<SampleContext> contexts(3);
  contexts[0].params.temperature = 0;
  contexts[1].params.top_k = 2;
  contexts[2].params.top_p = 0.9f;
  ExpectAsOnTheHost({logits, logits, logits}, contexts);
  ExpectAsOnTheHost({std::vector<float>(4000, -0.0f), std::vector<float>(4000, 1.0f),
                     std::vector<float>(4000, 0.0f)},
                    contexts);
}

TEST_F(DeviceSamplerCudaTest, FillsInWhatWasDrawnLast) {
  constexpr int kVocab = 3000;
  constexpr int kRows = 5;
  const Tensor logits(DType::kF32, {kRows, kVocab}, MemoryKind::kPinned);
  const Tensor device(DType::kF32, {kRows, kVocab}, MemoryKind::kCuda);
  const SampleContext greedy{.params = {.temperature = 0}};
  std::vector<DeviceSampler::Request> requests;
  for (int i = 0; i < kRows; ++i) {
    std::fill_n(logits.data<float>() + i * kVocab, kVocab, 0.0f);
    logits.data<float>()[i * kVocab + 100 * i] = 1;  // row i draws token 100 i
    requests.push_back({.row = kRows - 1 - i, .context = &greedy});
  }
  logits.data<float>()[0] = std::nanf("");  // and row 0, the last request, none
  constexpr int kTokens = 200;
  const Tensor host(DType::kI32, {kTokens}, MemoryKind::kPinned);
  const Tensor tokens(DType::kI32, {kTokens}, MemoryKind::kCuda);
  for (int i = 0; i < kTokens; ++i) host.data<int32_t>()[i] = i % 2 == 0 ? i : -1 - i % kRows;

  DeviceSampler sampler(*stream_, kVocab, kRows);
  DeviceSampler::Draws draws;
  stream_->Copy(device.data<float>(), logits.data<float>(), device.view().NumBytes());
  stream_->Copy(tokens.data<int32_t>(), host.data<int32_t>(), tokens.view().NumBytes());
  sampler.Queue(device, requests, draws);
  sampler.FillIn(tokens);
  stream_->Copy(host.data<int32_t>(), tokens.data<int32_t>(), tokens.view().NumBytes());
  stream_->Synchronize();
  for (int i = 0; i < kTokens; ++i) {
    const int drawn = 100 * (kRows - 1 - i % kRows);
    EXPECT_EQ(host.data<int32_t>()[i], i % 2 == 0 ? i : drawn) << i;
  }
}

TEST_F(DeviceSamplerCudaTest, RefusesBrokenRowsAlone) {
  constexpr int kVocab = 3000;
  std::vector<std::vector<float>> rows(4, std::vector<float>(kVocab, 0.5f));
  rows[0][2999] = std::nanf("");
  rows[1][17] = kInf;
  rows[2].assign(kVocab, -kInf);
  for (const SamplingParams& params : {SamplingParams{.temperature = 0},
                                       SamplingParams{.top_p = 0.9f, .top_k = 9, .logprobs = 3}}) {
    const Tensor pinned(DType::kF32, {4, kVocab}, MemoryKind::kPinned);
    const Tensor device(DType::kF32, {4, kVocab}, MemoryKind::kCuda);
    const SampleContext context{.params = params};
    std::vector<DeviceSampler::Request> requests;
    for (int i = 0; i < 4; ++i) {
      std::copy(rows[i].begin(), rows[i].end(), pinned.data<float>() + i * kVocab);
      requests.push_back({.row = i, .context = &context});
    }
    DeviceSampler sampler(*stream_, kVocab, 4);
    DeviceSampler::Draws draws;
    stream_->Copy(device.data<float>(), pinned.data<float>(), device.view().NumBytes());
    sampler.Queue(device, requests, draws);
    stream_->Synchronize();
    for (int i = 0; i < 3; ++i) EXPECT_THROW(sampler.Result(draws, i), Error) << i;
    ExpectSame(sampler.Result(draws, 3), Sample(rows[3], context, scratch_));
  }
}

}  // namespace
}  // namespace sluice
