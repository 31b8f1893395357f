#include "study/server_load.h"

#include <algorithm>
#include <charconv>
#include <map>
#include <optional>
#include <set>
#include <thread>
#include <utility>

#include "base/error.h"
#include "hub/http_client.h"
#include "trace/expert_load.h"

namespace sluice {
namespace {

constexpr std::chrono::milliseconds kTimeout{10000};

// A line of /metrics: NAME{LABEL="VALUE",...} NUMBER.
struct Sample {
  std::string_view name;
  std::map<std::string, std::string, std::less<>> labels;
  uint64_t value = 0;
};

[[noreturn]] void FailLine(std::string_view line) {
  throw Error(ErrorCode::kDataLoss, "/metrics: cannot read '" + std::string(line.substr(0, 200)) +
                                        "' as a count of steps or of an expert's tokens");
}

// A whole number that /metrics writes as that of a double: 12, or 1.2e+20.
uint64_t ParseCount(std::string_view text, std::string_view line) {
  double value = 0.0;
  const char* end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, value);
  const bool whole = error == std::errc() && stop == end && value >= 0.0 && value < 9e15;
  if (!whole || value != static_cast<double>(static_cast<uint64_t>(value))) FailLine(line);
  return static_cast<uint64_t>(value);
}

// Takes LABEL="VALUE" off the front of `rest`.
void TakeLabel(std::string_view& rest, std::string_view line, Sample& sample) {
  const size_t equals = rest.find("=\"");
  if (equals == std::string_view::npos) FailLine(line);
  std::string& value = sample.labels[std::string(rest.substr(0, equals))];
  rest.remove_prefix(equals + 2);
  while (!rest.empty() && rest.front() != '"') {
    if (rest.front() == '\\') {
      rest.remove_prefix(1);
      if (rest.empty()) FailLine(line);
      value += rest.front() == 'n' ? '\n' : rest.front();
    } else {
      value += rest.front();
    }
    rest.remove_prefix(1);
  }
  if (rest.empty()) FailLine(line);
  rest.remove_prefix(1);
  if (rest.starts_with(',')) rest.remove_prefix(1);
}

Sample ParseSample(std::string_view line) {
  Sample sample;
  const size_t open = line.find('{');
  if (open == std::string_view::npos) FailLine(line);
  sample.name = line.substr(0, open);
  std::string_view rest = line.substr(open + 1);
  while (!rest.starts_with('}')) TakeLabel(rest, line, sample);
  rest.remove_prefix(1);
  while (rest.starts_with(' ')) rest.remove_prefix(1);
  sample.value = ParseCount(rest, line);
  return sample;
}

// The number that a label says, of at most `most`.
int LabelNumber(const Sample& sample, std::string_view label, int most, std::string_view line) {
  const auto found = sample.labels.find(label);
  if (found == sample.labels.end()) FailLine(line);
  const std::string& text = found->second;
  int number = -1;
  const char* end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, number);
  if (error != std::errc() || stop != end || number < 0 || number > most) FailLine(line);
  return number;
}

// The counts of one family, in any order.
class FamilyCounts {
 public:
  void Add(const Sample& sample, std::string_view line) {
    const int layer = LabelNumber(sample, "layer", kMaxLayer, line);
    const int expert = LabelNumber(sample, "expert", kMaxExpert, line);
    layers_ = std::max(layers_, layer + 1);
    experts_ = std::max(experts_, expert + 1);
    counts_[{layer, expert}] = sample.value;
  }

  int layers() const { return layers_; }
  int experts() const { return experts_; }

  // [layers, experts]; 0 for layers that have none. Throws Error(kDataLoss) for one that lacks
  // some.
  std::vector<uint64_t> Table(const char* name) const {
    std::vector<uint64_t> table(static_cast<size_t>(layers_) * static_cast<size_t>(experts_));
    std::set<int> present;
    for (const auto& [place, count] : counts_) {
      present.insert(place.first);
      table[static_cast<size_t>(place.first) * static_cast<size_t>(experts_) +
            static_cast<size_t>(place.second)] = count;
    }
    if (counts_.size() != present.size() * static_cast<size_t>(experts_)) {
      throw Error(ErrorCode::kDataLoss,
                  std::string("/metrics: ") + name + " has not every expert of each layer");
    }
    return table;
  }

