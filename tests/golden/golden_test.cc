// Every golden checkpoint against the logits and greedy text that transformers computed for it, and
// every way of running it against every other, bit for bit.

#include <gtest/gtest.h>

#include <condition_variable>
#include <filesystem>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "arch/registry.h"
#include "arch/testing.h"
#include "checkpoint/checkpoint.h"
#include "checkpoint/config.h"
#include "decode/decode_strategy.h"
#include "device/cuda_stream.h"
#include "dist/process_group.h"
#include "engine/model_runner.h"
#include "engine/verify.h"
#include "sched/engine_loop.h"
#include "trace/router_observer.h"

namespace sluice {
namespace {

namespace fs = std::filesystem;

const fs::path kFolder = fs::path(SLUICE_SOURCE_DIR) / "tests/golden";

// A golden's files, opened once for the whole process.
struct Model {
  explicit Model(const fs::path& dir)
      : spec(SpecFromConfig(HfConfig::FromFolder(dir))),
        source(Checkpoint::Open(dir), spec.block_scaled),
        golden(LoadGolden(dir / "golden.safetensors")) {
    CheckTensors(spec, source);
  }

  std::unique_ptr<ModelRunner> MakeRunner(RunnerOptions options = {}) const {
    if (options.num_pages == 0) options.num_pages = 64;
    if (options.num_threads == 1) options.num_threads = 2;
    options.tier = std::max(options.tier, DetectCpuTier());
    options.max_model_len = spec.max_positions;
    return std::make_unique<ModelRunner>(spec, source, options, std::make_unique<ModelRouting>());
  }

  std::vector<std::span<const TokenId>> rows() const {
    std::vector<std::span<const TokenId>> rows;
    for (int b = 0; b < golden.batch; ++b) rows.push_back(golden.row(b));
    return rows;
  }

  bool IsMoe() const { return spec.moe.num_experts > 0; }

  ModelSpec spec;
  CheckpointSource source;
  Golden golden;
};

std::vector<float> Values(const Tensor& logits) {
  return {logits.data<float>(), logits.data<float>() + logits.view().NumElements()};
}

class GoldenTest : public ::testing::TestWithParam<std::string> {
 protected:
  GoldenTest() : model_(kFolder / GetParam()) {}

  LogitsDistance Distance(const std::vector<float>& logits) const {
    return CompareLogits(logits, model_.golden.logits, model_.golden.vocab_size);
  }

  // All logits as one step of all sequences computes them.
  std::vector<float> Baseline() const {
    return Values(ForwardSequences(*model_.MakeRunner(), model_.rows()));
  }

  // The experts that the model chooses in f32 on the CPU.
  std::unique_ptr<RoutingSource> RecordedRouting() const {
    if (!model_.IsMoe()) return std::make_unique<ModelRouting>();
    auto trace = std::make_shared<InMemoryTrace>(
        RouterTraceHeader{.model = GetParam(),
                          .num_layers = model_.spec.num_layers,
                          .num_experts = model_.spec.moe.num_experts,
                          .top_k = model_.spec.moe.top_k,
                          .source = "model"});
    MemoryRecorder recorder(*trace);
    ForwardSequences(*model_.MakeRunner({.observer = &recorder}), model_.rows());
    return std::make_unique<ReplayRouting>(trace);
  }

