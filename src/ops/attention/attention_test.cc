#include "ops/attention/attention.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>

#include "ops/common/load_float.h"
#include "ops/common/test_support.h"

namespace sluice::ops {
namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

// KV of one sequence, scattered over pages of a pool in random order. What no row may see is NaN.
class Cache {
 public:
  Cache(const AttentionDesc& desc, DType dtype, int page_size, int kv_length, std::mt19937& random)
      : page_size_(page_size), kv_length_(kv_length) {
    const int count = (kv_length + page_size - 1) / page_size;
    const Shape pool = {count + 3, desc.num_kv_heads, page_size, desc.head_dim};
    k_pages_ = HostTensor(dtype, pool);
    v_pages_ = HostTensor(dtype, pool);
    Tensor empty = HostTensor(DType::kF32, pool);
    std::fill_n(empty.data<float>(), pool.NumElements(), kNan);
    ConvertFloats(empty, k_pages_);
    ConvertFloats(empty, v_pages_);
    pages_.resize(count + 3);
    std::iota(pages_.begin(), pages_.end(), 0);
    std::shuffle(pages_.begin(), pages_.end(), random);
    pages_.resize(count);
    k_ = RandomTensor({kv_length, desc.num_kv_heads, desc.head_dim}, random, 2.0f);
    v_ = RandomTensor({kv_length, desc.num_kv_heads, desc.head_dim}, random, 2.0f);
  }

  // Writes positions [0, end).
  void Fill(int end, OpContext& context) {
    Tensor slots = HostTensor(DType::kI64, {end});
    for (int p = 0; p < end; ++p) {
      slots.data<int64_t>()[p] = int64_t{pages_[p / page_size_]} * page_size_ + p % page_size_;
    }
    KvWrite(k_.view().Slice(0, end), v_.view().Slice(0, end), slots, pages(), context);
    // What the cache holds is what attention reads: rounded where the pages are bf16.
    Tensor rounded = Convert(k_, k_pages_.view().dtype());
    k_values_ = ToDoubles(rounded);
    v_values_ = ToDoubles(Convert(v_, k_pages_.view().dtype()));
  }

  KvPages pages() const { return {k_pages_, v_pages_}; }
  std::vector<int32_t>& table() { return pages_; }
  int kv_length() const { return kv_length_; }
  double k(int64_t i) const { return k_values_[i]; }
  double v(int64_t i) const { return v_values_[i]; }

 private:
  int page_size_;
  int kv_length_;
  Tensor k_pages_, v_pages_, k_, v_;
  std::vector<int32_t> pages_;
  std::vector<double> k_values_, v_values_;
};

// Softmax attention in double precision of row `row` of q over the positions that `sees` allows.
template <class Sees>
void AppendExpected(const AttentionDesc& desc, const Tensor& q, int64_t row, const Cache& cache,
                    const Sees& sees, std::vector<double>& want) {
  const int64_t dim = desc.head_dim;
  for (int64_t h = 0; h < desc.num_heads; ++h) {
    const int64_t kv_head = h * desc.num_kv_heads / desc.num_heads;
    std::vector<double> sums(dim, 0.0);
    double total = 0.0;
    for (int p = 0; p < cache.kv_length(); ++p) {
      if (!sees(p)) continue;
      const int64_t at = (p * desc.num_kv_heads + kv_head) * dim;
      double score = 0.0;
      for (int64_t d = 0; d < dim; ++d) {
        score += q.data<float>()[(row * desc.num_heads + h) * dim + d] * cache.k(at + d);
      }
      const double weight = std::exp(score * desc.scale);
      total += weight;
      for (int64_t d = 0; d < dim; ++d) sums[d] += weight * cache.v(at + d);
    }
    for (const double sum : sums) want.push_back(total > 0.0 ? sum / total : 0.0);
  }
}

std::vector<int32_t> Range(int begin, int end) {
  std::vector<int32_t> values(end - begin);
  std::iota(values.begin(), values.end(), begin);
  return values;
}

AttentionDesc Desc(int heads, int kv_heads, int head_dim, int window = 0) {
  return {.num_heads = heads,
          .num_kv_heads = kv_heads,
          .head_dim = head_dim,
          .scale = 1.0f / std::sqrt(static_cast<float>(head_dim)),
          .window = window};
}

constexpr int kNarrowDims[] = {64, 80, 96, 128, 192, 256};

class AttentionTest : public OpTest {
 protected:
  Guarded Run(const AttentionDesc& desc, ConstTensorView q, const AttentionSequence& sequence,
              const Cache& cache, OpContext& run_context) {
    Guarded out(DType::kF32, {q.dim(0), q.dim(1), q.dim(2)});
    Attention(desc, q, PlaceSequences(std::span(&sequence, 1), run_context), cache.pages(), out,
              run_context);
    return out;
  }

