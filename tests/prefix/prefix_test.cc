// Requests whose texts begin alike, on every golden model: with cached pages, in chunks, preempted,
// drafted and in any company they get, bit for bit, what each gets alone with nothing cached.

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <memory>
#include <ostream>
#include <random>
#include <string>
#include <vector>

#include "arch/registry.h"
#include "arch/testing.h"
#include "checkpoint/checkpoint.h"
#include "checkpoint/config.h"
#include "decode/decode_strategy.h"
#include "engine/model_runner.h"
#include "sched/scheduler.h"

namespace sluice {
namespace {

namespace fs = std::filesystem;

const fs::path kFolder = fs::path(SLUICE_SOURCE_DIR) / "tests/golden";

constexpr int kPageSize = 8;
constexpr int kLongestPrompt = 60;
constexpr int kLongestOutput = 20;

// What a request got: tokens, and logprobs whose bits show any change of the logits.
struct Answer {
  std::vector<TokenId> tokens;
  std::vector<float> logprobs;         // of the likeliest tokens at each
  std::vector<float> prompt_logprobs;  // where they were asked for
  bool operator==(const Answer&) const = default;
};

void PrintTo(const Answer& answer, std::ostream* out) {
  for (const TokenId token : answer.tokens) *out << token << " ";
  *out << "with " << answer.logprobs.size() << " logprobs, the first "
       << (answer.logprobs.empty() ? 0.0f : answer.logprobs[0]);
}

struct Schedule {
  bool prefix_caching = true;
  int max_num_seqs = 6;
  int max_num_batched_tokens = 64;
  int num_pages = 64;
  bool drafts = false;
  double arrivals = 1;  // share of steps before which a request comes
};

struct Outcome {
  std::vector<Answer> answers;  // in the order of the requests
  EngineStats stats;
};

class PrefixTest : public ::testing::TestWithParam<std::string> {
 protected:
  PrefixTest()
      : spec_(SpecFromConfig(HfConfig::FromFolder(kFolder / GetParam()))),
        source_(Checkpoint::Open(kFolder / GetParam()), spec_.block_scaled) {}

  std::unique_ptr<ModelRunner> MakeRunner(DType dtype) const {
    return std::make_unique<ModelRunner>(spec_, source_,
                                         RunnerOptions{.dtype = dtype,
                                                       .num_threads = 2,
                                                       .tier = DetectCpuTier(),
                                                       .page_size = kPageSize,
                                                       .num_pages = 64,
                                                       .max_model_len = spec_.max_positions},
                                         std::make_unique<ModelRouting>());
  }

  // Prompts of a few beginnings, cut anywhere, each with an end of its own.
  std::vector<Request> Requests(uint64_t seed, int count) const {
    std::mt19937_64 random(seed);
    const auto pick = [&](int bound) { return static_cast<int>(random() % bound); };
    std::vector<std::vector<TokenId>> beginnings(3);
    for (auto& beginning : beginnings) {
      for (int i = 0; i < kLongestPrompt; ++i) beginning.push_back(pick(spec_.vocab_size));
    }
    std::vector<Request> requests(count);
    for (Request& request : requests) {
      const auto& beginning = beginnings[pick(3)];
      request.prompt.assign(beginning.begin(), beginning.begin() + pick(kLongestPrompt + 1));
      const int own = pick(kLongestPrompt + 1 - static_cast<int>(request.prompt.size()));
      for (int i = 0; i < own; ++i) request.prompt.push_back(pick(spec_.vocab_size));
      if (request.prompt.empty()) request.prompt = {1};
      request.sampling = {.temperature = pick(2) == 0 ? 0.0f : 1.0f,
                          .seed = random(),
                          .max_tokens = 1 + pick(kLongestOutput),
                          .ignore_eos = true,
                          .logprobs = kMaxLogprobs};
      if (pick(5) == 0) request.sampling.prompt_logprobs = 1;
      if (pick(5) == 0) request.sampling.repetition_penalty = 1.2f;
    }
    return requests;
  }

  // The request after each: the text so far, and a question more.
  static std::vector<Request> NextTurns(const std::vector<Request>& requests,
                                        const std::vector<Answer>& answers) {
    std::vector<Request> next = requests;
    for (size_t i = 0; i < next.size(); ++i) {
      std::vector<TokenId>& prompt = next[i].prompt;
      prompt.insert(prompt.end(), answers[i].tokens.begin(), answers[i].tokens.end());
      prompt.push_back(static_cast<TokenId>(i));
    }
    return next;
  }