  Model model_;
};

TEST_P(GoldenTest, LogitsAndGreedyTextEqualTransformers) {
  const auto runner = model_.MakeRunner();
  EXPECT_LE(Distance(Values(ForwardSequences(*runner, model_.rows()))).relative_l2, 1e-5);
  const Golden& golden = model_.golden;
  ASSERT_FALSE(golden.greedy_ids.empty());
  EXPECT_EQ(GreedyContinuation(*runner, golden.row(0), static_cast<int>(golden.greedy_ids.size())),
            golden.greedy_ids);
}

TEST_P(GoldenTest, ReferenceOpsAndEveryTierAgreeWithTransformers) {
  const auto reference = model_.MakeRunner({.reference_ops = true});
  EXPECT_LE(Distance(Values(ForwardSequences(*reference, model_.rows()))).relative_l2, 1e-5);
  for (CpuTier tier : {CpuTier::kPortable, CpuTier::kAvx2, CpuTier::kAvx512}) {
    if (tier > DetectCpuTier()) continue;
    ModelRunner runner(model_.spec, model_.source,
                       {.num_threads = 2,
                        .tier = tier,
                        .num_pages = 64,
                        .max_model_len = model_.spec.max_positions},
                       std::make_unique<ModelRouting>());
    EXPECT_LE(Distance(Values(ForwardSequences(runner, model_.rows()))).relative_l2, 1e-5)
        << CpuTierName(tier);
  }
}

TEST_P(GoldenTest, ChunksCompanyAndThreadsDoNotChangeABit) {
  const std::vector<float> baseline = Baseline();
  const auto runner = model_.MakeRunner();
  EXPECT_EQ(Values(ForwardSequences(*runner, model_.rows(), {.chunk = 7})), baseline);
  EXPECT_EQ(Values(ForwardSequences(*runner, model_.rows(), {.chunk = 1})), baseline);
  EXPECT_EQ(Values(ForwardSequences(*runner, model_.rows(), {.together = false})), baseline);
  EXPECT_EQ(Values(ForwardSequences(*runner, model_.rows(), {.chunk = 7, .together = false})),
            baseline);
  const auto crowd = model_.MakeRunner({.num_threads = 5});
  EXPECT_EQ(Values(ForwardSequences(*crowd, model_.rows())), baseline);
}

TEST_P(GoldenTest, AFewPoisonedExpertSlotsGiveTheSameBits) {
  if (!model_.IsMoe()) return;
  const auto runner =
      model_.MakeRunner({.expert_slots = model_.spec.moe.top_k + 3, .poison_freed_slots = true});
  EXPECT_EQ(Values(ForwardSequences(*runner, model_.rows())), Baseline());
  EXPECT_EQ(Values(ForwardSequences(*runner, model_.rows(), {.chunk = 7})), Baseline());
  EXPECT_FALSE(runner->experts()->AllResident());
  EXPECT_GT(runner->experts()->misses(), static_cast<uint64_t>(runner->experts()->num_slots()));
}

// Two ranks, each with half of the experts and one row of the golden: rows cross between them.
TEST_P(GoldenTest, ExpertParallelRanksGiveTheSameBits) {
  if (!model_.IsMoe()) return;
  auto groups = MakeInProcessGroup(2);
  std::vector<std::vector<float>> results(2);
  std::vector<std::thread> ranks;
  for (int r = 0; r < 2; ++r) {
    ranks.emplace_back([&, r] {
      const auto runner = model_.MakeRunner({.expert_parallel = groups[r].get()});
      EXPECT_EQ(runner->experts()->num_experts(), model_.spec.moe.num_experts / 2);
      const std::vector<std::span<const TokenId>> row = {model_.golden.row(r)};
      results[r] = Values(ForwardSequences(*runner, row));
    });
  }
  for (std::thread& rank : ranks) rank.join();
  std::vector<float> both = results[0];
  both.insert(both.end(), results[1].begin(), results[1].end());
  EXPECT_EQ(both, Baseline());
}

TEST_P(GoldenTest, Bf16WithReplayedRoutingIsClose) {
  const auto runner = model_.MakeRunner({.dtype = DType::kBF16});
  runner->SetRouting(RecordedRouting());
  const std::vector<float> logits = Values(ForwardSequences(*runner, model_.rows()));
  EXPECT_LE(Distance(logits).relative_l2, 3e-2);
  EXPECT_NE(logits, Baseline());
}

class CudaGoldenTest : public GoldenTest {
 protected:
  void SetUp() override {
    if (CudaDevices().empty()) GTEST_SKIP() << "there is no CUDA device";
  }
};

TEST_P(CudaGoldenTest, LogitsAndGreedyTextEqualTransformers) {
  const auto runner = model_.MakeRunner({.cuda = 0});
  EXPECT_LE(Distance(Values(ForwardSequences(*runner, model_.rows()))).relative_l2, 1e-5);
  EXPECT_LE(Distance(Values(ForwardSequences(*runner, model_.rows(), {.chunk = 7}))).relative_l2,
            1e-5);
  const Golden& golden = model_.golden;
  EXPECT_EQ(GreedyContinuation(*runner, golden.row(0), static_cast<int>(golden.greedy_ids.size())),
            golden.greedy_ids);
}

TEST_P(CudaGoldenTest, NarrowWeightsWithReplayedRoutingAreClose) {
  for (const DType dtype : {DType::kBF16, DType::kF16}) {
    const auto runner = model_.MakeRunner({.cuda = 0, .dtype = dtype});
    runner->SetRouting(RecordedRouting());
    const std::vector<float> logits = Values(ForwardSequences(*runner, model_.rows()));
    EXPECT_LE(Distance(logits).relative_l2, 3e-2) << dtype;
    EXPECT_NE(logits, Baseline());
    EXPECT_EQ(Values(ForwardSequences(*runner, model_.rows())), logits) << "a run does not repeat";
  }
}

// What a request got: its tokens, and with each the logprobs of the likeliest ones, whose bits show
// any change of the logits.
struct Text {
  std::vector<TokenId> tokens;
  std::vector<float> logprobs;
  bool operator==(const Text&) const = default;
};

// Runs requests through the engine loop and gathers each one's text.
class LoopRun {
 public:
  LoopRun(ModelRunner& runner, std::unique_ptr<DecodeStrategy> strategy, int max_batched_tokens)
      : worker_(runner),
        loop_(worker_, std::move(strategy),
              {.max_num_seqs = 8, .max_num_batched_tokens = max_batched_tokens}) {}

