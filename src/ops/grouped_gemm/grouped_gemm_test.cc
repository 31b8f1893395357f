#include "ops/grouped_gemm/grouped_gemm.h"

#include <cmath>
#include <cstring>

#include "ops/common/test_support.h"

namespace sluice::ops {
namespace {

// A slab whose slots hold random [rows, cols] matrices behind a header, in shuffled order.
class Slab {
 public:
  Slab(int64_t slots, int64_t rows, int64_t cols, DType dtype, std::mt19937& random)
      : values_(Convert(RandomTensor({slots, rows, cols}, random), dtype)),
        bytes_(HostTensor(DType::kU8, {slots * Stride(rows, cols, dtype)})) {
    const int64_t matrix_bytes = rows * cols * static_cast<int64_t>(SizeOf(dtype));
    for (int64_t s = 0; s < slots; ++s) {
      std::memcpy(bytes_.data<uint8_t>() + s * Stride(rows, cols, dtype) + kHeader,
                  static_cast<const std::byte*>(values_.view().raw()) + s * matrix_bytes,
                  matrix_bytes);
    }
    matrix_ = {.slab = static_cast<const std::byte*>(bytes_.view().raw()),
               .slot_stride = Stride(rows, cols, dtype),
               .offset = kHeader,
               .dtype = dtype,
               .rows = rows,
               .cols = cols};
    doubles_ = ToDoubles(values_);
  }
  const ExpertMatrix& matrix() const { return matrix_; }
  double At(int64_t slot, int64_t row, int64_t col) const {
    return doubles_[(slot * matrix_.rows + row) * matrix_.cols + col];
  }

 private:
  static constexpr int64_t kHeader = 64;
  static int64_t Stride(int64_t rows, int64_t cols, DType dtype) {
    return kHeader + (rows * cols * static_cast<int64_t>(SizeOf(dtype)) + 63) / 64 * 64;
  }
  Tensor values_;
  Tensor bytes_;
  ExpertMatrix matrix_;
  std::vector<double> doubles_;
};

struct Case {
  int64_t experts;
  int64_t tokens;
  int64_t top_k;
  int64_t rows;  // N
  int64_t cols;  // K
  GroupedEpilogue epilogue;
  bool addend;
};

constexpr Case kCases[] = {
    {8, 0, 2, 16, 32, GroupedEpilogue::kSwiGlu, false},
    {8, 1, 2, 96, 64, GroupedEpilogue::kSwiGlu, false},
    {16, 2, 4, 40, 520, GroupedEpilogue::kSwiGlu, true},
    {60, 7, 4, 70, 33, GroupedEpilogue::kSwiGlu, false},
    {64, 8, 8, 34, 64, GroupedEpilogue::kNone, true},
    {128, 64, 8, 24, 48, GroupedEpilogue::kNone, false},
    {256, 64, 8, 16, 16, GroupedEpilogue::kSwiGlu, true},
    {8, 1000, 2, 20, 24, GroupedEpilogue::kSwiGlu, false},
    {4, 150, 2, 272, 104, GroupedEpilogue::kSwiGlu, true},
    {4, 150, 2, 136, 192, GroupedEpilogue::kNone, false},
};

Tensor Indices(const std::vector<int32_t>& values) {
  Tensor tensor = HostTensor(DType::kI32, {static_cast<int64_t>(values.size())});
  std::copy(values.begin(), values.end(), tensor.data<int32_t>());
  return tensor;
}

enum class Spread { kEven, kOneTakesAll, kHalfToOne, kZipf };

// Random routing: rows sorted by expert, their tokens, and a slot for each expert.
struct Routing {
  std::vector<int32_t> gather;
  std::vector<int32_t> offsets = {0};
  std::vector<int32_t> slots;

  Routing(const Case& c, Spread spread, std::mt19937& random) {
    std::vector<std::vector<int32_t>> of_expert(c.experts);
    for (int32_t t = 0; t < c.tokens; ++t) {
      for (int j = 0; j < c.top_k; ++j) of_expert[Draw(c, spread, random)].push_back(t);
    }
    for (int32_t e = 0; e < c.experts; ++e) {
      gather.insert(gather.end(), of_expert[e].begin(), of_expert[e].end());
      offsets.push_back(static_cast<int32_t>(gather.size()));
      slots.push_back(static_cast<int32_t>(c.experts) - 1 - e);
    }
  }

