#pragma once

#include <span>

namespace sluice {

// What an expert costs that is not in a GPU's memory when its layer runs: brought over the link, or
// computed where it is, by the host's threads. Seconds.
struct CoExecutionCosts {
  double link_s = 0.0;        // to bring one expert
  double host_s = 0.0;        // to compute one on the host for a single row: its weights are read
  double host_row_s = 0.0;    // for each further row
  double host_start_s = 0.0;  // of the host's part as a whole: rows there and results back
};

// How many of a layer's missing experts the host computes, so that the link and the host, which
// begin together, are both through as early as can be. `rows` [n] are the rows of each expert,
// descending: the host takes from the end, where a transfer serves the fewest rows. `queued_s` is
// what the link has to do first. Of equal ends the one with the fewest experts on the host.
int HostShare(std::span<const int> rows, double queued_s, const CoExecutionCosts& costs);

}  // namespace sluice
