#include "server/expert_imbalance.h"

#include <gtest/gtest.h>

#include "device/buffer.h"

namespace sluice {
namespace {

using namespace std::chrono_literals;

void Choose(ExpertLoad& load, int layer, std::vector<int32_t> experts) {
  const auto tokens = static_cast<int64_t>(experts.size());
  const std::vector<RoutingKey> keys(experts.size());
  const Tensor weights(DType::kF32, {tokens, 1});
  load.Observe(1, layer, keys, weights, TensorView(experts.data(), DType::kI32, {tokens, 1}));
}

double Figure(const ExpertImbalance& imbalance, const std::string& name, const std::string& layer) {
  for (const auto& family : imbalance.Collect()) {
    if (family.name != name) continue;
    for (const auto& metric : family.metric) {
      for (const auto& label : metric.label) {
        if (label.name == "layer" && label.value == layer) return metric.gauge.value;
      }
    }
  }
  ADD_FAILURE() << "no " << name << " of layer " << layer;
  return -1;
}

TEST(CountWindow, BeginsSoManyPeriodsAgo) {
  CountWindow window(2, {10});
  EXPECT_EQ(window.start(), std::vector<uint64_t>({10}));
  window.Mark({20});
  window.Mark({30});
  EXPECT_EQ(window.start(), std::vector<uint64_t>({10}));
  window.Mark({40});
  EXPECT_EQ(window.start(), std::vector<uint64_t>({20}));
}

TEST(ExpertImbalance, HasTheFiguresOfEachLayerThatRoutes) {
  const auto load = std::make_shared<ExpertLoad>(3, 4);
  Choose(*load, 0, {3, 3, 3, 3, 3, 3});  // before anyone looks
  const ExpertImbalance imbalance(load, {0, 2}, "m", 1h);
  EXPECT_EQ(Figure(imbalance, "sluice:expert_imbalance", "0"), 1.0) << "nothing since";
  Choose(*load, 0, {0, 1, 2, 3});
  Choose(*load, 2, {1, 1, 1, 1});
  EXPECT_EQ(Figure(imbalance, "sluice:expert_imbalance", "0"), 1.0);
  EXPECT_EQ(Figure(imbalance, "sluice:expert_gini", "0"), 0.0);
  EXPECT_EQ(Figure(imbalance, "sluice:expert_imbalance", "2"), 4.0);
  EXPECT_DOUBLE_EQ(Figure(imbalance, "sluice:expert_gini", "2"), 0.75);
  EXPECT_NEAR(Figure(imbalance, "sluice:expert_cv", "2"), 1.7320508, 1e-6);
  EXPECT_EQ(imbalance.Collect()[0].metric.size(), 2u);
}

TEST(ExpertImbalance, ForgetsWhatIsLongerAgoThanTheWindow) {
  const auto load = std::make_shared<ExpertLoad>(1, 2);
  const ExpertImbalance imbalance(load, {0}, "m", 2ms);
  Choose(*load, 0, {0, 0, 0, 0});
  EXPECT_EQ(Figure(imbalance, "sluice:expert_imbalance", "0"), 2.0);
  const auto until = std::chrono::steady_clock::now() + 10s;
  while (Figure(imbalance, "sluice:expert_imbalance", "0") != 1.0) {
    ASSERT_LT(std::chrono::steady_clock::now(), until);
    std::this_thread::sleep_for(1ms);
  }
}

}  // namespace
}  // namespace sluice
