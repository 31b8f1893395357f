#include "moe/step_routing.h"

#include <gtest/gtest.h>

#include <cstring>
#include <memory>

#include "device/buffer.h"

namespace sluice {
namespace {

constexpr int kTopK = 2;

// Gives expert 10 * layer + choice, and says whether it wants to see the model's choice.
class FixedSource : public RoutingSource {
 public:
  explicit FixedSource(bool reads_model) : reads_model_(reads_model) {}
  void Apply(int layer, std::span<const RoutingKey> tokens, TensorView weights,
             TensorView ids) override {
    for (size_t i = 0; i < tokens.size() * kTopK; ++i) {
      // What the router chose shows in the weights of a source that may read it.
      weights.data<float>()[i] = reads_model_ ? static_cast<float>(ids.data<int32_t>()[i]) : 0.5f;
      ids.data<int32_t>()[i] = 10 * layer + static_cast<int32_t>(i % kTopK);
    }
  }
  std::string Name() const override { return "fixed"; }
  bool ReadsModel() const override { return reads_model_; }

 private:
  bool reads_model_;
};

class Recorder : public RouterObserver {
 public:
  struct Seen {
    int layer;
    std::vector<int32_t> ids;
    std::vector<float> weights;
  };
  void Observe(uint64_t, int layer, std::span<const RoutingKey> tokens, ConstTensorView weights,
               ConstTensorView ids) override {
    const size_t count = tokens.size() * kTopK;
    seen.push_back({layer,
                    {ids.data<int32_t>(), ids.data<int32_t>() + count},
                    {weights.data<float>(), weights.data<float>() + count}});
  }
  std::vector<Seen> seen;
};

// A step of two tokens through layers 1 and 3 whose router chooses 100 * layer + choice.
class StepRoutingTest : public ::testing::TestWithParam<bool> {
 protected:
  StepRoutingTest()
      : stream_(GetParam() ? std::make_unique<CudaStream>() : nullptr),
        arena_(GetParam() ? MemoryKind::kCuda : MemoryKind::kHost),
        staging_(MemoryKind::kPinned),
        inbox_(stream_ == nullptr
                   ? nullptr
                   : std::make_unique<ops::Inbox>(*stream_, ops::Inbox::Sends::kEach)),
        context_{.pool = pool_,
                 .arena = arena_,
                 .cuda = stream_.get(),
                 .inbox = inbox_.get(),
                 .staging = &staging_} {}

  // What each layer ran with.
  std::vector<Recorder::Seen> Run(RoutingSource& source, RouterObserver* observer) {
    const std::vector<int> layers = {1, 3};
    const std::vector<RoutingKey> tokens(2);
    StepRouting routing({.layers = layers,
                         .top_k = kTopK,
                         .source = source,
                         .observer = observer,
                         .tokens = tokens},
                        context_);
    std::vector<Recorder::Seen> settled;
    for (const int layer : layers) {
      const Routing out = routing.RouterOutput(layer);
      std::vector<int32_t> ids;
      for (int i = 0; i < 4; ++i) ids.push_back(100 * layer + i % kTopK);
      const std::vector<float> weights(4, 0.25f);
      Move(out.ids.raw(), ids.data(), out.ids.NumBytes());
      Move(out.weights.raw(), weights.data(), out.weights.NumBytes());
      const Routing used = routing.Settle(layer);
      Recorder::Seen& seen = settled.emplace_back();
      seen = {layer, std::vector<int32_t>(4), std::vector<float>(4)};
      Move(seen.ids.data(), used.ids.raw(), used.ids.NumBytes());
      Move(seen.weights.data(), used.weights.raw(), used.weights.NumBytes());
    }
    routing.Report();
    return settled;
  }

  void Move(void* to, const void* from, size_t bytes) {
    if (stream_ == nullptr) {
      std::memcpy(to, from, bytes);
      return;
    }
    stream_->Copy(to, from, bytes);
    stream_->Synchronize();
  }

  static void ExpectEqual(const std::vector<Recorder::Seen>& a,
                          const std::vector<Recorder::Seen>& b) {
    ASSERT_EQ(a.size(), b.size());
    for (size_t i = 0; i < a.size(); ++i) {
      EXPECT_EQ(a[i].layer, b[i].layer);
      EXPECT_EQ(a[i].ids, b[i].ids);
      EXPECT_EQ(a[i].weights, b[i].weights);
    }
  }

  ThreadPool pool_{1};
  std::unique_ptr<CudaStream> stream_;
  Arena arena_;
  Arena staging_;
  std::unique_ptr<ops::Inbox> inbox_;
  ops::OpContext context_;
  Recorder recorder_;
};

TEST_P(StepRoutingTest, TheModelsChoiceRunsAndIsSeen) {
  ModelRouting source;
  const auto settled = Run(source, &recorder_);
  EXPECT_EQ(settled[1].ids, (std::vector<int32_t>{300, 301, 300, 301}));
  EXPECT_EQ(settled[1].weights, std::vector<float>(4, 0.25f));
  ExpectEqual(settled, recorder_.seen);
  ExpectEqual(Run(source, nullptr), settled);
}

TEST_P(StepRoutingTest, ASourceReplacesItAndItsChoiceIsSeen) {
  for (const bool reads_model : {false, true}) {
    recorder_.seen.clear();
    FixedSource source(reads_model);
    const auto settled = Run(source, &recorder_);
    EXPECT_EQ(settled[0].ids, (std::vector<int32_t>{10, 11, 10, 11}));
    EXPECT_EQ(settled[1].ids, (std::vector<int32_t>{30, 31, 30, 31}));
    EXPECT_EQ(settled[1].weights[1], reads_model ? 301.0f : 0.5f);
    ExpectEqual(settled, recorder_.seen);
  }
}

std::vector<bool> Devices() {
  return CudaDevices().empty() ? std::vector<bool>{false} : std::vector<bool>{false, true};
}
INSTANTIATE_TEST_SUITE_P(Device, StepRoutingTest, ::testing::ValuesIn(Devices()),
                         [](const auto& device) { return device.param ? "cuda" : "cpu"; });

}  // namespace
}  // namespace sluice
