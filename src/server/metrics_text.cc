#include "server/metrics_text.h"

#include <prometheus/text_serializer.h>

namespace sluice {

std::string MetricsText(const Metrics& metrics) {
  return prometheus::TextSerializer().Serialize(metrics.Collect());
}

}  // namespace sluice
