#include "ops/attention/latent_attention.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>

#include "ops/common/test_support.h"
#include "quant/float_formats.h"

namespace sluice::ops {
namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

// Latent rows of one sequence, scattered over pages of a pool in random order. What was not written
// is NaN.
class Cache {
 public:
  Cache(int width, DType dtype, int page_size, int kv_length, std::mt19937& random)
      : page_size_(page_size), kv_length_(kv_length), width_(width) {
    const int count = (kv_length + page_size - 1) / page_size;
    const Shape pool = {count + 3, page_size, width};
    pages_ = HostTensor(dtype, pool);
    Tensor empty = HostTensor(DType::kF32, pool);
    std::fill_n(empty.data<float>(), pool.NumElements(), kNan);
    ConvertFloats(empty, pages_);
    table_.resize(count + 3);
    std::iota(table_.begin(), table_.end(), 0);
    std::shuffle(table_.begin(), table_.end(), random);
    table_.resize(count);
    rows_ = RandomTensor({kv_length, width}, random, 2.0f);
    values_ = ToDoubles(Convert(rows_, dtype));
  }

  // Writes positions [0, end).
  void Fill(int end, OpContext& context) {
    Tensor slots = HostTensor(DType::kI64, {end});
    for (int p = 0; p < end; ++p) {
      slots.data<int64_t>()[p] = int64_t{table_[p / page_size_]} * page_size_ + p % page_size_;
    }
    LatentWrite(rows_.view().Slice(0, end), slots, pages_, context);
  }

  TensorView pages() const { return pages_; }
  std::vector<int32_t>& table() { return table_; }
  int kv_length() const { return kv_length_; }
  const double* row(int p) const { return values_.data() + static_cast<int64_t>(p) * width_; }

 private:
  int page_size_;
  int kv_length_;
  int width_;
  Tensor pages_, rows_;
  std::vector<int32_t> table_;
  std::vector<double> values_;
};

LatentAttentionDesc Desc(int heads, int latent_dim, int rope_dim, int window = 0) {
  return {.num_heads = heads,
          .latent_dim = latent_dim,
          .rope_dim = rope_dim,
          .scale = 1.0f / std::sqrt(static_cast<float>(latent_dim)),
          .window = window};
}

std::vector<int32_t> Range(int begin, int end) {
  std::vector<int32_t> values(end - begin);
  std::iota(values.begin(), values.end(), begin);
  return values;
}

struct Queries {
  Queries(const LatentAttentionDesc& desc, int rows, std::mt19937& random)
      : latent(RandomTensor({rows, desc.num_heads, desc.latent_dim}, random, 2.0f)),
        rope(RandomTensor({rows, desc.num_heads, desc.rope_dim}, random, 2.0f)) {}
  Tensor latent;
  Tensor rope;
};

// Softmax attention in double precision of query row `row` over the positions that `sees` allows.
template <class Sees>
void AppendExpected(const LatentAttentionDesc& desc, const Queries& q, int64_t row,
                    const Cache& cache, const Sees& sees, std::vector<double>& want) {
  for (int64_t h = 0; h < desc.num_heads; ++h) {
    const float* latent = q.latent.data<float>() + (row * desc.num_heads + h) * desc.latent_dim;
    const float* rope = q.rope.data<float>() + (row * desc.num_heads + h) * desc.rope_dim;
    std::vector<double> sums(desc.latent_dim, 0.0);
    double total = 0.0;
    for (int p = 0; p < cache.kv_length(); ++p) {
      if (!sees(p)) continue;
      const double* key = cache.row(p);
      double score = 0.0;
      for (int d = 0; d < desc.latent_dim; ++d) score += latent[d] * key[d];
      for (int d = 0; d < desc.rope_dim; ++d) score += rope[d] * key[desc.latent_dim + d];
      const double weight = std::exp(score * desc.scale);
      total += weight;
      for (int d = 0; d < desc.latent_dim; ++d) sums[d] += weight * key[d];
    }
    for (const double sum : sums) want.push_back(total > 0.0 ? sum / total : 0.0);
  }
}

class LatentAttentionTest : public OpTest {
 protected:
  Guarded Run(const LatentAttentionDesc& desc, ConstTensorView latent, ConstTensorView rope,
              const AttentionSequence& sequence, const Cache& cache, OpContext& run_context) {
    Guarded out(DType::kF32, {latent.dim(0), desc.num_heads, desc.latent_dim});
    LatentAttention(desc, latent, rope, PlaceSequences(std::span(&sequence, 1), run_context),
                    cache.pages(), out, run_context);
    out.ExpectGuardsIntact();
    return out;
  }