  // Of values of about 1. Kernels on tensor cores round queries and weights to bf16.
  double Tolerance(DType dtype, int head_dim) {
    const bool narrow = context().OnCuda() && dtype == DType::kBF16 &&
                        std::ranges::count(kNarrowDims, head_dim) > 0;
    return narrow ? 4e-3 : 2e-6;
  }

  // The same values; on the CPU the same bits.
  void ExpectSame(const float* a, const float* b, int64_t count) {
    if (!context().OnCuda()) return ExpectSameBits(a, b, count);
    for (int64_t i = 0; i < count; ++i) ASSERT_NEAR(a[i], b[i], 1e-6) << "element " << i;
  }
};

// What the CPU promises, and CUDA with batch_invariant: bits do not depend on how the work was cut.
class AttentionOrderTest : public AttentionTest {};

struct Mask {
  AttentionMask mask;
  int window;
};
constexpr Mask kMasks[] = {
    {AttentionMask::kCausal, 0}, {AttentionMask::kCausal, 7}, {AttentionMask::kFull, 0}};

struct Form {
  int heads, kv_heads, head_dim, page_size, kv_length, queries;
};

constexpr Form kForms[] = {{1, 1, 16, 4, 1, 1},     {4, 4, 64, 16, 37, 1}, {8, 2, 128, 16, 100, 5},
                           {6, 1, 24, 5, 23, 23},   {3, 3, 80, 8, 64, 3},  {70, 1, 32, 16, 20, 2},
                           {2, 1, 256, 32, 70, 40}, {12, 4, 40, 1, 9, 4}};

TEST_P(AttentionTest, MatchesDoublePrecisionUnderEachMask) {
  std::mt19937 random(1);
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    for (const Form& form : kForms) {
      for (const auto& [mask, window] : kMasks) {
        SCOPED_TRACE(::testing::Message()
                     << dtype << " heads " << form.heads << " dim " << form.head_dim << " mask "
                     << static_cast<int>(mask) << " window " << window);
        const AttentionDesc desc = Desc(form.heads, form.kv_heads, form.head_dim, window);
        Cache cache(desc, dtype, form.page_size, form.kv_length, random);
        cache.Fill(form.kv_length, context());
        const Tensor q = RandomTensor({form.queries, form.heads, form.head_dim}, random, 2.0f);
        const std::vector<int32_t> positions = Range(form.kv_length - form.queries, form.kv_length);
        const AttentionSequence sequence{.query_begin = 0,
                                         .query_count = form.queries,
                                         .positions = positions,
                                         .pages = cache.table(),
                                         .kv_length = form.kv_length,
                                         .mask = mask};
        const Guarded out = Run(desc, q, sequence, cache, context());
        std::vector<double> want;
        for (int i = 0; i < form.queries; ++i) {
          const int position = positions[i];
          AppendExpected(
              desc, q, i, cache,
              [&](int p) {
                if (mask == AttentionMask::kFull) return true;
                return p <= position && (desc.window == 0 || p > position - desc.window);
              },
              want);
        }
        const std::vector<double> scale(want.size(), 2.0);
        ExpectClose(out, want, scale, Tolerance(dtype, form.head_dim));
      }
    }
  }
}