 private:
  // As of a trace.
  static constexpr int kMaxLayer = 4095;
  static constexpr int kMaxExpert = 65535;

  int layers_ = 0;
  int experts_ = 0;
  std::map<std::pair<int, int>, uint64_t> counts_;
};

// What was counted between two times; none when counts went back.
std::optional<LoadCounts> Difference(const ServerLoad& before, const ServerLoad& after) {
  LoadCounts window = after.counts;
  if (before.counts.counts.size() != window.counts.size() || after.steps < before.steps) {
    return std::nullopt;
  }
  for (size_t i = 0; i < window.counts.size(); ++i) {
    if (window.counts[i] < before.counts.counts[i]) return std::nullopt;
    if (window.uses[i] < before.counts.uses[i]) return std::nullopt;
    window.counts[i] -= before.counts.counts[i];
    window.uses[i] -= before.counts.uses[i];
  }
  return window;
}

}  // namespace

ServerLoad ParseServerLoad(std::string_view metrics) {
  ServerLoad load;
  FamilyCounts tokens;
  FamilyCounts uses;
  while (!metrics.empty()) {
    const std::string_view line = metrics.substr(0, metrics.find('\n'));
    metrics.remove_prefix(std::min(metrics.size(), line.size() + 1));
    const std::string_view name = line.substr(0, line.find('{'));
    if (name == kExpertStepsMetric) {
      const Sample sample = ParseSample(line);
      load.steps = sample.value;
      const auto model = sample.labels.find("model_name");
      if (model != sample.labels.end()) load.model = model->second;
    } else if (name == kExpertTokensMetric) {
      tokens.Add(ParseSample(line), line);
    } else if (name == kExpertUsesMetric) {
      uses.Add(ParseSample(line), line);
    }
  }
  if (tokens.layers() == 0) {
    throw Error(ErrorCode::kUnsupported, std::string("the server's /metrics has no ") +
                                             kExpertTokensMetric +
                                             ": start it with `sluice serve --expert-load`");
  }
  load.counts = {.num_layers = tokens.layers(), .num_experts = tokens.experts()};
  load.counts.counts = tokens.Table(kExpertTokensMetric);
  load.counts.uses = uses.Table(kExpertUsesMetric);
  if (load.counts.uses.size() != load.counts.counts.size()) {
    throw Error(ErrorCode::kDataLoss,
                "/metrics: what is said of experts' tokens and of their steps differs in size");
  }
  return load;
}

std::string FetchMetrics(const std::string& url) {
  const HttpClient client("sluice", kTimeout);
  std::string page = url;
  while (page.ends_with('/')) page.pop_back();
  std::string body;
  const HttpHead head = client.Send(
      {.url = page + "/metrics"}, [](const HttpHead& answer) { return answer.status == 200; },
      [&](std::string_view piece) { body += piece; });
  if (head.status != 200) {
    throw Error(ErrorCode::kUnavailable, page + "/metrics: the server answered with status " +
                                             std::to_string(head.status) + ", expected 200");
  }
  return body;
}

WatchedLoad WatchServer(const std::function<std::string()>& fetch, const WatchOptions& options) {
  ServerLoad before = ParseServerLoad(fetch());
  WatchedLoad watched{.model = before.model};
  auto end = std::chrono::steady_clock::now();
  for (int i = 0; i < options.windows; ++i) {
    end += std::chrono::duration_cast<std::chrono::steady_clock::duration>(options.window);
    std::this_thread::sleep_until(end);
    ServerLoad now = ParseServerLoad(fetch());
    std::optional<LoadCounts> window = Difference(before, now);
    if (!window) {
      throw Error(ErrorCode::kUnavailable,
                  "the server's counts went back while it was watched: it was started again");
    }
    // Without a step the next window begins here too.
    if (now.steps == before.steps) continue;
    window->first_step = before.steps;
    window->last_step = now.steps - 1;
    watched.windows.push_back(std::move(*window));
    before = std::move(now);
  }
  if (watched.windows.empty()) {
    throw Error(ErrorCode::kInvalidArgument,
                "the server ran no step while it was watched: there is no load to study");
  }
  return watched;
}

}  // namespace sluice