  Outcome Run(ModelRunner& runner, const std::vector<Request>& requests, const Schedule& schedule,
              uint64_t seed = 0) const {
    const auto strategy = schedule.drafts ? MakeNgram(1, 3) : MakeAutoregressive();
    Scheduler scheduler({.max_num_seqs = schedule.max_num_seqs,
                         .max_num_batched_tokens = schedule.max_num_batched_tokens,
                         .max_model_len = spec_.max_positions,
                         .page_size = kPageSize,
                         .num_pages = schedule.num_pages,
                         .eos_ids = {},
                         .enable_prefix_caching = schedule.prefix_caching},
                        *strategy);
    InProcessWorker worker(runner);
    std::mt19937_64 random(seed);
    Outcome outcome{.answers = std::vector<Answer>(requests.size()), .stats = {}};
    size_t arrived = 0;
    while (arrived < requests.size() || !scheduler.idle()) {
      const bool comes = static_cast<double>(random() >> 11) * 0x1p-53 < schedule.arrivals;
      if (arrived < requests.size() && (scheduler.idle() || comes)) {
        const Request& request = requests[arrived];
        scheduler.Add(arrived++, request, *request.sampling.seed);
      }
      const StepPlan plan = scheduler.Plan();
      for (const SequenceReport& report : scheduler.Commit(plan, worker.Execute(plan))) {
        EXPECT_NE(report.output.finish, FinishReason::kError) << report.output.error;
        Take(report.output, outcome.answers[report.request]);
      }
    }
    outcome.stats = scheduler.Stats();
    EXPECT_EQ(outcome.stats.pages_used, 0);
    return outcome;
  }

  static void Take(const Output& output, Answer& answer) {
    for (const SampledToken& token : output.tokens) {
      answer.tokens.push_back(token.token);
      answer.logprobs.push_back(token.logprob);
      for (const TokenLogprob& other : token.top) answer.logprobs.push_back(other.logprob);
    }
    for (const SampledToken& token : output.prompt) answer.prompt_logprobs.push_back(token.logprob);
  }

  // Each by itself in as few steps as can be, with nothing cached.
  std::vector<Answer> Alone(ModelRunner& runner, const std::vector<Request>& requests) const {
    const Schedule whole{.prefix_caching = false, .max_num_batched_tokens = 256};
    std::vector<Answer> answers;
    for (const Request& request : requests) {
      answers.push_back(Run(runner, {request}, whole).answers.at(0));
    }
    return answers;
  }

  void ExpectSameTexts(DType dtype) const {
    const auto runner = MakeRunner(dtype);
    std::vector<Request> requests = Requests(17, 12);
    std::vector<Answer> expected = Alone(*runner, requests);
    const std::vector<Request> turns = NextTurns(requests, expected);
    const std::vector<Answer> expected_turns = Alone(*runner, turns);
    requests.insert(requests.end(), turns.begin(), turns.end());
    expected.insert(expected.end(), expected_turns.begin(), expected_turns.end());

    uint64_t preemptions = 0;
    uint64_t evictions = 0;
    const std::vector<Schedule> schedules = {
        {.arrivals = 0},  // one after the other
        {.max_num_batched_tokens = 256},
        {.max_num_batched_tokens = 13, .arrivals = 0.3},
        {.max_num_batched_tokens = 7, .arrivals = 0.1},
        {.max_num_batched_tokens = 29, .num_pages = 20},
        {.max_num_batched_tokens = 11, .num_pages = 16, .drafts = true},
        {.max_num_batched_tokens = 40, .drafts = true, .arrivals = 0.2}};
    for (size_t i = 0; i < schedules.size(); ++i) {
      SCOPED_TRACE(testing::Message() << "schedule " << i);
      const Outcome outcome = Run(*runner, requests, schedules[i], i);
      for (size_t r = 0; r < requests.size(); ++r) {
        EXPECT_EQ(outcome.answers[r], expected[r]) << "request " << r;
      }
      EXPECT_GT(outcome.stats.prefix_hits, 100u);
      preemptions += outcome.stats.preemptions;
      evictions += outcome.stats.prefix_evictions;
    }
    EXPECT_GT(preemptions, 0u);
    EXPECT_GT(evictions, 0u);
  }

  ModelSpec spec_;
  CheckpointSource source_;
};

TEST_P(PrefixTest, CachedOrColdTheBitsAreTheSame) {
  ExpectSameTexts(DType::kF32);
}

TEST_P(PrefixTest, CachedOrColdTheBitsAreTheSameInBf16) {
  ExpectSameTexts(DType::kBF16);
}

std::string Name(const ::testing::TestParamInfo<std::string>& golden) {
  return golden.param;
}

INSTANTIATE_TEST_SUITE_P(Goldens, PrefixTest, ::testing::ValuesIn(GoldenNames(kFolder)), Name);

}  // namespace
}  // namespace sluice
