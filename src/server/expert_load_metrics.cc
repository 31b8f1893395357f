#include "server/expert_load_metrics.h"

#include <utility>

namespace sluice {
namespace {

using prometheus::ClientMetric;
using prometheus::MetricFamily;

void AddCount(uint64_t count, std::vector<ClientMetric::Label> labels, MetricFamily& family) {
  ClientMetric metric;
  metric.label = std::move(labels);
  metric.counter.value = static_cast<double>(count);
  family.metric.push_back(std::move(metric));
}

}  // namespace

ExpertLoadMetrics::ExpertLoadMetrics(std::shared_ptr<const ExpertLoad> load,
                                     std::vector<int> layers, std::string model_name)
    : load_(std::move(load)), layers_(std::move(layers)), model_name_(std::move(model_name)) {}

MetricFamily ExpertLoadMetrics::Family(const char* name, const char* help) const {
  MetricFamily family;
  family.name = name;
  family.help = help;
  family.type = prometheus::MetricType::Counter;
  return family;
}

std::vector<MetricFamily> ExpertLoadMetrics::Collect() const {
  MetricFamily steps = Family(kExpertStepsMetric, "Steps in which experts were counted");
  MetricFamily tokens =
      Family(kExpertTokensMetric, "Choices of an expert by the tokens that a layer was given");
  MetricFamily uses = Family(kExpertUsesMetric, "Steps in which an expert was chosen");
  AddCount(load_->steps(), {{"model_name", model_name_}}, steps);
  for (const int layer : layers_) {
    for (int expert = 0; expert < load_->num_experts(); ++expert) {
      const std::vector<ClientMetric::Label> labels{{"model_name", model_name_},
                                                    {"layer", std::to_string(layer)},
                                                    {"expert", std::to_string(expert)}};
      AddCount(load_->tokens(layer, expert), labels, tokens);
      AddCount(load_->uses(layer, expert), labels, uses);
    }
  }
  return {std::move(steps), std::move(tokens), std::move(uses)};
}

}  // namespace sluice