  // The same values; on the CPU the same bits.
  void ExpectSame(const float* a, const float* b, int64_t count) {
    if (!context().OnCuda()) return ExpectSameBits(a, b, count);
    for (int64_t i = 0; i < count; ++i) ASSERT_NEAR(a[i], b[i], 1e-6) << "element " << i;
  }
};

// What the CPU promises, and CUDA with batch_invariant: bits do not depend on how the work was cut.
class LatentAttentionOrderTest : public LatentAttentionTest {};

struct Mask {
  AttentionMask mask;
  int window;
};
constexpr Mask kMasks[] = {
    {AttentionMask::kCausal, 0}, {AttentionMask::kCausal, 7}, {AttentionMask::kFull, 0}};

struct Form {
  int heads, latent_dim, rope_dim, page_size, kv_length, queries;
};

// One head and more heads than a block takes; widths beside and past one chunk of a dot product.
constexpr Form kForms[] = {
    {1, 8, 8, 4, 1, 1},        {4, 24, 16, 16, 37, 1},     {16, 64, 32, 5, 23, 23},
    {128, 512, 64, 16, 40, 2}, {128, 512, 64, 16, 300, 1}, {20, 512, 64, 8, 70, 3},
    {3, 520, 8, 8, 30, 3},     {70, 32, 8, 16, 20, 2},     {20, 40, 24, 1, 9, 4}};

TEST_P(LatentAttentionTest, MatchesDoublePrecisionUnderEachMask) {
  std::mt19937 random(1);
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    for (const Form& form : kForms) {
      for (const auto& [mask, window] : kMasks) {
        SCOPED_TRACE(::testing::Message()
                     << dtype << " heads " << form.heads << " latent " << form.latent_dim
                     << " mask " << static_cast<int>(mask) << " window " << window);
        const LatentAttentionDesc desc = Desc(form.heads, form.latent_dim, form.rope_dim, window);
        Cache cache(form.latent_dim + form.rope_dim, dtype, form.page_size, form.kv_length, random);
        cache.Fill(form.kv_length, context());
        const Queries q(desc, form.queries, random);
        const std::vector<int32_t> positions = Range(form.kv_length - form.queries, form.kv_length);
        const AttentionSequence sequence{.query_begin = 0,
                                         .query_count = form.queries,
                                         .positions = positions,
                                         .pages = cache.table(),
                                         .kv_length = form.kv_length,
                                         .mask = mask};
        const Guarded out = Run(desc, q.latent, q.rope, sequence, cache, context());
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
        // Kernels on tensor cores round queries and weights to bf16.
        const bool narrow = context().OnCuda() && dtype == DType::kBF16 && form.latent_dim == 512;
        ExpectClose(out, want, scale, narrow ? 4e-3 : 5e-6);
      }
    }
  }
}

// Rows enough for the kernels of many rows; run again into bf16 for the same sums, rounded once.
TEST_P(LatentAttentionTest, ManyRowsOfMixedLengthsRunInOneCall) {
  if (!context().OnCuda()) GTEST_SKIP() << "the CPU's blocks are alike for any number of rows";
  std::mt19937 random(12);
  struct Length {
    int queries, kv_length;
  };
  constexpr Length kLengths[] = {{1, 1}, {0, 0}, {1, 260}, {5, 130}, {14, 90}};
  Cache cache(576, DType::kBF16, 16, 260, random);
  cache.Fill(260, context());
  std::vector<int32_t> positions;
  for (const Length& length : kLengths) {
    for (int i = length.kv_length - length.queries; i < length.kv_length; ++i) {
      positions.push_back(i);
    }
  }
  const int rows = static_cast<int>(positions.size());
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
  const AttentionBatch batch = PlaceSequences(sequences, context());
  for (const int window : {0, 70}) {
    SCOPED_TRACE(::testing::Message() << "window " << window);
    const LatentAttentionDesc desc = Desc(128, 512, 64, window);
    const Queries q(desc, rows, random);
    std::vector<double> want;
    for (int row = 0; row < rows; ++row) {
      const int position = positions[row];
      AppendExpected(
          desc, q, row, cache,
          [&](int p) { return p <= position && (window == 0 || p > position - window); }, want);
    }
    const Shape shape = {rows, 128, 512};
    Guarded out(DType::kF32, shape);
    LatentAttention(desc, q.latent, q.rope, batch, cache.pages(), out, context());
    out.ExpectGuardsIntact();
    ExpectClose(out, want, std::vector<double>(want.size(), 2.0), 4e-3);
    Guarded narrow(DType::kBF16, shape);
    LatentAttention(desc, q.latent, q.rope, batch, cache.pages(), narrow, context());
    narrow.ExpectGuardsIntact();
    Tensor rounded(DType::kBF16, shape);
    ConvertFloats(out.view(), rounded);
    EXPECT_EQ(std::memcmp(rounded.view().raw(), narrow.view().raw(), rounded.view().NumBytes()), 0);
  }
}

TEST_P(LatentAttentionTest, TreeRowsSeeTheirAncestors) {
  std::mt19937 random(2);
  const LatentAttentionDesc desc = Desc(4, 32, 16);
  for (const int rows : {1, 7, 64}) {
    const int before = 21;
    Cache cache(48, DType::kF32, 8, before + rows, random);
    cache.Fill(before + rows, context());
    const Queries q(desc, rows, random);
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
    const Guarded out = Run(desc, q.latent, q.rope, sequence, cache, context());
    std::vector<double> want;
    for (int i = 0; i < rows; ++i) {
      AppendExpected(
          desc, q, i, cache,
          [&](int p) { return p < before || ((ancestors[i] >> (p - before)) & 1u) != 0; }, want);
    }
    const std::vector<double> scale(want.size(), 2.0);
    ExpectClose(out, want, scale, 2e-6);
  }
}

