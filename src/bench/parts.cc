#include "bench/parts.h"

#include <algorithm>
#include <boost/json/array.hpp>
#include <boost/json/serialize.hpp>

#include "bench/bandwidth.h"
#include "bench/product_rate.h"
#include "bench/timing.h"

namespace sluice {

MachineLimits MeasureLimits(OpBench& bench) {
  constexpr int64_t kBytes = int64_t{1} << 30;
  if (bench.stream() != nullptr) {
    return {.bytes_per_s = MeasureDeviceBandwidth(*bench.stream()),
            .flops_per_s = MeasureProduct(bench.context(), DType::kBF16)};
  }
  return {.bytes_per_s = MeasureReadBandwidth(bench.pool(), kBytes),
          .flops_per_s = MeasureProduct(bench.context(), bench.options().dtype)};
}

PartFloor FloorOf(const PartRow& row, const MachineLimits& limits) {
  const double memory = row.bytes / limits.bytes_per_s;
  const double compute = row.flops / limits.flops_per_s;
  return memory >= compute ? PartFloor{memory, "memory"} : PartFloor{compute, "compute"};
}

std::string ShapeText(const PartRow& row) {
  std::string text;
  for (const auto& [key, value] : row.shape) {
    if (!text.empty()) text += ' ';
    text += std::string(key) + '=';
    text += value.is_string() ? std::string(value.as_string()) : boost::json::serialize(value);
  }
  return text;
}

boost::json::object ToJson(const PartRow& row, const MachineLimits& limits) {
  boost::json::object json{{"part", row.part}};
  json.insert(row.shape.begin(), row.shape.end());
  if (row.distinct_experts) json["distinct_experts"] = *row.distinct_experts;
  if (!row.left_out.empty()) {
    json["left_out"] = row.left_out;
    return json;
  }
  const PartFloor floor = FloorOf(row, limits);
  const double seconds = Median(row.seconds);
  json["bytes"] = row.bytes;
  json["flops"] = row.flops;
  json["floor_us"] = floor.seconds * 1e6;
  json["bound"] = floor.bound;
  json["us"] = seconds * 1e6;
  json["share_of_floor"] = floor.seconds / seconds;
  json["bytes_per_s"] = row.bytes / seconds;
  json["flops_per_s"] = row.flops / seconds;
  json["samples_s"] = boost::json::array(row.seconds.begin(), row.seconds.end());
  return json;
}

}  // namespace sluice
