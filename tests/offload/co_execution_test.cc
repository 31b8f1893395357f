// Golden models with experts of which the CPU computes some while a link brings others: on a GPU
// these are rounded otherwise, and by how much is measured against every expert in a slot there,
// with the same routing.

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "device/cuda_stream.h"
#include "golden_model.h"

namespace sluice {
namespace {

constexpr double kMostRelativeL2 = 1e-2;
constexpr int kGreedyTokens = 48;
// Tokens of each sequence a step: all, some, one. The fewer there are, the more the CPU takes.
constexpr int kChunks[] = {0, 9, 1};
constexpr double kShares[] = {0, 0.2};  // of the experts, those that have a slot; two at least

// Slow enough that the CPU takes a share.
constexpr SimulatedLink kSlowLink{.bytes_per_s = 1e9, .latency_s = 20e-6};

std::shared_ptr<InMemoryTrace> MakeTrace(const ModelSpec& spec) {
  return std::make_shared<InMemoryTrace>(RouterTraceHeader{.model = "golden",
                                                           .num_layers = spec.num_layers,
                                                           .num_experts = spec.moe.num_experts,
                                                           .top_k = spec.moe.top_k,
                                                           .source = "model"});
}

// How far apart two logits of a row may be where a rounding within the limit lets either be the
// greater one: each of the two moves by that share of the row's root mean square, twice that where
// it is unlucky.
double NearTie(std::span<const float> row) {
  double squares = 0.0;
  for (const float logit : row) squares += double{logit} * logit;
  return 4 * kMostRelativeL2 * std::sqrt(squares / static_cast<double>(row.size()));
}

// What a model says with every expert in a slot, and what it chose meanwhile.
class Resident {
 public:
  Resident(const GoldenModel& model, const RunnerOptions& options)
      : model_(model), runner_(model.MakeRunner(options)) {
    MemoryRecorder recorder(*routing_);
    runner_->SetObserver(&recorder);
    ForwardSequences(*runner_, model.rows());
    MemoryRecorder text_recorder(*text_routing_);
    runner_->SetObserver(&text_recorder);
    text_ = GreedyContinuation(*runner_, model.golden().row(0), kGreedyTokens);
    runner_->SetObserver(nullptr);
    runner_->SetRouting(std::make_unique<ReplayRouting>(routing_));
    for (const int chunk : kChunks) {
      logits_.push_back(ValuesOf(ForwardSequences(*runner_, model.rows(), {.chunk = chunk})));
    }
  }

  // The largest relative L2 of the other's logits.
  double DistanceOf(ModelRunner& other) const {
    other.SetRouting(std::make_unique<ReplayRouting>(routing_));
    double worst = 0.0;
    for (size_t i = 0; i < logits_.size(); ++i) {
      const std::vector<float> logits =
          ValuesOf(ForwardSequences(other, model_.rows(), {.chunk = kChunks[i]}));
      const LogitsDistance distance = CompareLogits(logits, logits_[i], model_.golden().vocab_size);
      worst = std::isnan(distance.relative_l2) ? INFINITY : std::max(worst, distance.relative_l2);
    }
    return worst;
  }

  // The other's greedy text is the same, up to a token between which and the right one it is close.
  void ExpectSameText(ModelRunner& other) {
    other.SetRouting(std::make_unique<ReplayRouting>(text_routing_));
    const std::span<const TokenId> prompt = model_.golden().row(0);
    const std::vector<TokenId> text = GreedyContinuation(other, prompt, kGreedyTokens);
    const auto [mine, theirs] = std::mismatch(text_.begin(), text_.end(), text.begin());
    if (mine == text_.end()) return;
    std::vector<TokenId> tokens(prompt.begin(), prompt.end());
    tokens.insert(tokens.end(), text_.begin(), text_.end() - 1);
    runner_->SetRouting(std::make_unique<ReplayRouting>(text_routing_));
    const std::vector<std::span<const TokenId>> rows = {tokens};
    const std::vector<float> logits = ValuesOf(ForwardSequences(*runner_, rows));
    const auto vocab = static_cast<size_t>(model_.golden().vocab_size);
    const auto at = prompt.size() - 1 + static_cast<size_t>(mine - text_.begin());
    const std::span<const float> row = std::span(logits).subspan(at * vocab, vocab);
    EXPECT_LE(row[static_cast<size_t>(*mine)] - row[static_cast<size_t>(*theirs)], NearTie(row))
        << "token " << mine - text_.begin() << " is " << *theirs << " and not " << *mine;
  }