 private:
  static int64_t Draw(const Case& c, Spread spread, std::mt19937& random) {
    const int64_t any = static_cast<int64_t>(random()) % c.experts;
    const double uniform = static_cast<double>(random() % 65'536) / 65'536.0;
    switch (spread) {
      case Spread::kEven:
        return any;
      case Spread::kOneTakesAll:
        return c.experts / 2;
      case Spread::kHalfToOne:
        return uniform < 0.5 ? c.experts - 1 : any;
      case Spread::kZipf:
        // P(rank < r) = log(r + 1) / log(E + 1): about 1 / rank.
        return static_cast<int64_t>(std::pow(static_cast<double>(c.experts), uniform)) - 1;
    }
    return 0;
  }
};

// Which of x and out are held in the weights' dtype: on CUDA alone.
struct Narrow {
  bool x = false;
  bool out = false;
};

class GroupedGemmTest : public OpTest {
 protected:
  void Check(const Case& c, DType dtype, Spread spread = Spread::kEven, Narrow narrow = {}) {
    std::mt19937 random(static_cast<uint32_t>(c.experts + c.tokens));
    const Slab slab(c.experts, c.rows, c.cols, dtype, random);
    const Routing routing(c, spread, random);
    const int64_t rows = c.tokens * c.top_k;
    const bool swiglu = c.epilogue == GroupedEpilogue::kSwiGlu;
    const int64_t columns = swiglu ? c.rows / 2 : c.rows;
    const Tensor x =
        Convert(RandomTensor({c.tokens, c.cols}, random), narrow.x ? dtype : DType::kF32);
    const Tensor addend = RandomTensor({rows, c.rows}, random);
    Guarded out(narrow.out ? dtype : DType::kF32, {rows, columns});
    GroupedGemm({c.epilogue}, x, Indices(routing.gather), Indices(routing.offsets),
                Indices(routing.slots), slab.matrix(),
                c.addend ? ConstTensorView(addend) : ConstTensorView(), out, context());

    const std::vector<double> left = ToDoubles(x);
    const auto product = [&](int64_t expert, int64_t r, int64_t n) {
      double sum = c.addend ? addend.data<float>()[r * c.rows + n] : 0.0;
      for (int64_t k = 0; k < c.cols; ++k) {
        sum += left[routing.gather[r] * c.cols + k] * slab.At(routing.slots[expert], n, k);
      }
      return sum;
    };
    std::vector<double> want;
    for (int64_t e = 0; e < c.experts; ++e) {
      for (int64_t r = routing.offsets[e]; r < routing.offsets[e + 1]; ++r) {
        for (int64_t n = 0; n < columns; ++n) {
          double value = product(e, r, n);
          if (swiglu) value = value / (1 + std::exp(-value)) * product(e, r, n + columns);
          want.push_back(value);
        }
      }
    }
    // A SwiGLU element multiplies two sums, each with an error in proportion to its terms. A narrow
    // result is rounded at the end.
    const double magnitude = static_cast<double>(c.cols) / 3.0 + 1.0;
    std::vector<double> error(want.size(), 5e-7 * (swiglu ? magnitude * magnitude : magnitude));
    for (size_t i = 0; i < want.size() && narrow.out; ++i) error[i] += std::abs(want[i]) / 256;
    ExpectClose(out, want, error, 1.0);
  }