  std::vector<Text> Greedy(const std::vector<std::vector<TokenId>>& prompts, int max_tokens) {
    std::vector<Text> texts(prompts.size());
    size_t finished = 0;
    for (size_t i = 0; i < prompts.size(); ++i) {
      SamplingParams params{
          .temperature = 0, .max_tokens = max_tokens, .ignore_eos = true, .logprobs = kMaxLogprobs};
      loop_.Submit({.prompt = prompts[i], .sampling = params}, [&, i](const Output& output) {
        std::lock_guard lock(mutex_);
        for (const SampledToken& token : output.tokens) {
          texts[i].tokens.push_back(token.token);
          for (const TokenLogprob& other : token.top) texts[i].logprobs.push_back(other.logprob);
        }
        if (!output.finish.has_value()) return;
        EXPECT_EQ(*output.finish, FinishReason::kLength) << output.error;
        ++finished;
        changed_.notify_one();
      });
    }
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return finished == prompts.size(); });
    return texts;
  }

  EngineStats Stats() const { return loop_.Stats(); }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  InProcessWorker worker_;
  EngineLoop loop_;
};

// Prompts of several lengths cut from the golden's rows, the first being row 0 itself.
std::vector<std::vector<TokenId>> Prompts(const Golden& golden) {
  std::vector<std::vector<TokenId>> prompts;
  for (int length : {golden.length, 3, 17, 31, 9}) {
    const auto row = golden.row(static_cast<int>(prompts.size()) % golden.batch);
    prompts.emplace_back(row.begin(), row.begin() + length);
  }
  return prompts;
}