 private:
  const GoldenModel& model_;
  const std::unique_ptr<ModelRunner> runner_;
  const std::shared_ptr<InMemoryTrace> routing_ = MakeTrace(model_.spec());
  const std::shared_ptr<InMemoryTrace> text_routing_ = MakeTrace(model_.spec());
  std::vector<std::vector<float>> logits_;  // [chunks]
  std::vector<TokenId> text_;
};

// Every golden, and the worst of them in print.
void ExpectAlike(const RunnerOptions& options) {
  double worst = 0.0;
  uint64_t on_cpu = 0;
  for (const std::string& name : GoldensWithExperts()) {
    SCOPED_TRACE(name);
    const GoldenModel model(name);
    Resident resident(model, options);
    for (const double share : kShares) {
      RunnerOptions few = options;
      few.expert_slots = std::max(2, static_cast<int>(share * model.NumExperts()));
      few.offload.streaming.cpu_experts = true;
      few.offload.host_slots = static_cast<int>(model.NumExperts());
      few.offload.link = kSlowLink;
      const auto runner = model.MakeRunner(few);
      const double distance = resident.DistanceOf(*runner);
      EXPECT_LE(distance, options.cuda.has_value() ? kMostRelativeL2 : 0.0);
      resident.ExpectSameText(*runner);
      const LayerOffloadStats stats = runner->offload_stats()->Total();
      fmt::print("{}, {} slots: relative L2 {:.2e}, {} of {} experts on the CPU\n", name,
                 few.expert_slots, distance, stats.cpu, stats.requests);
      worst = std::max(worst, distance);
      on_cpu += stats.cpu;
    }
  }
  fmt::print("worst relative L2: {:.2e}\n", worst);
  EXPECT_GT(on_cpu, 0u);
}

// A runner whose CPU computes experts behind a slow link that is told nothing ahead.
std::unique_ptr<ModelRunner> MakeHelped(const GoldenModel& model, int expert_slots,
                                        const SimulatedLink& link) {
  RunnerOptions options{.expert_slots = expert_slots};
  options.offload.streaming = {.prefetch = false, .cpu_experts = true};
  options.offload.host_slots = static_cast<int>(model.NumExperts());
  options.offload.link = link;
  return model.MakeRunner(options);
}

TEST(CoExecution, LeavesExpertsToTheLinkWhileSlotsAreFree) {
  const GoldenModel model("qwen3_moe");
  const auto runner = MakeHelped(model, static_cast<int>(model.NumExperts()) - 1, kSlowLink);
  ForwardSequences(*runner, model.rows());
  const LayerOffloadStats stats = runner->offload_stats()->Total();
  EXPECT_GT(stats.misses, 0u);
  EXPECT_EQ(stats.cpu, 0u);
}

// Else slots would hold for ever what they were filled with, where the CPU is always the quicker.
TEST(CoExecution, BringsSomeOfWhatTheCpuComputesForTheNextTime) {
  const GoldenModel model("qwen3_moe");
  const auto runner = MakeHelped(model, static_cast<int>(model.NumExperts() / 4),
                                 {.bytes_per_s = 1e9, .latency_s = 1e-3});
  ForwardSequences(*runner, model.rows(), {.chunk = 1});
  const LayerOffloadStats stats = runner->offload_stats()->Total();
  EXPECT_GT(stats.cpu, stats.misses);
  const ExpertLayout layout = ExpertLayoutOf(model.spec(), RunnerOptions().dtype);
  EXPECT_GT(stats.link_bytes, stats.misses * static_cast<uint64_t>(layout.SlotBytes()));
}

TEST(CoExecution, ComputesTheSameAsExpertsInSlots) {
  ExpectAlike({.dtype = DType::kBF16});
}

TEST(CoExecution, ComputesAlikeOnADevice) {
  if (CudaDevices().empty()) GTEST_SKIP() << "there is no CUDA device";
  ExpectAlike({.cuda = 0, .dtype = DType::kBF16});
}

}  // namespace
}  // namespace sluice
