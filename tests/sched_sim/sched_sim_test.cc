#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <deque>
#include <future>
#include <map>
#include <memory>
#include <random>
#include <set>
#include <stdexcept>
#include <thread>

#include "fake_worker.h"
#include "sampling/random.h"
#include "sched/engine_loop.h"
#include "sched/scheduler.h"

namespace sluice::sim {
namespace {

constexpr int kVocab = 40;
constexpr TokenId kEos = 39;

struct Scenario {
  int max_num_seqs = 8;
  int max_num_batched_tokens = 64;
  int max_model_len = 200;
  int page_size = 4;
  int num_pages = 60;
  int num_host_pages = 0;
  int num_requests = 300;
  int max_prompt = 60;
  int max_output = 40;
  double abort_share = 0;
  double failure_share = 0;  // of steps
  int max_steps = 1;         // under way at once
  bool foreseeable = false;  // no request's next step depends on the ids that were drawn
  // Not 0: so many texts, of which prompts begin with a part of any length.
  int beginnings = 0;
  bool prefix_caching = true;
  int prefill_layer_groups = 1;
  bool prompts_are_dear =
      false;  // in layer groups: a step with some takes twice as long, and is timed
};

struct Expectation {
  std::vector<TokenId> tokens;
  FinishReason finish = FinishReason::kLength;
};

// What a sequence must come to, computed alone and from the definition.
Expectation RunAlone(const Request& request, uint64_t seed, int length_limit) {
  Expectation expected;
  std::vector<TokenId> history = request.prompt;
  const SamplingParams& params = request.sampling;
  while (true) {
    const TokenId token = NextToken(history, seed, kVocab);
    history.push_back(token);
    expected.tokens.push_back(token);
    const int generated = static_cast<int>(expected.tokens.size());
    const bool stop_token =
        std::count(params.stop_token_ids.begin(), params.stop_token_ids.end(), token) > 0;
    if (generated > params.min_tokens && (stop_token || (token == kEos && !params.ignore_eos))) {
      expected.finish = FinishReason::kStop;
      return expected;
    }
    if (generated >= params.max_tokens || static_cast<int>(history.size()) >= length_limit) {
      return expected;
    }
  }
}

class Simulation {
 public:
  Simulation(const Scenario& scenario, std::unique_ptr<DecodeStrategy> strategy, uint64_t seed)
      : scenario_(scenario),
        strategy_(std::move(strategy)),
        worker_({.vocab_size = kVocab,
                 .max_model_len = scenario.max_model_len,
                 .page_size = scenario.page_size,
                 .num_pages = scenario.num_pages,
                 .num_host_pages = scenario.num_host_pages,
                 .max_steps = scenario.max_steps},
                scenario.max_num_seqs, scenario.max_num_batched_tokens),
        scheduler_({.max_num_seqs = scenario.max_num_seqs,
                    .max_num_batched_tokens = scenario.max_num_batched_tokens,
                    .max_model_len = scenario.max_model_len,
                    .page_size = scenario.page_size,
                    .num_pages = scenario.num_pages,
                    .num_host_pages = scenario.num_host_pages,
                    .prefill_layer_groups = scenario.prefill_layer_groups,
                    .eos_ids = {kEos},
                    .enable_prefix_caching = scenario.prefix_caching},
                   *strategy_),
        random_(seed) {
    worker_.salt_of = [this](SequenceId sequence) { return salts_.at(sequence - 1); };
  }

  // Arrivals in bursts until every request is in, then on until all are done.
  void Run() {
    int submitted = 0;
    while (submitted < scenario_.num_requests || busy()) {
      if (scheduler_.idle() || Chance(0.3)) {
        const int burst = std::min(1 + Uniform(5), scenario_.num_requests - submitted);
        for (int i = 0; i < burst; ++i) SubmitOne(++submitted);
      }
      if (Chance(scenario_.abort_share)) AbortOne(1 + Uniform(submitted));
      if (busy()) Step();
      if (testing::Test::HasFatalFailure()) return;
    }
    EXPECT_EQ(scheduler_.pages().num_free(), scenario_.num_pages);
    EXPECT_EQ(scheduler_.host_pages().num_free(), scenario_.num_host_pages);
    for (const auto& [key, done] : finished_) EXPECT_TRUE(done) << "sequence never finished";
  }

