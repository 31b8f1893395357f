#include "server/expert_imbalance.h"

#include <utility>

#include "plan/load_stats.h"

namespace sluice {
namespace {

using prometheus::MetricFamily;

constexpr size_t kPeriods = 12;

MetricFamily Family(const char* name, const char* help) {
  MetricFamily family;
  family.name = name;
  family.help = help;
  family.type = prometheus::MetricType::Gauge;
  return family;
}

}  // namespace

CountWindow::CountWindow(size_t periods, std::vector<uint64_t> counts) : periods_(periods) {
  marks_.push_back(std::move(counts));
}

void CountWindow::Mark(std::vector<uint64_t> counts) {
  marks_.push_back(std::move(counts));
  if (marks_.size() > periods_ + 1) marks_.pop_front();
}

ExpertImbalance::ExpertImbalance(std::shared_ptr<const ExpertLoad> load, std::vector<int> layers,
                                 std::string model_name, std::chrono::milliseconds period)
    : load_(std::move(load)),
      layers_(std::move(layers)),
      model_name_(std::move(model_name)),
      window_(kPeriods, Counts()),
      thread_([this, period](const std::stop_token& stop) { MarkPeriods(stop, period); }) {}

ExpertImbalance::~ExpertImbalance() = default;

std::vector<uint64_t> ExpertImbalance::Counts() const {
  std::vector<uint64_t> counts;
  counts.reserve(layers_.size() * static_cast<size_t>(load_->num_experts()));
  for (const int layer : layers_) {
    for (int expert = 0; expert < load_->num_experts(); ++expert) {
      counts.push_back(load_->tokens(layer, expert));
    }
  }
  return counts;
}

void ExpertImbalance::MarkPeriods(const std::stop_token& stop, std::chrono::milliseconds period) {
  std::unique_lock lock(mutex_);
  while (true) {
    wake_.wait_for(lock, stop, period, [] { return false; });
    if (stop.stop_requested()) return;
    window_.Mark(Counts());
  }
}

std::vector<MetricFamily> ExpertImbalance::Collect() const {
  std::vector<uint64_t> start;
  {
    const std::lock_guard lock(mutex_);
    start = window_.start();
  }
  const std::vector<uint64_t> now = Counts();
  MetricFamily ratio =
      Family("sluice:expert_imbalance",
             "Tokens of a layer's fullest expert over the mean, in the last minute");
  MetricFamily gini =
      Family("sluice:expert_gini", "Gini coefficient of a layer's experts, in the last minute");
  MetricFamily cv = Family("sluice:expert_cv",
                           "Coefficient of variation of a layer's experts, in the last minute");
  const auto experts = static_cast<size_t>(load_->num_experts());
  std::vector<double> loads(experts);
  for (size_t i = 0; i < layers_.size(); ++i) {
    for (size_t e = 0; e < experts; ++e) {
      const size_t place = i * experts + e;
      loads[e] = static_cast<double>(now[place] - start[place]);
    }
    const LoadStats stats = MeasureLoad(loads);
    const auto add = [&](MetricFamily& family, double value) {
      prometheus::ClientMetric& metric = family.metric.emplace_back();
      metric.label = {{"model_name", model_name_}, {"layer", std::to_string(layers_[i])}};
      metric.gauge.value = value;
    };
    add(ratio, stats.max_over_mean);
    add(gini, stats.gini);
    add(cv, stats.cv);
  }
  return {std::move(ratio), std::move(gini), std::move(cv)};
}

}  // namespace sluice