// Positions are written only as a chunk needs them, so later ones are NaN while earlier rows run.
// A chunk's size and the number of threads decide how many heads share a block.
TEST_P(LatentAttentionOrderTest, ChunksAndThreadsGiveTheSameBits) {
  std::mt19937 random(3);
  OpRunner nine_threads(GetParam(), 9);
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    const LatentAttentionDesc desc = Desc(40, 72, 24);
    constexpr int kLength = 53;
    Cache cache(96, dtype, 16, kLength, random);
    const Queries q(desc, kLength, random);
    const std::vector<int32_t> positions = Range(0, kLength);
    const auto run = [&](int begin, int end, OpContext& run_context) {
      cache.Fill(end, run_context);
      const AttentionSequence sequence{
          .query_begin = 0,
          .query_count = end - begin,
          .positions = std::span(positions).subspan(begin, end - begin),
          .pages = cache.table(),
          .kv_length = end,
          .mask = AttentionMask::kCausal};
      return Run(desc, q.latent.view().Slice(begin, end), q.rope.view().Slice(begin, end), sequence,
                 cache, run_context);
    };
    constexpr int64_t kRow = 40 * 72;
    std::vector<Guarded> chunks;
    for (int begin = 0; begin < kLength; begin += 7) {
      chunks.push_back(run(begin, std::min(begin + 7, kLength), context()));
    }
    const Guarded whole = run(0, kLength, nine_threads.context());
    for (size_t i = 0; i < chunks.size(); ++i) {
      ExpectSameBits(chunks[i].data<float>(), whole.data<float>() + i * 7 * kRow,
                     chunks[i].view().NumElements());
    }
    for (int row = 0; row < kLength; ++row) {
      const Guarded alone = run(row, row + 1, row % 2 == 0 ? context() : nine_threads.context());
      ExpectSameBits(alone.data<float>(), whole.data<float>() + row * kRow, kRow);
    }
  }
}

TEST_P(LatentAttentionTest, SequencesOfAStepDoNotMeet) {
  std::mt19937 random(5);
  const LatentAttentionDesc desc = Desc(4, 32, 8);
  Cache cache(40, DType::kF32, 8, 40, random);
  cache.Fill(40, context());
  const Queries q(desc, 6, random);
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
  LatentAttention(desc, q.latent, q.rope, PlaceSequences(sequences, context()), cache.pages(),
                  together, context());
  for (const AttentionSequence& one : sequences) {
    Guarded alone(DType::kF32, {6, 4, 32});
    LatentAttention(desc, q.latent, q.rope, PlaceSequences(std::span(&one, 1), context()),
                    cache.pages(), alone, context());
    const int64_t first = one.query_begin * 4 * 32;
    ExpectSame(alone.data<float>() + first, together.data<float>() + first,
               one.query_count * 4 * 32);
  }
}

TEST_P(LatentAttentionTest, PagesOutsideTheWindowAreNotRead) {
  std::mt19937 random(6);
  const LatentAttentionDesc desc = Desc(2, 16, 8, 6);
  Cache cache(24, DType::kF32, 4, 30, random);
  cache.Fill(30, context());
  const Queries q(desc, 1, random);
  const std::vector<int32_t> positions = {29};
  const auto run = [&] {
    const AttentionSequence sequence{.query_begin = 0,
                                     .query_count = 1,
                                     .positions = positions,
                                     .pages = cache.table(),
                                     .kv_length = 30,
                                     .mask = AttentionMask::kCausal};
    return Run(desc, q.latent, q.rope, sequence, cache, context());
  };
  const Guarded before = run();
  for (int i = 0; i < 6; ++i) cache.table()[i] = -1;  // positions below 24
  const Guarded after = run();
  ExpectSameBits(before.data<float>(), after.data<float>(), 2 * 16);
  if (context().OnCuda()) return;  // which does not look at single pages
  cache.table()[6] = -1;
  EXPECT_THROW(run(), InternalError);
}

TEST_P(LatentAttentionTest, SaysWhatItSupports) {
  EXPECT_TRUE(LatentAttentionSupports(Desc(128, 512, 64)));
  EXPECT_TRUE(LatentAttentionSupports(Desc(5, 8, 8)));
  EXPECT_FALSE(LatentAttentionSupports(Desc(0, 512, 64)));
  EXPECT_FALSE(LatentAttentionSupports(Desc(128, 1032, 64)));
  EXPECT_FALSE(LatentAttentionSupports(Desc(128, 20, 64)));
  EXPECT_FALSE(LatentAttentionSupports(Desc(128, 512, 4)));
  EXPECT_FALSE(LatentAttentionSupports(Desc(128, 512, 264)));
}

SLUICE_INSTANTIATE_OP_TEST(LatentAttentionTest);
SLUICE_INSTANTIATE_INVARIANT_OP_TEST(LatentAttentionOrderTest);

}  // namespace
}  // namespace sluice::ops