// Texts of a few pages and small steps, beside each other, against each alone with room for all.
// `options` say on what and how they run. Returns each one's text alone.
std::vector<Text> ExpectTheSameUnderPressure(const Model& model, RunnerOptions options) {
  const auto prompts = Prompts(model.golden);
  const auto count = static_cast<int>(model.golden.greedy_ids.size());
  const auto roomy = model.MakeRunner(options);
  LoopRun alone(*roomy, MakeAutoregressive(), /*max_batched_tokens=*/256);
  std::vector<Text> expected;
  for (const auto& prompt : prompts) expected.push_back(alone.Greedy({prompt}, count)[0]);
  EXPECT_EQ(alone.Stats().preemptions, 0u);
  EXPECT_EQ(expected[0].logprobs.size(), size_t{kMaxLogprobs} * count);

  // Three pages of sixteen positions more than one sequence needs cannot hold all five: some are
  // thrown out and recomputed.
  options.num_pages = (model.golden.length + count + 15) / 16 + 3;
  const auto tight = model.MakeRunner(options);
  LoopRun run(*tight, MakeAutoregressive(), /*max_batched_tokens=*/13);
  // On a busy machine the first request may end before the last arrives; then once more.
  for (int attempt = 0; attempt < 20 && run.Stats().preemptions == 0; ++attempt) {
    EXPECT_EQ(run.Greedy(prompts, count), expected);
  }
  EXPECT_GT(run.Stats().preemptions, 0u);
  EXPECT_EQ(run.Stats().pages_used, 0);
  return expected;
}

TEST_P(GoldenTest, PreemptionAndChunkedPrefillDoNotChangeABit) {
  const std::vector<Text> texts = ExpectTheSameUnderPressure(model_, {});
  EXPECT_EQ(texts[0].tokens, model_.golden.greedy_ids);
}

TEST_P(CudaGoldenTest, BatchInvariantLogitsDoNotDependOnTheBatch) {
  for (const DType dtype : {DType::kBF16, DType::kF32}) {
    const auto runner = model_.MakeRunner({.cuda = 0, .dtype = dtype, .batch_invariant = true});
    const std::vector<float> whole = Values(ForwardSequences(*runner, model_.rows()));
    for (const ForwardOptions& cut :
         {ForwardOptions{.chunk = 1}, ForwardOptions{.chunk = 7}, ForwardOptions{.together = false},
          ForwardOptions{.chunk = 3, .together = false}}) {
      EXPECT_EQ(Values(ForwardSequences(*runner, model_.rows(), cut)), whole) << cut.chunk;
    }
    EXPECT_LE(Distance(whole).relative_l2, dtype == DType::kF32 ? 1e-5 : 1.0);
  }
}

TEST_P(CudaGoldenTest, BatchInvariantTextsDoNotDependOnTheBatch) {
  ExpectTheSameUnderPressure(model_, {.cuda = 0, .dtype = DType::kBF16, .batch_invariant = true});
}

TEST_P(GoldenTest, NgramDraftsGiveTheSameTextInFewerSteps) {
  // Long greedy texts of these small models repeat themselves, which is what drafts feed on.
  const std::vector<std::vector<TokenId>> prompts = {
      {model_.golden.row(0).begin(), model_.golden.row(0).end()}};
  constexpr int kTokens = 160;
  const auto runner = model_.MakeRunner();
  LoopRun plain(*runner, MakeAutoregressive(), 64);
  const auto expected = plain.Greedy(prompts, kTokens);
  LoopRun drafted(*runner, MakeNgram(/*ngram=*/1, /*max_draft=*/4), 64);
  EXPECT_EQ(drafted.Greedy(prompts, kTokens), expected);
  EXPECT_LT(drafted.Stats().steps, plain.Stats().steps);
}

std::string Name(const ::testing::TestParamInfo<std::string>& golden) {
  return golden.param;
}

INSTANTIATE_TEST_SUITE_P(Goldens, GoldenTest, ::testing::ValuesIn(GoldenNames(kFolder)), Name);
INSTANTIATE_TEST_SUITE_P(Goldens, CudaGoldenTest, ::testing::ValuesIn(GoldenNames(kFolder)), Name);

}  // namespace
}  // namespace sluice
