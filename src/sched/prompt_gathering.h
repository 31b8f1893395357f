#pragma once

#include <algorithm>

#include "base/check.h"

namespace sluice {

// When prompts begin whose way through the layers costs the same for one as for ten: a prompt of
// some dozens of tokens has nearly every expert of a layer brought. If each began as soon as there
// is a place, such passes would follow each other without a break, and every step be a long one. So
// prompts that have a place wait for sequences that are about to end, to begin together with those
// behind them.
//
// Counted in steps of decoding, by steps that were timed: a pass costs as many as its own steps
// take longer, and a place that is free for a step costs its share of one. Prompts are put off as
// long as the places that have been free since the first was put off, and will be until the next
// end, cost less than a pass; but not beyond kMostSteps, which also bounds what is lost where rows,
// which are computed one way or the other, are a good part of what a pass takes.
class PromptGathering {
 public:
  // Sequences that may run at once, and steps that take a prompt through all layers while others
  // decode. In one step a prompt has no price beside its rows, for all that is known here.
  PromptGathering(int places, int steps_a_pass) : places_(places), steps_a_pass_(steps_a_pass) {
    SLUICE_CHECK_GE(places, 1);
    SLUICE_CHECK_GE(steps_a_pass, 1);
  }

  // A step in which sequences decoded, alone or beside prompts in a group of layers.
  void Observe(bool has_prompts, double seconds) {
    double& mean = has_prompts ? prompt_step_s_ : decode_step_s_;
    const bool is_known = mean > 0 && (has_prompts || !DecodeIsStale());
    mean = is_known ? mean + kWeight * (seconds - mean) : seconds;
    prompt_steps_in_a_row_ = has_prompts ? prompt_steps_in_a_row_ + 1 : 0;
  }

  // Whether prompts wait for one step more, with so many places free, more sequences than that
  // waiting, and the next place to be free after so many steps. Asked before each step in which
  // prompts could begin.
  bool PutOff(int free_places, int steps_to_end) {
    if (steps_a_pass_ == 1 || prompt_step_s_ == 0) return false;
    const bool worthwhile = waited_steps_ + steps_to_end <= kMostSteps &&
                            idle_place_steps_ + free_places * steps_to_end <= PassPlaceSteps();
    // What a step without prompts takes can only be known from one.
    const bool learns = decode_step_s_ == 0 || DecodeIsStale();
    if (!worthwhile && !learns) return false;
    ++waited_steps_;
    idle_place_steps_ += free_places;
    return true;
  }

  // Prompts begin, or nobody waits any more.
  void Reset() { waited_steps_ = idle_place_steps_ = 0; }

 private:
  static constexpr int kMostSteps = 8;    // that prompts are put off for
  static constexpr double kWeight = 0.2;  // of the latest step
  static constexpr int kStaleAfter = 32;  // steps with prompts, without one between that has none

  bool DecodeIsStale() const { return prompt_steps_in_a_row_ >= kStaleAfter; }

  // What a pass costs, in places that are free for a step.
  double PassPlaceSteps() const {
    if (decode_step_s_ == 0) return 0;
    return places_ * steps_a_pass_ * std::max(0.0, prompt_step_s_ / decode_step_s_ - 1);
  }

  const int places_;
  const int steps_a_pass_;
  double prompt_step_s_ = 0;  // 0: not seen yet
  double decode_step_s_ = 0;
  int prompt_steps_in_a_row_ = 0;
  int waited_steps_ = 0;  // that prompts have been put off for
  int idle_place_steps_ = 0;
};

}  // namespace sluice