TEST_P(AttentionTest, TreeRowsSeeTheirAncestors) {
  std::mt19937 random(2);
  const AttentionDesc desc = Desc(4, 2, 32);
  for (const int rows : {1, 7, 64}) {
    const int before = 21;
    Cache cache(desc, DType::kF32, 8, before + rows, random);
    cache.Fill(before + rows, context());
    const Tensor q = RandomTensor({rows, 4, 32}, random);
    std::vector<uint64_t> ancestors(rows);
    std::vector<int32_t> positions(rows);
    for (int i = 0; i < rows; ++i) {  // row i hangs below a random earlier row, or the root
      const int parent = static_cast<int>(random() % (i + 1)) - 1;
      ancestors[i] = (uint64_t{1} << i) | (parent < 0 ? 0 : ancestors[parent]);
      positions[i] = parent < 0 ? before : positions[parent] + 1;
    }
    const std::vector<int32_t> slots = Range(before, before + rows);
    const AttentionSequence sequence{.query_begin = 0,
                                     .query_count = rows,
                                     .positions = positions,
                                     .pages = cache.table(),
                                     .kv_length = before + rows,
                                     .mask = AttentionMask::kTree,
                                     .ancestors = ancestors,
                                     .slots_of_queries = slots};
    const Guarded out = Run(desc, q, sequence, cache, context());
    std::vector<double> want;
    for (int i = 0; i < rows; ++i) {
      AppendExpected(
          desc, q, i, cache,
          [&](int p) { return p < before || ((ancestors[i] >> (p - before)) & 1u) != 0; }, want);
    }
    const std::vector<double> scale(want.size(), 2.0);
    ExpectClose(out, want, scale, 1e-6);
  }
}

// Positions are written only as a chunk needs them, so later ones are NaN while earlier rows run.
TEST_P(AttentionOrderTest, ChunksGiveTheSameBits) {
  std::mt19937 random(3);
  OpRunner five_threads(GetParam(), 5);
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    for (const int window : {0, 19}) {
      const AttentionDesc desc = Desc(8, 2, 72, window);
      constexpr int kLength = 53;
      Cache cache(desc, dtype, 16, kLength, random);
      const Tensor q = RandomTensor({kLength, 8, 72}, random);
      const std::vector<int32_t> positions = Range(0, kLength);
      const auto run = [&](int begin, int end, OpContext& run_context) {
        cache.Fill(end, run_context);
        const std::span<const int32_t> all(positions);
        const AttentionSequence sequence{.query_begin = 0,
                                         .query_count = end - begin,
                                         .positions = all.subspan(begin, end - begin),
                                         .pages = cache.table(),
                                         .kv_length = end,
                                         .mask = AttentionMask::kCausal};
        return Run(desc, q.view().Slice(begin, end), sequence, cache, run_context);
      };
      std::vector<Guarded> chunks;
      for (int begin = 0; begin < kLength; begin += 7) {
        chunks.push_back(run(begin, std::min(begin + 7, kLength), context()));
      }
      const Guarded whole = run(0, kLength, five_threads.context());
      for (size_t i = 0; i < chunks.size(); ++i) {
        ExpectSameBits(chunks[i].data<float>(), whole.data<float>() + i * 7 * 8 * 72,
                       chunks[i].view().NumElements());
      }
      for (int row = 0; row < kLength; ++row) {
        const Guarded alone = run(row, row + 1, context());
        ExpectSameBits(alone.data<float>(), whole.data<float>() + row * 8 * 72, 8 * 72);
      }
    }
  }
}

