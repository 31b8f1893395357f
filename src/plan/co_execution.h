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

// What the host takes, lately, of the time that it was measured to take at first: other programs
// use its cores and its memory, too.
class HostPace {
 public:
  // A factor.
  double value() const { return value_; }

  // A run took `took_s`, for which it was measured to take `measured_s`, more than 0.
  void NoteRun(double took_s, double measured_s);

  // A layer had experts to offer and the pace spoke against it. What made runs slow passes, and
  // only a run could tell: the longer the host is left out, the less is made of what is known.
  void NoteLeftOut();

 private:
  double value_ = 1.0;
};

// How many of a layer's missing experts the host computes, so that the link and the host, which
// begin together, are both through as early as can be. `rows` [n] are the rows of each expert,
// descending: the host takes from the end, where a transfer serves the fewest rows. `queued_s` is
// what the link has to do first. Of equal ends the one with the fewest experts on the host.
int HostShare(std::span<const int> rows, double queued_s, const CoExecutionCosts& costs);

}  // namespace sluice
