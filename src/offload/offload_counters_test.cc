#include "offload/offload_counters.h"

#include <gtest/gtest.h>
#include <unistd.h>

namespace sluice {
namespace {

TEST(OffloadCounters, AnotherProcessReadsWhatWasPublished) {
  OffloadCounters server(2);
  OffloadCounters worker(2, dup(server.descriptor()));
  worker.SetSlots(30, 96);
  OffloadStats stats{.layers = {{.requests = 5, .hits = 3, .wait_s = 0.25}, {.disk_bytes = 7}}};
  worker.Publish(stats, {.copies = 2, .bytes = 2000, .busy_s = 1.5});
  stats.layers[0].requests = 9;
  stats.layers[1].between_s = 1e-6;
  worker.Publish(stats, {.copies = 3, .bytes = 3000, .busy_s = 1.75});
  EXPECT_EQ(server.expert_slots(), 30);
  EXPECT_EQ(server.host_slots(), 96);
  EXPECT_EQ(server.Layer(0).requests, 9u);
  EXPECT_EQ(server.Layer(0).hits, 3u);
  EXPECT_DOUBLE_EQ(server.Layer(0).wait_s, 0.25);
  EXPECT_EQ(server.Layer(1).disk_bytes, 7u);
  EXPECT_DOUBLE_EQ(server.Layer(1).between_s, 1e-6);
  EXPECT_EQ(server.Link().copies, 3u);
  EXPECT_EQ(server.Link().bytes, 3000u);
  EXPECT_DOUBLE_EQ(server.Link().busy_s, 1.75);
}

TEST(OffloadCounters, AWorkerInTheLostOnesPlaceCountsOn) {
  OffloadCounters server(1);
  const OffloadStats stats{.layers = {{.requests = 5, .wait_s = 0.5}}};
  for (int life = 0; life < 3; ++life) {
    OffloadCounters(1, dup(server.descriptor())).Publish(stats, {.copies = 2});
  }
  EXPECT_EQ(server.Layer(0).requests, 15u);
  EXPECT_DOUBLE_EQ(server.Layer(0).wait_s, 1.5);
  EXPECT_EQ(server.Link().copies, 6u);
}

}  // namespace
}  // namespace sluice