// As above over more positions than a tile or a split of any kernel has, each row by itself and a
// few at once, where queries are many, where they are one a sequence, and where so many sequences
// run together that each has one block.
TEST_P(AttentionOrderTest, ARowHasTheSameBitsInAChunkOfAnySize) {
  std::mt19937 random(5);
  constexpr int kLength = 900;
  struct Layer {
    int head_dim;
    int window;
  };
  for (const auto& [head_dim, window] : {Layer{64, 0}, Layer{128, 0}, Layer{128, 310}}) {
    const AttentionDesc desc = Desc(8, 2, head_dim, window);
    SCOPED_TRACE(::testing::Message() << "dim " << head_dim << " window " << window);
    Cache cache(desc, DType::kBF16, 16, kLength, random);
    cache.Fill(kLength, context());
    const Tensor q = RandomTensor({kLength, 8, head_dim}, random, 4.0f);
    const std::vector<int32_t> positions = Range(0, kLength);
    const int64_t row_size = 8 * head_dim;
    const auto sequence = [&](int query_begin, int begin, int end) {
      return AttentionSequence{.query_begin = query_begin,
                               .query_count = end - begin,
                               .positions = std::span(positions).subspan(begin, end - begin),
                               .pages = cache.table(),
                               .kv_length = end,
                               .mask = AttentionMask::kCausal};
    };
    const auto run = [&](int begin, int end) {
      return Run(desc, q.view().Slice(begin, end), sequence(0, begin, end), cache, context());
    };
    const Guarded whole = run(0, kLength);
    for (const int count : {1, 3, 20, 150}) {
      for (int begin = 0; begin + count <= kLength; begin += 83) {
        const Guarded part = run(begin, begin + count);
        ExpectSameBits(part.data<float>(), whole.data<float>() + begin * row_size,
                       part.view().NumElements());
      }
    }
    for (const int step : {3, 70}) {  // 300 sequences, and 13
      std::vector<AttentionSequence> sequences;
      Tensor rows = HostTensor(DType::kF32, {(kLength + step - 1) / step, 8, head_dim});
      for (int row = 0; row < kLength; row += step) {
        const int at = static_cast<int>(sequences.size());
        std::copy_n(q.data<float>() + row * row_size, row_size, rows.data<float>() + at * row_size);
        sequences.push_back(sequence(at, row, row + 1));
      }
      Guarded out(DType::kF32, rows.view().shape());
      Attention(desc, rows, PlaceSequences(sequences, context()), cache.pages(), out, context());
      out.ExpectGuardsIntact();
      for (size_t at = 0; at < sequences.size(); ++at) {
        ExpectSameBits(out.data<float>() + at * row_size,
                       whole.data<float>() + at * step * row_size, row_size);
      }
    }
  }
}

// A straight chain of drafts computes exactly what a causal chunk computes, bit for bit.
TEST_P(AttentionOrderTest, TreeChainsHaveTheBitsOfCausalRows) {
  std::mt19937 random(4);
  constexpr int kBefore = 250;
  constexpr int kRows = 9;
  for (const int head_dim : {64, 128}) {
    const AttentionDesc desc = Desc(4, 4, head_dim);
    Cache cache(desc, DType::kBF16, 8, kBefore + kRows, random);
    cache.Fill(kBefore + kRows, context());
    const Tensor q = RandomTensor({kRows, 4, head_dim}, random);
    const std::vector<int32_t> positions = Range(kBefore, kBefore + kRows);
    std::vector<uint64_t> ancestors(kRows);
    for (int i = 0; i < kRows; ++i) ancestors[i] = (uint64_t{2} << i) - 1;
    AttentionSequence sequence{.query_begin = 0,
                               .query_count = kRows,
                               .positions = positions,
                               .pages = cache.table(),
                               .kv_length = kBefore + kRows,
                               .mask = AttentionMask::kTree,
                               .ancestors = ancestors,
                               .slots_of_queries = positions};
    const Guarded tree = Run(desc, q, sequence, cache, context());
    sequence.mask = AttentionMask::kCausal;
    const Guarded causal = Run(desc, q, sequence, cache, context());
    ExpectSameBits(tree.data<float>(), causal.data<float>(), kRows * 4 * head_dim);
  }
}

// Siblings that a row does not see may hold anything; on CUDA in bf16, anything finite.
TEST_P(AttentionTest, HiddenSiblingsAreNotAddedUp) {
  std::mt19937 random(7);
  const AttentionDesc desc = Desc(4, 4, 64);
  constexpr int kBefore = 13;
  constexpr int kRows = 9;
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    const float hidden = dtype == DType::kBF16 && context().OnCuda() ? 1e4f : kNan;
    Cache cache(desc, dtype, 8, kBefore + kRows, random);
    cache.Fill(kBefore + kRows, context());
    const Tensor q = RandomTensor({kRows, 4, 64}, random);
    const std::vector<int32_t> positions = Range(kBefore, kBefore + kRows);
    std::vector<uint64_t> ancestors(kRows);  // a chain in which no later row sees row 0
    for (int i = 0; i < kRows; ++i) ancestors[i] = ((uint64_t{2} << i) - 1) & ~uint64_t{i > 0};
    const AttentionSequence sequence{.query_begin = 0,
                                     .query_count = kRows,
                                     .positions = positions,
                                     .pages = cache.table(),
                                     .kv_length = kBefore + kRows,
                                     .mask = AttentionMask::kTree,
                                     .ancestors = ancestors,
                                     .slots_of_queries = positions};
    const Guarded expected = Run(desc, q, sequence, cache, context());
    Tensor garbage = HostTensor(DType::kF32, {1, 4, 64});
    std::fill_n(garbage.data<float>(), 4 * 64, hidden);
    Tensor slot = HostTensor(DType::kI64, {1});
    slot.data<int64_t>()[0] = int64_t{cache.table()[kBefore / 8]} * 8 + kBefore % 8;
    KvWrite(garbage, garbage, slot, cache.pages(), context());
    const Guarded out = Run(desc, q, sequence, cache, context());
    constexpr int64_t kRow = 4 * 64;
    ExpectSameBits(out.data<float>() + kRow, expected.data<float>() + kRow, (kRows - 1) * kRow);
  }
}

