#include "device/buffer.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <utility>

#include "base/error.h"
#include "base/machine.h"
#include "device/cuda_memory.h"

namespace sluice {
namespace {

constexpr size_t kAlignment = 64;
// Of a step's tensors: what copy engines and wide loads of every backend ask for.
constexpr size_t kArenaAlignment = 256;
constexpr size_t kHugePage = 2u << 20;
// Small enough not to matter, large enough that one step of a small model fits in one block.
constexpr size_t kMinArenaBlock = 1u << 20;

constexpr size_t RoundUp(size_t value, size_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

std::byte* AllocateHost(size_t bytes) {
  const size_t alignment = bytes >= kHugePage ? kHugePage : kAlignment;
  auto* data = static_cast<std::byte*>(std::aligned_alloc(alignment, RoundUp(bytes, alignment)));
  if (data == nullptr) {
    throw Error(ErrorCode::kResourceExhausted,
                "could not allocate " + FormatBytes(bytes) + " of host memory, " +
                    FormatBytes(QueryMemory().available_bytes) + " available");
  }
  if (alignment != kHugePage) return data;
  // Weight and KV reads walk gigabytes: without huge pages, TLB misses cost a measurable share. The
  // end stays in small ones: many buffers of a little over a huge page would take twice their size.
  const size_t whole = bytes / kHugePage * kHugePage;
  madvise(data, whole, MADV_HUGEPAGE);
  if (whole < bytes) madvise(data + whole, RoundUp(bytes, kHugePage) - whole, MADV_NOHUGEPAGE);
  return data;
}

}  // namespace

Buffer::Buffer(size_t bytes, MemoryKind kind)
    : data_(bytes == 0                  ? nullptr
            : kind == MemoryKind::kHost ? AllocateHost(bytes)
                                        : AllocateCudaMemory(bytes, kind)),
      size_(bytes),
      kind_(kind) {}

Buffer::~Buffer() {
  if (data_ == nullptr) return;
  if (kind_ == MemoryKind::kHost) {
    std::free(data_);
  } else {
    FreeCudaMemory(data_, size_, kind_);
  }
}

Buffer::Buffer(Buffer&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)),
      size_(std::exchange(other.size_, 0)),
      kind_(other.kind_) {}

Buffer& Buffer::operator=(Buffer&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  std::swap(kind_, other.kind_);
  return *this;
}

TensorView Arena::Allocate(DType dtype, const Shape& shape) {
  const size_t bytes =
      RoundUp(std::max<size_t>(1, shape.NumElements() * SizeOf(dtype)), kArenaAlignment);
  while (block_ < blocks_.size() && used_ + bytes > blocks_[block_].size()) {
    ++block_;
    used_ = 0;
  }
  if (block_ == blocks_.size()) {
    const size_t previous = blocks_.empty() ? 0 : blocks_.back().size();
    blocks_.emplace_back(std::max({bytes, kMinArenaBlock, previous * 2}), kind_);
    used_ = 0;
  }
  std::byte* data = blocks_[block_].data() + used_;
  used_ += bytes;
  size_t all = used_;
  for (size_t i = 0; i < block_; ++i) all += blocks_[i].size();
  peak_ = std::max(peak_, all);
  return TensorView(data, dtype, shape);
}

void Arena::Reserve(size_t bytes) {
  SLUICE_CHECK(blocks_.empty());
  blocks_.emplace_back(RoundUp(bytes, kArenaAlignment), kind_);
}

size_t Arena::CapacityBytes() const {
  size_t total = 0;
  for (const Buffer& block : blocks_) total += block.size();
  return total;
}

}  // namespace sluice
