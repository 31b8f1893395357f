#include "ops/permute/dispatch_plan.h"

#include <algorithm>
#include <tuple>

#include "ops/common/test_support.h"

namespace sluice::ops {
namespace {

class DispatchPlanTest : public OpTest {};
class CpuDispatchPlanTest : public OpTest {};

Tensor RandomIds(int64_t tokens, int64_t top_k, int experts, std::mt19937& random) {
  Tensor ids = HostTensor(DType::kI32, {tokens, top_k});
  for (int64_t i = 0; i < tokens * top_k; ++i) {
    ids.data<int32_t>()[i] = static_cast<int32_t>(random() % experts);
  }
  return ids;
}

TEST_P(DispatchPlanTest, RowsAreSortedByExpertTokenAndChoice) {
  std::mt19937 random(1);
  for (const int experts : {1, 8, 16, 60, 64, 128, 256, 1100}) {
    for (const int64_t tokens : {0, 1, 2, 7, 8, 64, 1000, 8192}) {
      const int64_t top_k = 4;
      const Tensor ids = RandomIds(tokens, top_k, experts, random);
      Arena::Scope scope(runner().arena());
      const DispatchPlan plan = BuildDispatchPlan(ids, experts, context());
      const Tensor row_token = Download(plan.row_token, context());
      const Tensor row_of = Download(plan.row_of, context());
      const Tensor offsets = Download(plan.offsets, context());
      std::vector<std::tuple<int, int64_t, int64_t>> order;
      for (int64_t i = 0; i < tokens * top_k; ++i) {
        order.emplace_back(ids.data<int32_t>()[i], i / top_k, i % top_k);
      }
      std::sort(order.begin(), order.end());
      for (size_t r = 0; r < order.size(); ++r) {
        const auto [expert, token, choice] = order[r];
        ASSERT_EQ(row_token.data<int32_t>()[r], token);
        ASSERT_EQ(row_of.data<int32_t>()[token * top_k + choice], static_cast<int32_t>(r));
        ASSERT_LE(offsets.data<int32_t>()[expert], static_cast<int32_t>(r));
        ASSERT_GT(offsets.data<int32_t>()[expert + 1], static_cast<int32_t>(r));
      }
      EXPECT_EQ(offsets.data<int32_t>()[0], 0);
      EXPECT_EQ(offsets.data<int32_t>()[experts], tokens * top_k);
    }
  }
}

TEST_P(CpuDispatchPlanTest, RefusesExpertsThatDoNotExist) {
  Tensor ids(DType::kI32, {1, 2});
  ids.data<int32_t>()[0] = 3;
  for (const int32_t id : {-1, 8}) {
    ids.data<int32_t>()[1] = id;
    EXPECT_THROW(BuildDispatchPlan(ids, 8, context()), InternalError) << id;
  }
}

TEST_P(DispatchPlanTest, CombineAddsWeightedRowsInOrder) {
  std::mt19937 random(2);
  for (const int64_t tokens : {0, 1, 7, 64, 1000}) {
    const int64_t top_k = 4;
    const int64_t width = tokens == 7 ? 50 : 52;
    Arena::Scope scope(runner().arena());
    const Tensor ids = RandomIds(tokens, top_k, 16, random);
    const DispatchPlan plan = BuildDispatchPlan(ids, 16, context());
    const Tensor row_of = Download(plan.row_of, context());
    const Tensor y = RandomTensor({tokens * top_k, width}, random);
    const Tensor weights = RandomTensor({tokens, top_k}, random);
    const Tensor before = RandomTensor({tokens, width}, random);
    Guarded out(DType::kF32, {tokens, width});
    std::copy_n(before.data<float>(), tokens * width, out.view().data<float>());
    Combine(y, plan.row_of, weights, out, context());
    std::vector<double> want = ToDoubles(before);
    for (int64_t i = 0; i < tokens * top_k * width; ++i) {
      const int64_t choice = i / width;
      const int64_t row = row_of.data<int32_t>()[choice];
      want[choice / top_k * width + i % width] +=
          static_cast<double>(weights.data<float>()[choice]) *
          y.data<float>()[row * width + i % width];
    }
    const std::vector<double> scale(want.size(), 1.0 + static_cast<double>(top_k));
    ExpectClose(out, want, scale, 2e-7);
  }
}

SLUICE_INSTANTIATE_OP_TEST(DispatchPlanTest);
SLUICE_INSTANTIATE_CPU_OP_TEST(CpuDispatchPlanTest);

}  // namespace
}  // namespace sluice::ops
