#include "study/load_counts.h"

#include <algorithm>
#include <charconv>
#include <fstream>
#include <string>
#include <string_view>
#include <utility>

#include "base/check.h"
#include "base/error.h"

namespace sluice {
namespace {

constexpr uint64_t kLargestCount = uint64_t{1} << 53;  // exact in a double

// Appends the counts of a line; false when it holds anything else.
bool ParseCounts(std::string_view line, std::vector<uint64_t>& counts) {
  for (;;) {
    const size_t comma = line.find(',');
    const std::string_view field = line.substr(0, comma);
    uint64_t value = 0;
    const char* end = field.data() + field.size();
    const auto [stop, error] = std::from_chars(field.data(), end, value);
    if (error != std::errc() || stop != end || value > kLargestCount) return false;
    counts.push_back(value);
    if (comma == std::string_view::npos) return true;
    line.remove_prefix(comma + 1);
  }
}

}  // namespace

LoadCounts LoadCounts::Zero(int num_layers, int num_experts) {
  LoadCounts counts{.num_layers = num_layers, .num_experts = num_experts};
  counts.counts.resize(static_cast<size_t>(num_layers) * static_cast<size_t>(num_experts));
  counts.uses.resize(counts.counts.size());
  return counts;
}

std::span<const uint64_t> LoadCounts::Layer(int layer) const {
  SLUICE_CHECK(layer >= 0 && layer < num_layers);
  const size_t experts = static_cast<size_t>(num_experts);
  return {counts.data() + static_cast<size_t>(layer) * experts, experts};
}

std::vector<double> LoadCounts::Loads(int layer) const {
  const std::span<const uint64_t> row = Layer(layer);
  return {row.begin(), row.end()};
}

std::vector<double> LoadCounts::Uses(int layer) const {
  std::vector<double> used = Loads(layer);
  const size_t first = static_cast<size_t>(layer) * used.size();
  for (size_t e = 0; e < used.size(); ++e) {
    used[e] = uses.empty() ? std::min(used[e], 1.0) : static_cast<double>(uses[first + e]);
  }
  return used;
}

std::vector<double> LoadCounts::Costs(int layer, double use_s, double token_s) const {
  std::vector<double> costs = Loads(layer);
  const size_t first = static_cast<size_t>(layer) * costs.size();
  for (size_t e = 0; e < costs.size(); ++e) {
    const double reading = uses.empty() ? 0.0 : static_cast<double>(uses[first + e]) * use_s;
    costs[e] = std::max(costs[e] * token_s, reading);
  }
  return costs;
}

bool LoadCounts::HasLoad(int layer) const {
  const std::span<const uint64_t> row = Layer(layer);
  return std::any_of(row.begin(), row.end(), [](uint64_t count) { return count > 0; });
}

void LoadCounts::Add(const RouterBatch& batch) {
  SLUICE_CHECK(batch.layer >= 0 && batch.layer < num_layers);
  const size_t first = static_cast<size_t>(batch.layer) * static_cast<size_t>(num_experts);
  std::vector<bool> used(static_cast<size_t>(num_experts));
  for (const uint16_t expert : batch.experts) {
    ++counts[first + expert];
    used[expert] = true;
  }
  for (size_t e = 0; e < used.size(); ++e) uses[first + e] += used[e] ? 1 : 0;
  last_step = batch.step;
}

void LoadCounts::Add(const LoadCounts& later) {
  SLUICE_CHECK_EQ(later.counts.size(), counts.size());
  for (size_t i = 0; i < counts.size(); ++i) counts[i] += later.counts[i];
  SLUICE_CHECK_EQ(later.uses.size(), uses.size());
  for (size_t i = 0; i < uses.size(); ++i) uses[i] += later.uses[i];
  last_step = later.last_step;
}

WindowedCounts::WindowedCounts(int num_layers, int num_experts, uint64_t steps_per_window)
    : num_layers_(num_layers), num_experts_(num_experts), steps_per_window_(steps_per_window) {
  SLUICE_CHECK_GE(steps_per_window, 1u);
}

void WindowedCounts::Add(const RouterBatch& batch) {
  const bool is_new_step = windows_.empty() || windows_.back().last_step != batch.step;
  if (is_new_step && (windows_.empty() || steps_ == steps_per_window_)) {
    if (windows_.size() == kMaxWindows) {
      JoinNeighbours();
    }
    windows_.push_back(LoadCounts::Zero(num_layers_, num_experts_));
    windows_.back().first_step = batch.step;
    steps_ = 0;
  }
  if (is_new_step) ++steps_;
  windows_.back().Add(batch);
}

void WindowedCounts::JoinNeighbours() {
  std::vector<LoadCounts> joined;
  for (size_t i = 0; i < windows_.size(); i += 2) {
    windows_[i].Add(windows_[i + 1]);
    joined.push_back(std::move(windows_[i]));
  }
  windows_ = std::move(joined);
  steps_per_window_ *= 2;
}

LoadCounts WindowedCounts::Total() const {
  LoadCounts total = LoadCounts::Zero(num_layers_, num_experts_);
  if (!windows_.empty()) total.first_step = windows_.front().first_step;
  for (const LoadCounts& window : windows_) total.Add(window);
  return total;
}

LoadCounts ReadCountsCsv(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  std::error_code ignored;
  if (!file || std::filesystem::is_directory(path, ignored)) {
    throw Error(ErrorCode::kNotFound,
                path.string() + ": cannot be read; expected counts as CSV, a line for each layer");
  }
  LoadCounts counts;
  std::string line;
  for (int number = 1; std::getline(file, line); ++number) {
    if (line.ends_with('\r')) line.pop_back();
    if (line.empty() || line.front() == '#') continue;
    const size_t before = counts.counts.size();
    const bool parsed = ParseCounts(line, counts.counts);
    const auto read = static_cast<int>(counts.counts.size() - before);
    if (counts.num_layers == 0) counts.num_experts = read;
    if (!parsed || read != counts.num_experts) {
      const std::string expected =
          counts.num_layers == 0 ? "counts" : std::to_string(counts.num_experts) + " counts";
      throw Error(ErrorCode::kDataLoss, path.string() + ": line " + std::to_string(number) +
                                            " is not " + expected +
                                            " between commas, one for each expert");
    }
    ++counts.num_layers;
  }
  return counts;
}

}  // namespace sluice
