#include "plan/co_execution.h"

#include <algorithm>

namespace sluice {
namespace {

// Of a run, against those before.
constexpr double kNewest = 0.1;
// So many times the pace counts of a run at most. Where another program gets a core in its middle,
// one run takes ten times as long, and that says nothing of the next.
constexpr double kMost = 3.0;
// What a layer without a run takes off: after some hundreds the host is worth another try.
constexpr double kLeftOut = 1.0 / 2048;

}  // namespace

void HostPace::NoteRun(double took_s, double measured_s) {
  value_ += kNewest * (std::min(took_s / measured_s, kMost * value_) - value_);
}

void HostPace::NoteLeftOut() {
  value_ -= kLeftOut * value_;
}

int HostShare(std::span<const int> rows, double queued_s, const CoExecutionCosts& costs) {
  const auto count = static_cast<int>(rows.size());
  double host = costs.host_start_s;
  double best = queued_s + count * costs.link_s;
  int share = 0;
  for (int taken = 1; taken <= count; ++taken) {
    host += costs.host_s + (rows[count - taken] - 1) * costs.host_row_s;
    const int left = count - taken;
    const double link = left == 0 ? 0.0 : queued_s + left * costs.link_s;
    const double end = std::max(link, host);
    if (end < best) {
      best = end;
      share = taken;
    }
  }
  return share;
}

}  // namespace sluice
