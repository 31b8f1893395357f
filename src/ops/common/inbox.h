#pragma once

#include <array>
#include <cstddef>
#include <vector>

#include "device/buffer.h"
#include "device/cuda_stream.h"

namespace sluice::ops {

// What the host tells a step's kernels: written piece by piece to pinned memory, and sent to the
// device in one copy. Pieces of the same sizes taken in the same order have the same addresses, so
// that a recorded graph finds them. One thread; the stream outlives it.
class Inbox {
 public:
  enum class Sends {
    kTogether,  // pieces go when Send is called: of a runner, which knows when a step was told all
    kEach,      // a piece goes when it is filled: of whoever calls ops one by one
  };
  // With room for `bytes` at first.
  Inbox(CudaStream& stream, Sends sends, size_t bytes = 1 << 20);

  struct Piece {
    std::byte* host = nullptr;  // to be written before Filled
    std::byte* device = nullptr;
    size_t bytes = 0;
  };
  // Aligned to 256 bytes; lasts until Clear.
  Piece Take(size_t bytes);
  void Filled(const Piece& piece);

  // Queues the copy of what was taken since the last Send or Clear.
  void Send();

  // Begins anew, in other memory of the host: what was sent since the last Clear may still be on
  // its way, what was sent before that must have arrived.
  void Clear();

 private:
  struct Block {
    std::array<Buffer, 2> host;
    Buffer device;
    size_t used = 0;
    size_t sent = 0;
  };

  void AddBlock(size_t bytes);

  CudaStream& stream_;
  Sends sends_;
  std::vector<Block> blocks_;
  size_t block_ = 0;  // index of the one being filled
  size_t side_ = 0;   // which of a block's `host` is written
};

}  // namespace sluice::ops
