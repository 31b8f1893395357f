#include "ops/embedding/embedding.h"

#include <cmath>

#include "ops/common/test_support.h"

namespace sluice::ops {
namespace {

class EmbeddingTest : public OpTest {};

TEST_P(EmbeddingTest, CopiesRowsWidened) {
  std::mt19937 random(1);
  for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
    const Tensor table = Convert(RandomTensor({50, 37}, random), dtype);
    const std::vector<double> values = ToDoubles(table);
    for (const int64_t tokens : {0, 1, 2, 7, 8, 64, 1000, 8192}) {
      Tensor ids = HostTensor(DType::kI32, {tokens});
      for (int64_t t = 0; t < tokens; ++t) {
        ids.data<int32_t>()[t] = static_cast<int32_t>(random() % 50);
      }
      Guarded out(DType::kF32, {tokens, 37});
      Embedding(table, ids, out, context());
      out.ExpectGuardsIntact();
      for (int64_t i = 0; i < tokens * 37; ++i) {
        ASSERT_EQ(out.data<float>()[i], values[ids.data<int32_t>()[i / 37] * 37 + i % 37]);
      }
    }
  }
}

TEST_P(EmbeddingTest, RefusesIdsOutsideTheTable) {
  std::mt19937 random(2);
  const Tensor table = RandomTensor({10, 4}, random);
  Tensor ids = HostTensor(DType::kI32, {1});
  Guarded out(DType::kF32, {1, 4});
  for (const int32_t id : {-1, 10}) {
    ids.data<int32_t>()[0] = id;
    if (context().OnCuda()) {
      Embedding(table, ids, out, context());
      for (int i = 0; i < 4; ++i) EXPECT_TRUE(std::isnan(out.data<float>()[i])) << i;
      continue;
    }
    EXPECT_THROW(Embedding(table, ids, out, context()), InternalError) << id;
  }
}

SLUICE_INSTANTIATE_OP_TEST(EmbeddingTest);

}  // namespace
}  // namespace sluice::ops