  EngineStats Stats() const { return scheduler_.Stats(); }
  const FakeWorker& worker() const { return worker_; }
  // Tokens of every sequence by (request, index).
  const std::map<std::pair<RequestId, int>, std::vector<TokenId>>& texts() const { return texts_; }
  int errors() const { return errors_; }
  int aborts() const { return aborts_; }
  uint64_t steps_ahead() const { return steps_ahead_; }

 private:
  bool busy() const { return !scheduler_.idle() || !under_way_.empty(); }
  int Uniform(int bound) { return static_cast<int>(random_() % static_cast<uint64_t>(bound)); }
  bool Chance(double share) {
    return share > 0 && static_cast<double>(random_() >> 11) * 0x1p-53 < share;
  }

  // Requests depend on their id alone, so that runs of different schedules compare.
  Request MakeRequest(RequestId id) const {
    std::mt19937_64 own(id * 7919);
    const auto pick = [&](int bound) {
      return static_cast<int>(own() % static_cast<uint64_t>(bound));
    };
    Request request;
    const int prompt = 1 + pick(scenario_.max_prompt);
    for (int i = 0; i < prompt; ++i) request.prompt.push_back(pick(kVocab));
    if (scenario_.beginnings > 0) {
      const int beginning = pick(scenario_.beginnings);
      const int shared = pick(prompt + 1);
      for (int i = 0; i < shared; ++i) request.prompt[i] = (beginning + i * i) % kVocab;
      request.cache_salt = pick(4) == 0 ? "salted" : "";
    }
    request.sampling.max_tokens = 1 + pick(scenario_.max_output);
    request.sampling.min_tokens = pick(3) == 0 ? pick(request.sampling.max_tokens) : 0;
    request.sampling.ignore_eos = pick(3) == 0;
    if (pick(4) == 0) request.sampling.stop_token_ids = {pick(kVocab)};
    const bool penalty = pick(4) == 0;
    const bool scores = pick(5) == 0;
    if (penalty && !scenario_.foreseeable) request.sampling.repetition_penalty = 1.1f;
    if (scores && !scenario_.foreseeable) request.sampling.prompt_logprobs = 0;
    request.sampling.n = pick(6) == 0 ? 3 : 1;
    return request;
  }

  void SubmitOne(RequestId id) {
    const Request request = MakeRequest(id);
    scheduler_.CheckFits(request);
    scheduler_.Add(id, request, SeedOf(id));
    for (int index = 0; index < request.sampling.n; ++index) {
      salts_.push_back(request.cache_salt);
      finished_[{id, index}] = false;
      texts_[{id, index}] = {};
    }
  }

  static uint64_t SeedOf(RequestId id) { return id * 31; }

  void AbortOne(RequestId id) {
    const bool one = Chance(0.5);
    for (const SequenceReport& report : one ? scheduler_.EndSequence(id, 0, FinishReason::kAbort)
                                            : scheduler_.End(id, FinishReason::kAbort)) {
      ++aborts_;
      Take(report);
    }
  }

  void Step() {
    while (std::ssize(under_way_) < scenario_.max_steps) {
      StepPlan plan = scheduler_.Plan();
      if (plan.slices.empty()) break;
      if (under_way_.empty()) {
        CheckProgress(plan);
      } else {
        ++steps_ahead_;
      }
      worker_.Submit(plan);
      under_way_.push_back(std::move(plan));
    }
    ASSERT_FALSE(under_way_.empty());
    const StepPlan plan = std::move(under_way_.front());
    under_way_.pop_front();
    StepResult result;
    ASSERT_NO_THROW(result = worker_.Collect());
    if (Chance(scenario_.failure_share)) {
      result = {.step = plan.step, .slices = {}, .error = "the power went out"};
    }
    if (scenario_.prompts_are_dear) {
      scheduler_.ObserveStep(plan, HasLayerGroups(plan) ? 2.0 : 1.0);
    }
    for (const SequenceReport& report : scheduler_.Commit(plan, result)) Take(report);
    CheckPages();
    CheckOrder();
  }

