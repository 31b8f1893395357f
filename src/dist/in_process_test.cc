#include <gtest/gtest.h>

#include <cstring>
#include <thread>
#include <vector>

#include "dist/process_group.h"

namespace sluice {
namespace {

// Rank r sends (r + 1) * (peer + 1) copies of the byte 16 * r + peer to each peer.
TEST(InProcessGroup, MovesEveryRanksBytesToTheirOwner) {
  constexpr int kSize = 3;
  auto groups = MakeInProcessGroup(kSize);
  std::vector<std::vector<std::byte>> received(kSize);
  std::vector<std::thread> threads;
  for (int r = 0; r < kSize; ++r) {
    threads.emplace_back([&, r] {
      ProcessGroup& group = *groups[r];
      for (int repeat = 0; repeat < 50; ++repeat) {
        std::vector<int64_t> counts, send_offsets = {0}, recv_offsets = {0};
        std::vector<std::byte> send;
        for (int peer = 0; peer < kSize; ++peer) {
          counts.push_back((r + 1) * (peer + 1));
          send.insert(send.end(), counts.back(), static_cast<std::byte>(16 * r + peer));
          send_offsets.push_back(static_cast<int64_t>(send.size()));
        }
        for (int64_t count : group.ExchangeCounts(counts)) {
          recv_offsets.push_back(recv_offsets.back() + count);
        }
        received[r].assign(recv_offsets.back(), std::byte{0xee});
        group.AllToAll(send, send_offsets, received[r], recv_offsets);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (int r = 0; r < kSize; ++r) {
    std::vector<std::byte> expected;
    for (int peer = 0; peer < kSize; ++peer) {
      expected.insert(expected.end(), (peer + 1) * (r + 1), static_cast<std::byte>(16 * peer + r));
    }
    EXPECT_EQ(received[r], expected) << "rank " << r;
  }
}

}  // namespace
}  // namespace sluice
