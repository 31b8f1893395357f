#include "study/prefetch.h"

#include <gtest/gtest.h>

#include "study/testing.h"
#include "trace/synthesize.h"

namespace sluice {
namespace {

std::vector<PrefetchHits> Play(const SyntheticDesc& desc, const SyntheticRun& run,
                               const PrefetchOptions& options) {
  SyntheticBatches source(desc, run);
  PrefetchStudy study(source.header(), options);
  RouterBatch batch;
  while (source.NextBatch(batch)) study.Add(batch);
  EXPECT_EQ(study.predicted_layers(),
            static_cast<uint64_t>(run.steps) * (run.num_layers - options.look_ahead));
  return study.Hits();
}

TEST(PrefetchStudy, CountsWhatWasFetchedAhead) {
  const RouterTraceHeader header{.num_layers = 2, .num_experts = 4, .top_k = 1};
  PrefetchStudy study(header, {.slots = {1, 2, 9}});
  for (uint64_t step = 0; step < 3; ++step) {
    study.Add(MakeBatch(step, 0, {{2}}));
    study.Add(MakeBatch(step, 1, {{3}}));
  }
  // The first guess, of nothing known, is expert 0; the others are right.
  const std::vector<PrefetchHits> hits = study.Hits();
  EXPECT_DOUBLE_EQ(hits[0].table, 2 / 3.0);
  EXPECT_DOUBLE_EQ(hits[0].frequency, 2 / 3.0);
  EXPECT_DOUBLE_EQ(hits[0].best, 1.0);
  EXPECT_DOUBLE_EQ(hits[2].table, 1.0);
  EXPECT_EQ(study.predicted_layers(), 3u);
}

TEST(PrefetchStudy, LooksAheadByRoutedLayersOfOneStep) {
  const RouterTraceHeader header{.num_layers = 9, .num_experts = 4, .top_k = 1};
  PrefetchStudy study(header, {.slots = {1}, .look_ahead = 2});
  study.Add(MakeBatch(0, 1, {{0}}));
  study.Add(MakeBatch(0, 4, {{0}}));
  EXPECT_EQ(study.predicted_layers(), 0u);
  study.Add(MakeBatch(0, 8, {{0}}));  // from layer 1
  EXPECT_EQ(study.predicted_layers(), 1u);
  study.Add(MakeBatch(1, 1, {{0}}));
  study.Add(MakeBatch(1, 4, {{0}}));
  study.Add(MakeBatch(1, 8, {{0}, {1}}));  // another token joined
  EXPECT_EQ(study.predicted_layers(), 1u);
}

TEST(PrefetchStudy, FindsTheLinkBetweenLayers) {
  const SyntheticRun run{
      .num_layers = 4, .num_experts = 32, .top_k = 2, .sequences = 2, .steps = 1500};
  const SyntheticDesc linked{.kind = SyntheticKind::kMarkov, .parameter = 0.8, .seed = 1};
  const PrefetchHits near = Play(linked, run, {.slots = {6}})[0];
  EXPECT_GT(near.table, near.frequency + 0.15);
  EXPECT_LE(near.table, near.best);
  // Farther ahead the link is weaker, 0.8^2 and 0.8^3.
  const PrefetchHits middle = Play(linked, run, {.slots = {6}, .look_ahead = 2})[0];
  const PrefetchHits far = Play(linked, run, {.slots = {6}, .look_ahead = 3})[0];
  EXPECT_LT(middle.table, near.table);
  EXPECT_LT(far.table, middle.table);
  EXPECT_GT(far.table, far.frequency);
  // A smaller table knows less, and more than none.
  const PrefetchHits small = Play(linked, run, {.slots = {6}, .table = {.row_entries = 2}})[0];
  EXPECT_LT(small.table, near.table + 0.01);
  EXPECT_GT(small.table, small.frequency);
}

TEST(PrefetchStudy, IsNeverMuchWorseThanFrequency) {
  const SyntheticRun run{
      .num_layers = 4, .num_experts = 64, .top_k = 4, .sequences = 6, .steps = 400};
  const SyntheticDesc descs[] = {{.kind = SyntheticKind::kUniform},
                                 {.kind = SyntheticKind::kZipf, .parameter = 1.0},
                                 {.kind = SyntheticKind::kZipf, .parameter = 0.5},
                                 {.kind = SyntheticKind::kSkewed, .parameter = 0.7},
                                 {.kind = SyntheticKind::kMarkov, .parameter = 0.0},
                                 {.kind = SyntheticKind::kMarkov, .parameter = 0.3},
                                 {.kind = SyntheticKind::kDrifting, .parameter = 20}};
  for (const SyntheticDesc& desc : descs) {
    for (const int row_entries : {0, 8}) {
      PrefetchOptions options;
      options.table.row_entries = row_entries;
      for (const PrefetchHits& hits : Play(desc, run, options)) {
        EXPECT_GT(hits.table, hits.frequency - 0.01)
            << SyntheticRouting(desc, 64).Name() << " " << row_entries << " " << hits.slots;
        EXPECT_LE(hits.table, hits.best + 1e-12);
        EXPECT_LE(hits.frequency, hits.best + 1e-12);
      }
    }
  }
}

}  // namespace
}  // namespace sluice