  static bool HasLayerGroups(const StepPlan& plan) {
    return std::any_of(plan.slices.begin(), plan.slices.end(),
                       [](const SequenceSlice& slice) { return !slice.layers.IsAll(); });
  }

  // Every decoding sequence runs in every step, and so does the oldest sequence of all.
  void CheckProgress(const StepPlan& plan) {
    std::set<SequenceId> planned;
    for (const SequenceSlice& slice : plan.slices) planned.insert(slice.sequence);
    ASSERT_FALSE(scheduler_.running().empty());
    EXPECT_TRUE(planned.count(scheduler_.running().front()->id)) << "the oldest did not run";
    for (const auto& sequence : scheduler_.running()) {
      if (sequence->length() - sequence->kv_length == 1) {
        EXPECT_TRUE(planned.count(sequence->id)) << "a decoding sequence did not run";
      }
    }
  }

  void CheckPages() {
    std::map<PageId, int> holders;
    for (const auto& sequence : scheduler_.running()) {
      const int positions = sequence->kv_length + sequence->rows_between_layers;
      const int needed = (positions + scenario_.page_size - 1) / scenario_.page_size;
      EXPECT_GE(static_cast<int>(sequence->pages.size()), needed);
      if (under_way_.empty()) {
        EXPECT_EQ(static_cast<int>(sequence->pages.size()), needed);
      }
      for (const PageId page : sequence->pages.ids()) ++holders[page];
    }
    scheduler_.waiting().ForEach(
        [](const Sequence& sequence) { EXPECT_TRUE(sequence.pages.empty()); });
    for (const auto& [page, count] : holders) {
      EXPECT_EQ(scheduler_.pages().shares(page), count);
      EXPECT_TRUE(count == 1 || scheduler_.pages().sealed(page)) << "a page has two sequences";
    }
    ASSERT_EQ(std::ssize(holders) + scheduler_.pages().num_free(), scenario_.num_pages)
        << "a page is lost";
  }

  // Of one client's sequences, with one priority.
  void CheckOrder() {
    SequenceId last = 0;
    for (const auto& sequence : scheduler_.running()) {
      ASSERT_GT(sequence->id, last) << "running out of order of arrival";
      last = sequence->id;
    }
    scheduler_.waiting().ForEach([&](const Sequence& sequence) {
      ASSERT_GT(sequence.id, last) << "waiting out of order of arrival";
      last = sequence.id;
    });
  }

  void Take(const SequenceReport& report) {
    const std::pair<RequestId, int> key{report.request, report.output.index};
    EXPECT_FALSE(finished_.at(key)) << "a report after the last";
    std::vector<TokenId>& text = texts_[key];
    const Request request = MakeRequest(report.request);
    CheckPromptScores(request, report.output, text.empty());
    for (const SampledToken& sampled : report.output.tokens) text.push_back(sampled.token);
    if (!report.output.finish) return;
    finished_[key] = true;
    const uint64_t seed =
        key.second == 0 ? SeedOf(key.first) : MixSeed(SeedOf(key.first), key.second);
    const int limit = std::min(scenario_.max_model_len, scenario_.num_pages * scenario_.page_size);
    const Expectation expected = RunAlone(request, seed, limit);
    if (*report.output.finish == FinishReason::kAbort ||
        *report.output.finish == FinishReason::kError) {
      errors_ += *report.output.finish == FinishReason::kError;
      ASSERT_LE(text.size(), expected.tokens.size());
      EXPECT_TRUE(std::equal(text.begin(), text.end(), expected.tokens.begin()));
      return;
    }
    EXPECT_EQ(text, expected.tokens) << "request " << key.first << " index " << key.second;
    EXPECT_EQ(*report.output.finish, expected.finish);
  }

