#include "server/offload_metrics.h"

#include <utility>

namespace sluice {
namespace {

using prometheus::ClientMetric;
using prometheus::MetricFamily;
using prometheus::MetricType;

struct LayerCount {
  const char* name;
  const char* help;
  uint64_t LayerOffloadStats::*value;
};
constexpr LayerCount kLayerCounts[] = {
    {"sluice:offload_expert_requests_total", "Experts needed, once for each run of their layer",
     &LayerOffloadStats::requests},
    {"sluice:offload_expert_hits_total",
     "Of them, in a slot or on the way to one when the router chose", &LayerOffloadStats::hits},
    {"sluice:offload_expert_misses_total", "Of them, asked for then", &LayerOffloadStats::misses},
    {"sluice:offload_expert_cpu_total", "Of them, computed on the CPU", &LayerOffloadStats::cpu},
    {"sluice:offload_expert_failed_total", "Of those asked for, not to be read",
     &LayerOffloadStats::failed},
    {"sluice:offload_prefetched_total", "Experts brought before the router chose",
     &LayerOffloadStats::prefetched},
    {"sluice:offload_prefetch_used_total", "Of them, needed", &LayerOffloadStats::prefetch_used},
    {"sluice:offload_forecast_total", "Experts needed where a forecast was made",
     &LayerOffloadStats::forecast},
    {"sluice:offload_forecast_hits_total",
     "Of them, among the as many that were foretold likeliest", &LayerOffloadStats::forecast_hits},
    {"sluice:offload_link_bytes_total", "Bytes of experts asked for over the link",
     &LayerOffloadStats::link_bytes},
    {"sluice:offload_disk_bytes_total", "Bytes of experts asked for from the checkpoint",
     &LayerOffloadStats::disk_bytes},
};

MetricFamily Family(const char* name, const char* help, MetricType type) {
  MetricFamily family;
  family.name = name;
  family.help = help;
  family.type = type;
  return family;
}

void AddValue(double value, std::vector<ClientMetric::Label> labels, MetricFamily& family) {
  ClientMetric metric;
  metric.label = std::move(labels);
  if (family.type == MetricType::Gauge) {
    metric.gauge.value = value;
  } else {
    metric.counter.value = value;
  }
  family.metric.push_back(std::move(metric));
}

}  // namespace

OffloadMetrics::OffloadMetrics(std::shared_ptr<const OffloadCounters> counters,
                               std::vector<int> layers, std::string model_name)
    : counters_(std::move(counters)),
      layers_(std::move(layers)),
      model_name_(std::move(model_name)) {}

std::vector<MetricFamily> OffloadMetrics::Collect() const {
  std::vector<MetricFamily> families;
  for (const LayerCount& count : kLayerCounts) {
    families.push_back(Family(count.name, count.help, MetricType::Counter));
  }
  MetricFamily waits = Family("sluice:offload_wait_seconds_total",
                              "Time for which compute waited for experts: between layers for a "
                              "layer's first, within one for those behind it and for the CPU's",
                              MetricType::Counter);
  for (int nth = 0; nth < counters_->num_layers(); ++nth) {
    const LayerOffloadStats stats = counters_->Layer(nth);
    const std::vector<ClientMetric::Label> labels{{"model_name", model_name_},
                                                  {"layer", std::to_string(layers_[nth])}};
    for (size_t i = 0; i < std::size(kLayerCounts); ++i) {
      AddValue(static_cast<double>(stats.*kLayerCounts[i].value), labels, families[i]);
    }
    std::vector<ClientMetric::Label> where = labels;
    where.push_back({"where", "between"});
    AddValue(stats.between_s, where, waits);
    where.back().value = "within";
    AddValue(stats.wait_s, where, waits);
  }
  families.push_back(std::move(waits));
  const auto add = [&](const char* name, const char* help, MetricType type, double value) {
    AddValue(value, {{"model_name", model_name_}}, families.emplace_back(Family(name, help, type)));
  };
  const LinkUse link = counters_->Link();
  add("sluice:offload_link_copies_total", "Copies that arrived over the link", MetricType::Counter,
      static_cast<double>(link.copies));
  add("sluice:offload_link_arrived_bytes_total", "Bytes that arrived over the link",
      MetricType::Counter, static_cast<double>(link.bytes));
  add("sluice:offload_link_busy_seconds_total", "Time during which the link copied",
      MetricType::Counter, link.busy_s);
  add("sluice:offload_expert_slots", "Experts that have a slot at once", MetricType::Gauge,
      counters_->expert_slots());
  add("sluice:offload_host_expert_slots", "Experts that host memory holds at once",
      MetricType::Gauge, counters_->host_slots());
  return families;
}

}  // namespace sluice
