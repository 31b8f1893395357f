#include "load_sim.h"

#include <gtest/gtest.h>

namespace sluice::sim {
namespace {

SchedulerConfig Server(int num_pages) {
  return {.max_num_seqs = 32,
          .max_num_batched_tokens = 256,
          .max_model_len = 2000,
          .page_size = 16,
          .num_pages = num_pages,
          .eos_ids = {1}};
}

std::vector<double> SecondsToFirstToken(const LoadSim& sim, const std::string& client) {
  std::vector<double> seconds;
  for (const Life& life : sim.lives()) {
    if (life.client.starts_with(client) && life.first_token >= 0) {
      seconds.push_back(life.first_token - life.arrived);
    }
  }
  return seconds;
}

std::vector<double> Gaps(const LoadSim& sim, const std::string& client) {
  std::vector<double> gaps;
  for (const Life& life : sim.lives()) {
    if (!life.client.starts_with(client)) continue;
    gaps.insert(gaps.end(), life.gaps.begin(), life.gaps.end());
  }
  return gaps;
}

TEST(LoadSim, TensOfThousandsOfRequests) {
  for (const int max_steps : {1, 2}) {
    LoadSim sim(Server(2000), {.failure_share = 1e-4, .max_steps = max_steps},
                {{.num_requests = 12000,
                  .rate = 25,
                  .num_clients = 20,
                  .num_priorities = 3,
                  .abort_share = 0.1}},
                7);
    sim.Run();
    EXPECT_EQ(sim.Stats().preemptions, 0u);
    EXPECT_EQ(sim.steps_ahead() > 0, max_steps == 2);
  }
}

TEST(LoadSim, BurstsOverFewPages) {
  for (uint64_t seed = 1; seed <= 4; ++seed) {
    SchedulerConfig config = Server(130);
    config.num_host_pages = seed % 2 == 0 ? 60 : 0;
    LoadSim sim(config, {.failure_share = 1e-3, .max_steps = seed % 2 == 0 ? 1 : 2},
                {{.num_requests = 1500,
                  .rate = 10,
                  .mean_burst = 20,
                  .mean_prompt = 30,
                  .mean_output = 200,
                  .max_output = 600,
                  .num_clients = 8,
                  .num_priorities = 2,
                  .abort_share = 0.2}},
                seed);
    sim.Run();
    EXPECT_GT(sim.Stats().preemptions, 200u);
    EXPECT_EQ(sim.Stats().pages_swapped_in > 500, seed % 2 == 0);
  }
}

// What one waits for at most between two tokens is one full step, and the one that was planned
// before it.
TEST(LoadSim, PrefillsDoNotStopDecodes) {
  const Machine machine{.max_steps = 2};
  LoadSim sim(Server(4000), machine,
              {{.num_requests = 200, .rate = 2, .mean_output = 200, .client = "reader"},
               {.num_requests = 400,
                .rate = 4,
                .mean_prompt = 1000,
                .max_prompt = 1800,
                .mean_output = 2,
                .client = "writer"}},
              11);
  sim.Run();
  EXPECT_EQ(sim.Stats().preemptions, 0u);
  EXPECT_EQ(sim.longest_step(), 256);
  EXPECT_LE(Percentile(Gaps(sim, "reader"), 100), machine.TimeOf(256) + 1e-9);
}

TEST(LoadSim, AThousandRequestsHoldNoOtherClientBack) {
  LoadSim sim(Server(2000), {},
              {{.num_requests = 1000, .rate = 0, .client = "greedy"},
               {.num_requests = 50, .start = 1, .rate = 1, .client = "modest"}},
              3);
  sim.Run();
  const double greedy = Percentile(SecondsToFirstToken(sim, "greedy"), 50);
  EXPECT_GT(greedy, 5);
  EXPECT_LT(Percentile(SecondsToFirstToken(sim, "modest"), 100) * 10, greedy);
}

TEST(LoadSim, PriorityGoesFirst) {
  LoadSim sim(Server(2000), {},
              {{.num_requests = 1000, .rate = 60, .client = "usual", .first_priority = 0},
               {.num_requests = 100, .rate = 6, .client = "urgent", .first_priority = -1}},
              4);
  sim.Run();
  EXPECT_LT(Percentile(SecondsToFirstToken(sim, "urgent"), 99) * 5,
            Percentile(SecondsToFirstToken(sim, "usual"), 50));
}

TEST(LoadSim, ALongPromptLetsShortOnesPass) {
  SchedulerConfig config = Server(10000);
  config.max_model_len = 100000;
  const Machine machine;
  LoadSim sim(
      config, machine,
      {{.num_requests = 1, .rate = 0, .mean_prompt = 1e9, .max_prompt = 50000, .client = "long"},
       {.num_requests = 20, .start = 0.1, .rate = 10, .max_prompt = 128, .client = "short"}},
      5);
  sim.Run();
  const double alone = 50000 / 256.0 * machine.TimeOf(256);
  EXPECT_LT(Percentile(SecondsToFirstToken(sim, "short"), 100), 10 * machine.TimeOf(256));
  EXPECT_LT(Percentile(SecondsToFirstToken(sim, "long"), 100), 1.5 * alone);
}

TEST(LoadSim, ARunRepeatsItself) {
  const auto run = [] {
    LoadSim sim(Server(130), {.failure_share = 1e-3, .max_steps = 2},
                {{.num_requests = 500, .mean_burst = 5, .abort_share = 0.1}}, 9);
    sim.Run();
    return std::pair(sim.seconds(), sim.Stats().steps);
  };
  EXPECT_EQ(run(), run());
}

}  // namespace
}  // namespace sluice::sim
