#include "ops/attention/attention_batch.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "ops/attention/attention_sequences.h"
#include "ops/common/checks.h"

namespace sluice::ops {
namespace {

// Bytes that each part of the block starts at a multiple of.
constexpr int64_t kPartAlignment = 16;

// The parts of PlacedSequences behind each other in one block, on the host and on the device.
class Block {
 public:
  Block(std::byte* host, std::byte* device) : host_(host), device_(device) {}

  // The next part: its memory on the host, zeroed, and in `placed` its view on the device. While
  // the block is measured there is no memory and the part is null.
  template <class T, class View>
  T* Take(const Shape& shape, View& placed) {
    const auto bytes = shape.NumElements() * static_cast<int64_t>(sizeof(T));
    std::byte* part = host_ == nullptr ? nullptr : host_ + used_;
    if (part != nullptr) {
      std::memset(part, 0, bytes);
      placed = View(device_ + used_, DTypeTraits<T>::kDType, shape);
    }
    used_ += (bytes + kPartAlignment - 1) / kPartAlignment * kPartAlignment;
    return reinterpret_cast<T*>(part);
  }
  int64_t used() const { return used_; }

 private:
  std::byte* host_;
  std::byte* device_;
  int64_t used_ = 0;
};

struct Sizes {
  int64_t sequences = 0;
  int64_t rows = 0;
  int64_t max_pages = 1;
};

Sizes SizesOf(std::span<const AttentionSequence> sequences) {
  Sizes sizes{.sequences = std::ssize(sequences)};
  if (!sequences.empty()) sizes.rows = sequences.front().query_begin;
  for (const AttentionSequence& sequence : sequences) {
    SLUICE_CHECK_EQ(sequence.query_begin, sizes.rows);
    SLUICE_CHECK_EQ(static_cast<int>(sequence.positions.size()), sequence.query_count);
    CheckTree(sequence);
    sizes.rows += sequence.query_count;
    sizes.max_pages = std::max<int64_t>(sizes.max_pages, std::ssize(sequence.pages));
  }
  sizes.max_pages = static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(sizes.max_pages)));
  return sizes;
}

// The parts' memory on the host.
struct Parts {
  int32_t* query_begin;
  int32_t* sequence_of_row;
  int32_t* positions;
  int32_t* kv_lengths;
  int32_t* masks;
  int64_t* ancestors;
  int32_t* slots_of_queries;
  int32_t* page_table;  // last, so that its width moves no other part
};

Parts TakeParts(const Sizes& sizes, Block& block, PlacedSequences& placed) {
  const int64_t s = sizes.sequences;
  const int64_t t = sizes.rows;
  Parts parts{};
  parts.query_begin = block.Take<int32_t>({s + 1}, placed.query_begin);
  parts.sequence_of_row = block.Take<int32_t>({t}, placed.sequence_of_row);
  parts.positions = block.Take<int32_t>({t}, placed.positions);
  parts.kv_lengths = block.Take<int32_t>({s}, placed.kv_lengths);
  parts.masks = block.Take<int32_t>({s}, placed.masks);
  parts.ancestors = block.Take<int64_t>({t}, placed.ancestors);
  parts.slots_of_queries = block.Take<int32_t>({t}, placed.slots_of_queries);
  block.Take<int32_t>({s, cuda::kAttentionCounters}, placed.counters);
  parts.page_table = block.Take<int32_t>({s, sizes.max_pages}, placed.page_table);
  return parts;
}

void Fill(std::span<const AttentionSequence> sequences, const Sizes& sizes, const Parts& parts) {
  std::fill_n(parts.sequence_of_row, sizes.rows, -1);  // rows before the first sequence's
  for (int64_t s = 0; s < sizes.sequences; ++s) {
    const AttentionSequence& sequence = sequences[s];
    const int begin = sequence.query_begin;
    parts.query_begin[s] = begin;
    parts.kv_lengths[s] = sequence.kv_length;
    parts.masks[s] = static_cast<int32_t>(sequence.mask);
    std::copy(sequence.pages.begin(), sequence.pages.end(), parts.page_table + s * sizes.max_pages);
    std::copy(sequence.positions.begin(), sequence.positions.end(), parts.positions + begin);
    std::fill_n(parts.sequence_of_row + begin, sequence.query_count, static_cast<int32_t>(s));
    if (sequence.mask != AttentionMask::kTree) continue;
    std::copy(sequence.slots_of_queries.begin(), sequence.slots_of_queries.end(),
              parts.slots_of_queries + begin);
    for (int row = 0; row < sequence.query_count; ++row) {
      parts.ancestors[begin + row] = static_cast<int64_t>(TreeBits(sequence, row));
    }
  }
  parts.query_begin[sizes.sequences] = static_cast<int32_t>(sizes.rows);
}

}  // namespace

AttentionBatch PlaceSequences(std::span<const AttentionSequence> sequences, OpContext& context) {
  AttentionBatch batch{.sequences = sequences, .placed = {}};
  if (!context.OnCuda()) return batch;
  SLUICE_CHECK(context.inbox != nullptr);
  PlacedSequences& placed = batch.placed;
  const Sizes sizes = SizesOf(sequences);
  Block measured(nullptr, nullptr);
  TakeParts(sizes, measured, placed);
  const Inbox::Piece piece = context.inbox->Take(static_cast<size_t>(measured.used()));
  Block block(piece.host, piece.device);
  Fill(sequences, sizes, TakeParts(sizes, block, placed));
  for (const AttentionSequence& sequence : sequences) {
    placed.max_query_count = std::max(placed.max_query_count, sequence.query_count);
    placed.max_kv_length = std::max(placed.max_kv_length, sequence.kv_length);
    placed.any_tree = placed.any_tree || sequence.mask == AttentionMask::kTree;
  }
  placed.max_kv_length =
      static_cast<int>(std::bit_ceil(static_cast<unsigned>(placed.max_kv_length)));
  context.inbox->Filled(piece);
  return batch;
}

}  // namespace sluice::ops
