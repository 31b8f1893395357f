#pragma once

#include <cstddef>
#include <vector>

namespace sluice {

// How much of the link is free for guesses. From the arrival of the last expert that a layer waits
// for until the router of the next layer has chosen, nobody asks the link for anything: that time
// is the window of the next layer, measured in transfers of an expert.
//
// The k-th expert brought ahead, counted from 0, has the share f = clamp(window - k, 0, 1) of its
// transfer within the window. If it is needed, with chance p, it saves that share of a transfer; if
// not, it delays what is needed by the rest. So it is worth bringing while p f > (1 - p) (1 - f),
// which is p + f > 1: certain ones always, others while the link would idle.
//
// A forecast is too sure of experts that are missing: the likeliest have slots. So chances count
// for as much as they came to with those that were brought before.
class PrefetchWindow {
 public:
  explicit PrefetchWindow(int num_layers) : windows_(static_cast<size_t>(num_layers)) {}

  // So many transfers, one behind the other, took `seconds`.
  void NoteTransfers(double seconds, size_t transfers);
  // The time before the choice of `layer` (counted among those that route) in which nobody asked.
  void NoteWindow(int layer, double seconds);

  // A layer has chosen: of the experts brought ahead for it, whose chances come to `expected`, so
  // many were needed.
  void NoteGuesses(double expected, size_t needed);
  // What a chance is to be multiplied by, at most 1.
  double Trust() const;

  // The window before the choice of `layer`; one transfer while it was not measured.
  double Transfers(int layer) const;

  // Whether the k-th expert, expected with chance p, is worth bringing ahead for `layer`.
  bool Worth(int layer, size_t k, double p) const;

  // The chance that any token needs an expert on which so many are expected.
  static double ChanceOfUse(double expected_tokens);

 private:
  // The last two measured; negative while there are none.
  struct Window {
    double last_s = -1.0;
    double before_s = -1.0;
  };
  std::vector<Window> windows_;  // [layers]
  double transfer_s_ = 0.0;      // fading mean; 0 while none was measured
  double expected_ = 0.0;        // these two are fading sums
  double needed_ = 0.0;
};

}  // namespace sluice