TEST_P(AttentionTest, SequencesOfAStepDoNotMeet) {
  std::mt19937 random(5);
  const AttentionDesc desc = Desc(4, 2, 32);
  Cache cache(desc, DType::kF32, 8, 40, random);
  cache.Fill(40, context());
  const Tensor q = RandomTensor({6, 4, 32}, random);
  const std::vector<int32_t> positions = {3, 4, 39, 17, 18, 19};
  const auto sequence = [&](int begin, int count, int kv_length) {
    return AttentionSequence{.query_begin = begin,
                             .query_count = count,
                             .positions = std::span(positions).subspan(begin, count),
                             .pages = cache.table(),
                             .kv_length = kv_length,
                             .mask = AttentionMask::kCausal};
  };
  const AttentionSequence sequences[] = {sequence(0, 2, 5), sequence(2, 1, 40), sequence(3, 0, 0),
                                         sequence(3, 3, 20)};
  Guarded together(DType::kF32, {6, 4, 32});
  Attention(desc, q, PlaceSequences(sequences, context()), cache.pages(), together, context());
  together.ExpectGuardsIntact();
  for (const AttentionSequence& one : sequences) {
    Guarded alone(DType::kF32, {6, 4, 32});
    Attention(desc, q, PlaceSequences(std::span(&one, 1), context()), cache.pages(), alone,
              context());
    const int64_t first = one.query_begin * 4 * 32;
    ExpectSame(alone.data<float>() + first, together.data<float>() + first,
               one.query_count * 4 * 32);
  }
}

// Of every width that has its own kernels, with 1 to 16 heads a KV head: sequences that are new,
// that grow by a row or a few, and that are read in; run twice for the same bits.
TEST_P(AttentionTest, MixedLengthsRunInOneCall) {
  std::mt19937 random(11);
  const AttentionDesc descs[] = {Desc(2, 2, 64),   Desc(4, 2, 80),     Desc(6, 2, 96, 60),
                                 Desc(16, 2, 128), Desc(5, 1, 128, 9), Desc(8, 2, 192),
                                 Desc(16, 1, 256)};
  struct Length {
    int queries, kv_length;
  };
  constexpr Length kLengths[] = {{1, 1}, {1, 17}, {0, 0}, {1, 520}, {5, 300}, {40, 130}, {24, 519}};
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    for (const AttentionDesc& desc : descs) {
      SCOPED_TRACE(::testing::Message() << dtype << " dim " << desc.head_dim);
      Cache cache(desc, dtype, 16, 520, random);
      cache.Fill(520, context());
      std::vector<int32_t> positions;
      for (const Length& length : kLengths) {
        for (int i = length.kv_length - length.queries; i < length.kv_length; ++i) {
          positions.push_back(i);
        }
      }
      const int rows = static_cast<int>(positions.size());
      const Tensor q = RandomTensor({rows, desc.num_heads, desc.head_dim}, random, 2.0f);
      std::vector<AttentionSequence> sequences;
      int begin = 0;
      for (const Length& length : kLengths) {
        sequences.push_back({.query_begin = begin,
                             .query_count = length.queries,
                             .positions = std::span(positions).subspan(begin, length.queries),
                             .pages = cache.table(),
                             .kv_length = length.kv_length,
                             .mask = AttentionMask::kCausal});
        begin += length.queries;
      }
      std::vector<double> want;
      for (int row = 0; row < rows; ++row) {
        const int position = positions[row];
        AppendExpected(
            desc, q, row, cache,
            [&](int p) {
              return p <= position && (desc.window == 0 || p > position - desc.window);
            },
            want);
      }
      const AttentionBatch batch = PlaceSequences(sequences, context());
      Guarded out(DType::kF32, {rows, desc.num_heads, desc.head_dim});
      Attention(desc, q, batch, cache.pages(), out, context());
      const std::vector<double> scale(want.size(), 2.0);
      ExpectClose(out, want, scale, Tolerance(dtype, desc.head_dim));
      Guarded again(DType::kF32, {rows, desc.num_heads, desc.head_dim});
      Attention(desc, q, batch, cache.pages(), again, context());
      ExpectSameBits(out.data<float>(), again.data<float>(), out.view().NumElements());
    }
  }
}