  // The formats that x and out may have beside weights of `dtype`.
  std::vector<Narrow> Formats(DType dtype) const {
    if (!GetParam().cuda || dtype == DType::kF32) return {{}};
    return {{}, {.x = true, .out = false}, {.x = false, .out = true}, {.x = true, .out = true}};
  }
};

// Of what the CPU promises, and CUDA with batch_invariant.
class GroupedGemmOrderTest : public OpTest {};

TEST_P(GroupedGemmTest, MatchesDoublePrecision) {
  for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
    for (const Case& c : kCases) {
      for (const Narrow& narrow : Formats(dtype)) {
        SCOPED_TRACE(::testing::Message() << dtype << " " << c.experts << " " << c.tokens << " "
                                          << narrow.x << narrow.out);
        Check(c, dtype, Spread::kEven, narrow);
      }
    }
  }
}

TEST_P(GroupedGemmTest, TakesUnevenRouting) {
  for (const Spread spread : {Spread::kOneTakesAll, Spread::kHalfToOne, Spread::kZipf}) {
    for (const int64_t tokens : {1, 9, 64, 130}) {
      for (const GroupedEpilogue epilogue : {GroupedEpilogue::kNone, GroupedEpilogue::kSwiGlu}) {
        for (const Narrow& narrow : Formats(DType::kBF16)) {
          SCOPED_TRACE(::testing::Message() << static_cast<int>(spread) << " " << tokens);
          Check({64, tokens, 2, 72, 72, epilogue, false}, DType::kBF16, spread, narrow);
        }
      }
    }
  }
}

TEST_P(GroupedGemmTest, SkippedGroupsStayUntouched) {
  std::mt19937 random(7);
  const Slab slab(2, 6, 8, DType::kBF16, random);
  const Tensor x = RandomTensor({5, 8}, random);
  Guarded out(DType::kF32, {5, 6});
  const Tensor offsets = Indices({0, 2, 2, 4, 5});
  const Tensor slots = Indices({1, 0, -1, 0});
  GroupedGemm({.epilogue = GroupedEpilogue::kNone, .active_groups = 3}, x, {}, offsets, slots,
              slab.matrix(), {}, out, context());
  for (int i = 0; i < 5 * 6; ++i) {
    EXPECT_EQ(std::isnan(out.data<float>()[i]), i / 6 == 2 || i / 6 == 3) << i;
  }
  out.ExpectGuardsIntact();
}

TEST_P(GroupedGemmOrderTest, ARowHasTheSameBitsAloneAndInCompany) {
  std::mt19937 random(8);
  constexpr int64_t kRows = 17;
  OpRunner five_threads(GetParam(), 5);
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    for (const GroupedEpilogue epilogue : {GroupedEpilogue::kNone, GroupedEpilogue::kSwiGlu}) {
      const Slab slab(3, 90, 1030, dtype, random);
      const int64_t columns = epilogue == GroupedEpilogue::kSwiGlu ? 45 : 90;
      const Tensor x = RandomTensor({kRows, 1030}, random);
      Guarded together(DType::kF32, {kRows, columns});
      const Tensor offsets = Indices({0, 11, 17});
      const Tensor slots = Indices({2, 0});
      GroupedGemm({epilogue}, x, {}, offsets, slots, slab.matrix(), {}, together,
                  five_threads.context());
      for (int32_t r = 0; r < kRows; ++r) {
        Guarded alone(DType::kF32, {1, columns});
        const Tensor gather = Indices({r});
        const Tensor one = Indices({0, 1});
        const Tensor slot = Indices({r < 11 ? 2 : 0});
        GroupedGemm({epilogue}, x, gather, one, slot, slab.matrix(), {}, alone, context());
        ExpectSameBits(alone.data<float>(), together.data<float>() + r * columns, columns);
      }
    }
  }
}

// Depths and numbers of rows that each of the fast kernels takes: wide tiles where there are many
// rows, one part of K or several where it is long, of which the last ones have less.
TEST_P(GroupedGemmOrderTest, ARowHasTheSameBitsInGroupsOfAnySize) {
  std::mt19937 random(9);
  struct Size {
    int64_t rows;  // in two groups
    int64_t depth;
  };
  for (const auto& [rows, depth] : {Size{1300, 200}, Size{180, 776}, Size{180, 1624}}) {
    for (const GroupedEpilogue epilogue : {GroupedEpilogue::kNone, GroupedEpilogue::kSwiGlu}) {
      SCOPED_TRACE(::testing::Message() << rows << " " << depth);
      const Slab slab(2, 96, depth, DType::kBF16, random);
      const int64_t columns = epilogue == GroupedEpilogue::kSwiGlu ? 48 : 96;
      const Tensor x =
          Convert(RandomTensor({rows, depth}, random), context().ProductDType(DType::kBF16));
      const auto run = [&](int64_t begin, int64_t end, int64_t first_group) {
        Guarded out(DType::kF32, {end - begin, columns});
        const Tensor offsets =
            Indices({0, static_cast<int32_t>(first_group), static_cast<int32_t>(end - begin)});
        GroupedGemm({epilogue}, x.view().Slice(begin, end), {}, offsets, Indices({1, 0}),
                    slab.matrix(), {}, out, context());
        return out;
      };
      const Guarded all = run(0, rows, rows / 2);
      for (const int64_t count : {int64_t{1}, int64_t{5}, int64_t{60}, rows / 2 - 50}) {
        const Guarded first = run(0, count, count);
        ExpectSameBits(first.data<float>(), all.data<float>(), count * columns);
        const Guarded last = run(rows - count, rows, 0);
        ExpectSameBits(last.data<float>(), all.data<float>() + (rows - count) * columns,
                       count * columns);
      }
    }
  }
}

// Groups so many that kernels take wider pieces of the matrix and two tiles of rows at once,
// against each group by itself.
TEST_P(GroupedGemmOrderTest, ARowHasTheSameBitsAmongManyGroups) {
  constexpr int64_t kGroups = 64;
  constexpr int64_t kDepth = 520;
  constexpr int32_t kRowsOf[] = {1, 9, 17, 16};
  for (const GroupedEpilogue epilogue : {GroupedEpilogue::kNone, GroupedEpilogue::kSwiGlu}) {
    std::mt19937 random(10);
    const Slab slab(2, 512, kDepth, DType::kBF16, random);
    const int64_t columns = epilogue == GroupedEpilogue::kSwiGlu ? 256 : 512;
    std::vector<int32_t> offsets = {0};
    std::vector<int32_t> slots;
    for (int64_t g = 0; g < kGroups; ++g) {
      offsets.push_back(offsets.back() + kRowsOf[g % 4]);
      slots.push_back(static_cast<int32_t>(g / 4 % 2));
    }
    const Tensor x = Convert(RandomTensor({offsets.back(), kDepth}, random),
                             context().ProductDType(DType::kBF16));
    Guarded all(DType::kF32, {offsets.back(), columns});
    GroupedGemm({epilogue}, x, {}, Indices(offsets), Indices(slots), slab.matrix(), {}, all,
                context());
    for (int64_t g = 0; g < kGroups; g += 5) {
      const int32_t rows = kRowsOf[g % 4];
      Guarded alone(DType::kF32, {rows, columns});
      GroupedGemm({epilogue}, x.view().Slice(offsets[g], offsets[g + 1]), {}, Indices({0, rows}),
                  Indices({slots[g]}), slab.matrix(), {}, alone, context());
      ExpectSameBits(alone.data<float>(), all.data<float>() + offsets[g] * columns, rows * columns);
    }
  }
}

// Of many groups a few have a slot: with rows for each of the fast kernels.
TEST_P(GroupedGemmTest, AFewGroupsOfMany) {
  constexpr int64_t kGroups = 40;
  constexpr int64_t kDepth = 72;
  for (const int32_t each : {1, 12, 70}) {
    SCOPED_TRACE(each);
    std::mt19937 random(11);
    const Slab slab(2, 24, kDepth, DType::kBF16, random);
    const Tensor x = Convert(RandomTensor({kGroups * each, kDepth}, random),
                             context().ProductDType(DType::kBF16));
    std::vector<int32_t> ends(kGroups + 1);
    for (int64_t g = 0; g <= kGroups; ++g) ends[g] = static_cast<int32_t>(g) * each;
    std::vector<int32_t> all(kGroups, 1);
    std::vector<int32_t> few(kGroups, -1);
    few[3] = few[39] = 1;
    const auto run = [&](const std::vector<int32_t>& slots, int active) {
      Guarded out(DType::kF32, {kGroups * each, 24});
      GroupedGemm({.epilogue = GroupedEpilogue::kNone, .active_groups = active}, x, {},
                  Indices(ends), Indices(slots), slab.matrix(), {}, out, context());
      return out;
    };
    const Guarded whole = run(all, 0);
    const Guarded part = run(few, 2);
    for (int64_t i = 0; i < kGroups * each * 24; ++i) {
      const int64_t group = i / 24 / each;
      const float got = part.data<float>()[i];
      if (few[group] < 0) {
        EXPECT_TRUE(std::isnan(got)) << i;
      } else {
        EXPECT_EQ(got, whole.data<float>()[i]) << i;
      }
    }
  }
}

SLUICE_INSTANTIATE_OP_TEST(GroupedGemmTest);
SLUICE_INSTANTIATE_INVARIANT_OP_TEST(GroupedGemmOrderTest);

}  // namespace
}  // namespace sluice::ops
