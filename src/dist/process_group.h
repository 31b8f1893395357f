#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

namespace sluice {

// A fixed set of ranks that exchange data collectively: every rank calls the same operations in the
// same order. One caller thread a rank.
class ProcessGroup {
 public:
  virtual ~ProcessGroup() = default;
  virtual int rank() const = 0;
  virtual int size() const = 0;

  // Sends counts[r] to rank r; returns what each rank sent here, by sender. Both are [size].
  virtual std::vector<int64_t> ExchangeCounts(std::span<const int64_t> counts) = 0;

  // Sends bytes [send_offsets[r], send_offsets[r + 1]) of `send` to rank r, and receives rank r's
  // into [recv_offsets[r], recv_offsets[r + 1]) of `recv`. Offsets are [size + 1]; what a rank
  // sends must be as long as what its peer expects.
  virtual void AllToAll(std::span<const std::byte> send, std::span<const int64_t> send_offsets,
                        std::span<std::byte> recv, std::span<const int64_t> recv_offsets) = 0;
};

// `size` ranks within this process, one for each thread that runs a rank. They share state, which
// lives as long as any of them.
std::vector<std::unique_ptr<ProcessGroup>> MakeInProcessGroup(int size);

}  // namespace sluice