  static void CheckPromptScores(const Request& request, const Output& output, bool first) {
    const bool due = first && !output.tokens.empty() && request.sampling.prompt_logprobs;
    ASSERT_EQ(output.prompt.size(), due ? request.prompt.size() - 1 : 0);
    for (size_t i = 0; i < output.prompt.size(); ++i) {
      EXPECT_EQ(output.prompt[i].token, request.prompt[i + 1]);
      EXPECT_EQ(output.prompt[i].logprob, static_cast<float>(i));
    }
  }

  const Scenario scenario_;
  const std::unique_ptr<DecodeStrategy> strategy_;
  FakeWorker worker_;
  Scheduler scheduler_;
  std::deque<StepPlan> under_way_;  // oldest first
  std::mt19937_64 random_;
  std::vector<std::string> salts_;  // of each sequence, by id from 1 on
  std::map<std::pair<RequestId, int>, bool> finished_;
  std::map<std::pair<RequestId, int>, std::vector<TokenId>> texts_;
  int errors_ = 0;
  int aborts_ = 0;
  uint64_t steps_ahead_ = 0;  // planned while another was under way
};

TEST(SchedSim, EverySequenceSaysWhatItSaysAlone) {
  Simulation simulation({.num_requests = 2000}, MakeAutoregressive(), 1);
  simulation.Run();
  EXPECT_EQ(simulation.errors(), 0);
}

TEST(SchedSim, PreemptionChangesNothing) {
  for (uint64_t seed = 1; seed <= 5; ++seed) {
    Simulation simulation({.page_size = 2, .num_pages = 55, .num_requests = 300},
                          MakeAutoregressive(), seed);
    simulation.Run();
    EXPECT_GT(simulation.Stats().preemptions, 20u);
  }
}

TEST(SchedSim, PoolOfOneSequenceStillServesAll) {
  Simulation simulation({.page_size = 1, .num_pages = 62, .num_requests = 200},
                        MakeAutoregressive(), 2);
  simulation.Run();
  EXPECT_EQ(simulation.errors(), 0);
}

TEST(SchedSim, TinyBudgetStillServesAll) {
  Simulation simulation(
      {.max_num_seqs = 4, .max_num_batched_tokens = 4, .num_pages = 40, .num_requests = 100},
      MakeNgram(2, 4), 3);
  simulation.Run();
  EXPECT_EQ(simulation.errors(), 0);
}

TEST(SchedSim, DraftsSayTheSameInFewerSteps) {
  const Scenario scenario = {.num_requests = 600};
  Simulation plain(scenario, MakeAutoregressive(), 4);
  plain.Run();
  Simulation drafted(scenario, MakeNgram(2, 4), 4);
  drafted.Run();
  EXPECT_EQ(plain.texts(), drafted.texts());
  EXPECT_LT(drafted.worker().steps() * 10, plain.worker().steps() * 9);
}

TEST(SchedSim, DraftsUnderPreemptionAndAborts) {
  for (uint64_t seed = 1; seed <= 5; ++seed) {
    Simulation simulation(
        {.page_size = 2, .num_pages = 60, .num_requests = 300, .abort_share = 0.1}, MakeNgram(2, 5),
        seed);
    simulation.Run();
    EXPECT_GT(simulation.Stats().preemptions, 10u);
    EXPECT_GT(simulation.aborts(), 10);
  }
}

TEST(SchedSim, ContextEndsASequence) {
  Simulation simulation({.max_model_len = 70, .num_requests = 300, .max_prompt = 60},
                        MakeNgram(1, 6), 6);
  simulation.Run();
  EXPECT_EQ(simulation.errors(), 0);
}

TEST(SchedSim, FailedStepsEndTheirSequencesOnly) {
  Simulation simulation({.num_requests = 500, .abort_share = 0.05, .failure_share = 0.02},
                        MakeNgram(2, 4), 7);
  simulation.Run();
  EXPECT_GT(simulation.errors(), 20);
  EXPECT_LT(simulation.errors(), 300);
}

// Texts are those of each sequence alone whatever is planned ahead, so they are also those of one
// step at a time.
TEST(SchedSim, StepsPlannedAheadSayTheSame) {
  Simulation simulation({.num_requests = 1000, .max_steps = 2, .foreseeable = true},
                        MakeAutoregressive(), 8);
  simulation.Run();
  EXPECT_EQ(simulation.errors(), 0);
  EXPECT_GT(simulation.steps_ahead() * 10, simulation.Stats().steps * 9);
}

TEST(SchedSim, StepsAheadAndRequestsThatForbidThemMix) {
  Simulation simulation(
      {.max_num_seqs = 3, .num_requests = 500, .abort_share = 0.1, .max_steps = 2},
      MakeAutoregressive(), 9);
  simulation.Run();
  EXPECT_GT(simulation.steps_ahead(), 100u);
  EXPECT_LT(simulation.steps_ahead() * 10, simulation.Stats().steps * 9);
}

TEST(SchedSim, StepsAheadUnderPreemptionAbortsAndFailures) {
  for (uint64_t seed = 1; seed <= 5; ++seed) {
    Simulation simulation({.page_size = 2,
                           .num_pages = 55,
                           .num_requests = 300,
                           .abort_share = 0.1,
                           .failure_share = 0.01,
                           .max_steps = 2,
                           .foreseeable = true},
                          MakeAutoregressive(), seed);
    simulation.Run();
    EXPECT_GT(simulation.Stats().preemptions, 10u);
    EXPECT_GT(simulation.aborts(), 10);
    EXPECT_GT(simulation.steps_ahead() * 4, simulation.Stats().steps);
  }
}

// Copies cost nothing here, so all that fits is swapped: the rest is computed again.
TEST(SchedSim, SwappingChangesNothing) {
  for (uint64_t seed = 1; seed <= 5; ++seed) {
    Simulation simulation({.page_size = 2,
                           .num_pages = 55,
                           .num_host_pages = 40,
                           .num_requests = 300,
                           .abort_share = 0.1,
                           .failure_share = 0.01,
                           .max_steps = seed % 2 == 0 ? 1 : 2,
                           .foreseeable = true},
                          MakeAutoregressive(), seed);
    simulation.Run();
    const EngineStats stats = simulation.Stats();
    EXPECT_GT(stats.pages_swapped_in, 100u);
    EXPECT_GE(stats.pages_swapped_out, stats.pages_swapped_in) << "some are never wanted again";
  }
}

TEST(SchedSim, SwappingWithDraftsChangesNothing) {
  Simulation simulation({.page_size = 2, .num_pages = 60, .num_host_pages = 20}, MakeNgram(2, 5),
                        11);
  simulation.Run();
  EXPECT_GT(simulation.Stats().pages_swapped_in, 50u);
}

TEST(SchedSim, DraftsAreNotPlannedAhead) {
  Simulation simulation({.num_requests = 100, .max_steps = 2, .foreseeable = true}, MakeNgram(2, 4),
                        10);
  simulation.Run();
  EXPECT_EQ(simulation.steps_ahead(), 0u);
}

// Whatever is taken from the prefix cache, whoever filled it, the worker finds what the sequence
// itself would have written, and most rows of the common beginnings are not run again.
TEST(SchedSim, KnownBeginningsAreNotComputedAgain) {
  Scenario scenario = {.num_pages = 120, .num_requests = 1000, .beginnings = 3};
  Simulation cached(scenario, MakeAutoregressive(), 11);
  cached.Run();
  scenario.prefix_caching = false;
  Simulation plain(scenario, MakeAutoregressive(), 11);
  plain.Run();
  EXPECT_EQ(cached.texts(), plain.texts());
  const EngineStats stats = cached.Stats();
  EXPECT_EQ(stats.prompt_tokens, plain.Stats().prompt_tokens);
  EXPECT_GT(stats.prefix_hits * 10, stats.prefix_queries * 3);
  EXPECT_LE(cached.worker().rows() + stats.prefix_hits, plain.worker().rows());
  EXPECT_GT(stats.prefix_evictions, 0u);
  EXPECT_EQ(plain.Stats().prefix_queries + plain.Stats().prompt_tokens_cached, 0u);
}

TEST(SchedSim, KnownBeginningsUnderPreemptionAbortsAndFailures) {
  for (uint64_t seed = 1; seed <= 6; ++seed) {
    Scenario scenario = {.page_size = 2,
                         .num_pages = 55,
                         .num_requests = 400,
                         .abort_share = 0.1,
                         .failure_share = 0.01,
                         .beginnings = 2};
    const bool drafts = seed % 2 == 0;
    if (!drafts) {
      scenario.max_steps = 2;
      scenario.foreseeable = seed == 1;
    }
    Simulation simulation(scenario, drafts ? MakeNgram(2, 4) : MakeAutoregressive(), seed);
    simulation.Run();
    EXPECT_GT(simulation.Stats().preemptions, 5u);
    EXPECT_GT(simulation.Stats().prefix_hits, 100u);
    EXPECT_GT(simulation.aborts(), 10);
  }
}

// A prompt beside sequences that decode goes through the layers in several steps, and in each of
// them they decode.
TEST(SchedSim, LayerGroupsChangeNothing) {
  for (int groups = 2; groups <= 4; ++groups) {
    Simulation simulation({.num_requests = 500, .prefill_layer_groups = groups},
                          MakeAutoregressive(), 12);
    simulation.Run();
    EXPECT_EQ(simulation.errors(), 0);
    EXPECT_GT(simulation.worker().steps_between_layers() * 5, simulation.worker().steps());
  }
}

TEST(SchedSim, PromptsThatArePutOffSayTheSame) {
  for (int groups = 1; groups <= 4; ++groups) {
    Simulation simulation({.num_pages = 1000,
                           .num_requests = 500,
                           .max_output = 10,
                           .prefill_layer_groups = groups,
                           .prompts_are_dear = true},
                          MakeAutoregressive(), 14);
    simulation.Run();
    EXPECT_EQ(simulation.errors(), 0);
    const EngineStats stats = simulation.Stats();
    if (groups == 1) {
      EXPECT_EQ(stats.steps_put_off, 0u);
    } else {
      EXPECT_GT(stats.steps_put_off * 20, stats.steps);
    }
  }
}

TEST(SchedSim, LayerGroupsUnderPreemptionAbortsAndFailures) {
  for (uint64_t seed = 1; seed <= 8; ++seed) {
    Simulation simulation({.page_size = 2,
                           .num_pages = 55,
                           .num_host_pages = seed % 2 == 0 ? 40 : 0,
                           .num_requests = 400,
                           .abort_share = 0.1,
                           .failure_share = 0.01,
                           .beginnings = seed % 4 < 2 ? 2 : 0,
                           .prefill_layer_groups = 2 + static_cast<int>(seed % 2),
                           .prompts_are_dear = seed % 3 != 1},
                          seed % 3 == 0 ? MakeNgram(2, 4) : MakeAutoregressive(), seed);
    simulation.Run();
    EXPECT_GT(simulation.Stats().preemptions, 5u);
    EXPECT_GT(simulation.aborts(), 10);
    EXPECT_GT(simulation.worker().steps_between_layers(), 50u);
  }
}

TEST(SchedSim, LayerGroupsInATinyBudgetStillServeAll) {
  Simulation simulation({.max_num_seqs = 4,
                         .max_num_batched_tokens = 4,
                         .num_pages = 40,
                         .num_requests = 100,
                         .prefill_layer_groups = 3},
                        MakeNgram(2, 4), 13);
  simulation.Run();
  EXPECT_EQ(simulation.errors(), 0);
}

// The double itself: a wrong page, a stale page and a page of two sequences do not go unseen.
TEST(FakeWorker, SeesWrongPages) {
  const auto slice = [](SequenceId id, std::vector<TokenId> tokens, int from, BlockTable pages) {
    SequenceSlice made{.sequence = id, .tokens = std::move(tokens), .pages = std::move(pages)};
    for (size_t i = 0; i < made.tokens.size(); ++i) {
      made.positions.push_back(from + static_cast<int>(i));
    }
    made.kv_positions = made.positions;
    made.kv_length = made.positions.back() + 1;
    return made;
  };
  FakeWorker worker({.vocab_size = kVocab, .max_model_len = 20, .page_size = 2, .num_pages = 4}, 2,
                    8);
  const SequenceSlice first = slice(1, {5, 6}, 0, {0});
  const SequenceSlice second = slice(2, {5, 8}, 0, {1});
  EXPECT_NO_THROW(worker.Execute({.step = 1, .slices = {first, second}}));
  EXPECT_NO_THROW(worker.Execute({.step = 2, .slices = {slice(1, {7}, 2, {0, 2})}}));
  EXPECT_THROW(worker.Execute({.step = 3, .slices = {slice(2, {7}, 2, {0, 3})}}),
               std::runtime_error);
  EXPECT_THROW(worker.Execute({.step = 4, .slices = {slice(2, {7}, 3, {1, 3})}}),
               std::runtime_error);
  EXPECT_THROW(worker.Execute({.step = 5, .slices = {first, slice(2, {5, 6}, 0, {0})}}),
               std::runtime_error);
}

// The same through the threaded loop: clients on several threads, aborts, failing steps.
void ServeManyClients(int max_steps, std::unique_ptr<DecodeStrategy> strategy) {
  FakeWorker worker({.vocab_size = kVocab,
                     .max_model_len = 200,
                     .page_size = 4,
                     .num_pages = 60,
                     .max_steps = max_steps},
                    8, 64);
  EngineLoop loop(worker, std::move(strategy),
                  {.max_num_seqs = 8, .max_num_batched_tokens = 64, .eos_ids = {kEos}});
  constexpr int kClients = 4;
  constexpr int kRequests = 50;
  std::vector<std::thread> clients;
  for (int client = 0; client < kClients; ++client) {
    clients.emplace_back([&loop, client] {
      for (int i = 0; i < kRequests; ++i) {
        Request request{.prompt = {client, i % kVocab, 3}, .sampling = {}};
        request.sampling.max_tokens = 20;
        request.sampling.seed = static_cast<uint64_t>(client * 1000 + i);
        auto done = std::make_shared<std::promise<void>>();
        auto text = std::make_shared<std::vector<TokenId>>();
        auto finish = std::make_shared<FinishReason>();
        const RequestId id = loop.Submit(request, [=](Output output) {
          for (const SampledToken& sampled : output.tokens) text->push_back(sampled.token);
          if (!output.finish) return;
          *finish = *output.finish;
          done->set_value();
        });
        if (i % 5 == 0) loop.Abort(id);
        done->get_future().wait();
        const Expectation expected = RunAlone(request, *request.sampling.seed, 200);
        if (*finish == FinishReason::kAbort) {
          EXPECT_LE(text->size(), expected.tokens.size());
        } else {
          EXPECT_EQ(*text, expected.tokens);
        }
      }
    });
  }
  for (std::thread& client : clients) client.join();
  EXPECT_EQ(loop.Stats().pages_used, 0);
  EXPECT_EQ(loop.Stats().running + loop.Stats().waiting, 0);
}

TEST(SchedSim, LoopServesManyClients) {
  ServeManyClients(1, MakeNgram(2, 4));
  ServeManyClients(2, MakeAutoregressive());
}

}  // namespace
}  // namespace sluice::sim
