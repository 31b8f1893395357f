#include "ops/common/inbox.h"

#include <algorithm>

#include "device/cuda_memory.h"
#include "ops/common/copy_few_bytes.h"

namespace sluice::ops {
namespace {

constexpr size_t kAlignment = 256;

}  // namespace

Inbox::Inbox(CudaStream& stream, Sends sends, size_t bytes) : stream_(stream), sends_(sends) {
  AddBlock(bytes);
}

void Inbox::AddBlock(size_t bytes) {
  blocks_.push_back(
      {.host = {Buffer(bytes, MemoryKind::kPinned), Buffer(bytes, MemoryKind::kPinned)},
       .device = Buffer(bytes, MemoryKind::kCuda)});
}

Inbox::Piece Inbox::Take(size_t bytes) {
  const size_t taken = (std::max<size_t>(bytes, 1) + kAlignment - 1) / kAlignment * kAlignment;
  while (block_ < blocks_.size() && blocks_[block_].used + taken > blocks_[block_].device.size()) {
    ++block_;
  }
  if (block_ == blocks_.size()) AddBlock(std::max(taken, 2 * blocks_.back().device.size()));
  Block& block = blocks_[block_];
  const Piece piece{.host = block.host[side_].data() + block.used,
                    .device = block.device.data() + block.used,
                    .bytes = bytes};
  block.used += taken;
  return piece;
}

void Inbox::Filled(const Piece& piece) {
  if (sends_ == Sends::kEach && piece.bytes > 0) {
    stream_.Copy(piece.device, piece.host, piece.bytes);
  }
}

void Inbox::Send() {
  for (Block& block : blocks_) {
    if (block.used == block.sent) continue;
    if constexpr (kCudaBuilt) {
      cuda::CopyFewBytes(block.device.data() + block.sent, block.host[side_].data() + block.sent,
                         block.used - block.sent, stream_);
    }
    block.sent = block.used;
    // Kernels read what is here before they wait for the one before them, and a copy by a kernel is
    // one that could still be under way.
    stream_.HoldNext();
  }
}

void Inbox::Clear() {
  for (Block& block : blocks_) block.used = block.sent = 0;
  block_ = 0;
  side_ = 1 - side_;
}

}  // namespace sluice::ops