// A kernel's inputs of products may be narrow: they are the same sums, rounded once.
TEST_P(AttentionTest, NarrowOutputsAreTheRoundedSums) {
  if (!context().OnCuda()) GTEST_SKIP() << "the CPU's are f32";
  std::mt19937 random(8);
  for (const int head_dim : {64, 128}) {
    const AttentionDesc desc = Desc(4, 2, head_dim);
    Cache cache(desc, DType::kBF16, 16, 150, random);
    cache.Fill(150, context());
    for (const int queries : {3, 40}) {
      SCOPED_TRACE(::testing::Message() << queries << " queries, dim " << head_dim);
      const Shape shape = {queries, 4, head_dim};
      const Tensor q = RandomTensor(shape, random);
      const std::vector<int32_t> positions = Range(150 - queries, 150);
      const AttentionSequence sequence{.query_begin = 0,
                                       .query_count = queries,
                                       .positions = positions,
                                       .pages = cache.table(),
                                       .kv_length = 150,
                                       .mask = AttentionMask::kCausal};
      const AttentionBatch batch = PlaceSequences(std::span(&sequence, 1), context());
      Guarded wide(DType::kF32, shape);
      Attention(desc, q, batch, cache.pages(), wide, context());
      for (const DType dtype : {DType::kBF16, DType::kF16}) {
        Guarded narrow(dtype, shape);
        Attention(desc, q, batch, cache.pages(), narrow, context());
        narrow.ExpectGuardsIntact();
        Tensor want(dtype, shape);
        ConvertFloats(wide.view(), want);
        EXPECT_EQ(std::memcmp(want.view().raw(), narrow.view().raw(), want.view().NumBytes()), 0);
      }
    }
  }
}

TEST_P(AttentionTest, NegativeSlotsAreNotWritten) {
  std::mt19937 random(9);
  const Tensor rows = RandomTensor({3, 2, 16}, random);
  Guarded k(DType::kF32, {2, 2, 4, 16});
  Guarded v(DType::kF32, {2, 2, 4, 16});
  Tensor slots = HostTensor(DType::kI64, {3});
  const int64_t values[] = {5, -1, 2};
  std::copy_n(values, 3, slots.data<int64_t>());
  KvWrite(rows, rows, slots, {k, v}, context());
  k.ExpectGuardsIntact();
  v.ExpectGuardsIntact();
  int written = 0;
  for (int i = 0; i < 2 * 2 * 4 * 16; ++i) written += std::isnan(k.data<float>()[i]) ? 0 : 1;
  EXPECT_EQ(written, 2 * 2 * 16);
  for (int d = 0; d < 16; ++d) {
    // Slot 5 is page 1's second position; slot 2 is page 0's third.
    EXPECT_EQ(v.data<float>()[((1 * 2 + 1) * 4 + 1) * 16 + d], rows.data<float>()[16 + d]);
    EXPECT_EQ(k.data<float>()[((0 * 2 + 0) * 4 + 2) * 16 + d], rows.data<float>()[64 + d]);
  }
}

