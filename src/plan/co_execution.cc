#include "plan/co_execution.h"

#include <algorithm>

namespace sluice {

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