TEST_P(AttentionTest, PlacesSequencesAsKernelsReadThem) {
  std::mt19937 random(10);
  const std::vector<int32_t> positions = {7, 8, 20, 21, 21};
  const std::vector<int32_t> pages = {4, 2, 9};
  const std::vector<uint64_t> ancestors = {1, 3, 5};
  const std::vector<int32_t> slots = {20, 21, 23};
  const AttentionSequence sequences[] = {{.query_begin = 0,
                                          .query_count = 2,
                                          .positions = std::span(positions).first(2),
                                          .pages = std::span(pages).first(2),
                                          .kv_length = 9,
                                          .mask = AttentionMask::kCausal},
                                         {.query_begin = 2,
                                          .query_count = 3,
                                          .positions = std::span(positions).subspan(2),
                                          .pages = pages,
                                          .kv_length = 24,
                                          .mask = AttentionMask::kTree,
                                          .ancestors = ancestors,
                                          .slots_of_queries = slots}};
  const AttentionBatch batch = PlaceSequences(sequences, context());
  EXPECT_EQ(batch.sequences.data(), sequences);
  EXPECT_EQ(batch.placed.kv_lengths.empty(), !context().OnCuda());
  if (!context().OnCuda()) return;
  const auto expect = [&](ConstTensorView view, const std::vector<int32_t>& want) {
    const Tensor got = Download(view, context());
    EXPECT_EQ(std::vector<int32_t>(got.data<int32_t>(), got.data<int32_t>() + view.NumElements()),
              want);
  };
  const PlacedSequences& placed = batch.placed;
  expect(placed.query_begin, {0, 2, 5});
  expect(placed.sequence_of_row, {0, 0, 1, 1, 1});
  expect(placed.positions, positions);
  expect(placed.kv_lengths, {9, 24});
  expect(placed.masks, {0, 2});
  expect(placed.slots_of_queries, {0, 0, 20, 21, 23});
  EXPECT_EQ(placed.page_table.shape(), (Shape{2, 4}));
  expect(placed.page_table, {4, 2, 0, 0, 4, 2, 9, 0});
  const Tensor bits = Download(placed.ancestors, context());
  const std::vector<int64_t> want = {0, 0, 0b0001, 0b0011, 0b1001};  // of positions from 20 on
  EXPECT_EQ(std::vector<int64_t>(bits.data<int64_t>(), bits.data<int64_t>() + 5), want);
  EXPECT_EQ(placed.max_query_count, 3);
  EXPECT_EQ(placed.max_kv_length, 32);
  EXPECT_TRUE(placed.any_tree);
}

TEST_P(AttentionTest, PagesOutsideTheWindowAreNotRead) {
  std::mt19937 random(6);
  const AttentionDesc desc = Desc(2, 2, 16, 6);
  Cache cache(desc, DType::kF32, 4, 30, random);
  cache.Fill(30, context());
  const Tensor q = RandomTensor({1, 2, 16}, random);
  const std::vector<int32_t> positions = {29};
  const auto run = [&] {
    const AttentionSequence sequence{.query_begin = 0,
                                     .query_count = 1,
                                     .positions = positions,
                                     .pages = cache.table(),
                                     .kv_length = 30,
                                     .mask = AttentionMask::kCausal};
    return Run(desc, q, sequence, cache, context());
  };
  const Guarded before = run();
  for (int i = 0; i < 6; ++i) cache.table()[i] = -1;  // positions below 24
  const Guarded after = run();
  ExpectSameBits(before.data<float>(), after.data<float>(), 2 * 16);
  if (context().OnCuda()) return;  // which does not look at single pages
  cache.table()[6] = -1;
  EXPECT_THROW(run(), InternalError);
}

TEST_P(AttentionTest, SaysWhatItSupports) {
  EXPECT_TRUE(AttentionSupports(Desc(32, 4, 128)));
  EXPECT_FALSE(AttentionSupports(Desc(32, 5, 128)));
  EXPECT_FALSE(AttentionSupports(Desc(32, 4, 8)));
  EXPECT_FALSE(AttentionSupports(Desc(32, 4, 100)));
  EXPECT_FALSE(AttentionSupports(Desc(32, 4, 264)));
}

SLUICE_INSTANTIATE_OP_TEST(AttentionTest);
SLUICE_INSTANTIATE_INVARIANT_OP_TEST(AttentionOrderTest);

}  // namespace
}  // namespace sluice::ops
