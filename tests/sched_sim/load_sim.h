#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <random>
#include <set>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "sched/scheduler.h"

namespace sluice::sim {

// Requests of one kind that arrive over time, in seconds of the simulation.
struct Stream {
  int num_requests = 0;
  double start = 0;
  double rate = 10;          // requests a second; 0 = all at `start`
  double mean_burst = 1;     // that arrive at one moment; 1 = a Poisson process
  double mean_prompt = 100;  // tokens, with an exponential distribution
  int max_prompt = 1000;
  double mean_output = 50;
  int max_output = 300;
  int num_clients = 1;
  std::string client = "client";  // the prefix of their names
  int first_priority = 0;
  int num_priorities = 1;
  double abort_share = 0;  // of requests, at some time of their lives
};

// What runs the steps: a step's time is a sum over what it does.
struct Machine {
  double step_seconds = 5e-3;
  double row_seconds = 5e-5;
  double failure_share = 0;  // of steps
  int max_steps = 1;         // under way at once

  double TimeOf(int rows) const { return step_seconds + row_seconds * rows; }
};

// What became of one sequence, in seconds of the simulation.
struct Life {
  std::string client;
  int priority = 0;
  int prompt = 0;
  double arrived = 0;
  double first_token = -1;
  std::vector<double> gaps;  // between its tokens
  double ended = -1;
  FinishReason finish = FinishReason::kStop;
  int tokens = 0;
};

// The scheduler under load, with time that is computed instead of spent. Each step that it plans
// and each report are checked against what this class keeps of every sequence for itself:
//
// - a step keeps the token budget and max_num_seqs, and has no sequence twice;
// - every decoding sequence is in every step, and so is the first in the batch's order; who is not
//   prefills, and the step is full;
// - rows follow each other without gaps, and pages are added to, never exchanged, as long as a
//   sequence keeps its place, but for sealed ones; no other page is used by two, and none is lost;
// - places are given in the order that WaitingLine states, one by one, and while a client has
//   nothing in the batch, no other gets two new places of its priority before it;
// - what was swapped out comes back whole, unless the step that did it failed; no page of the
// host's
//   is lost;
// - every sequence ends once, for the right reason, with the right number of tokens.
//
// A violation throws std::runtime_error.
class LoadSim {
 public:
  LoadSim(const SchedulerConfig& config, const Machine& machine, const std::vector<Stream>& streams,
          uint64_t seed);

  void Run();

  const std::vector<Life>& lives() const { return lives_; }
  EngineStats Stats() const { return scheduler_.Stats(); }
  double seconds() const { return now_; }
  uint64_t steps_ahead() const { return steps_ahead_; }
  int longest_step() const { return longest_step_; }  // rows

 private:
  struct Arrival {
    double time = 0;
    double abort_after = -1;  // seconds; never where negative
    Request request;
    int output = 0;        // tokens that it will say
    bool says_end = true;  // the last of them is an end of text; else max_tokens is reached
  };
  // What this side knows of a sequence.
  struct Track {
    enum class State { kWaiting, kRunning, kPutBack, kEnded } state = State::kWaiting;
    RequestId request = 0;
    int output = 0;  // tokens
    FinishReason finish = FinishReason::kStop;
    int most = 0;       // tokens, with the prompt, that it is let reach
    uint64_t turn = 0;  // the order of first places
    int swapped = 0;    // positions that the host's pages keep of it
    // With all that is planned done:
    int kv_length = 0;
    int length = 0;
    BlockTable pages;
    uint64_t planned = 0;  // the stamp of its last step
    double last_token = 0;
  };
  struct InFlight {
    StepPlan plan;
    double ready = 0;
  };
  // Of the batch and of those that gave their place up: priority, turn, id.
  using Rank = std::tuple<int, uint64_t, SequenceId>;
  struct ClientTally {
    int in_batch = 0;
    std::set<std::pair<int, SequenceId>> waiting;  // for their first place, by priority
    std::map<std::string, int> overtaken_by;       // first places of others while it has none
  };

  void MakeArrivals(const Stream& stream);
  void Submit(Arrival& arrival);
  void TakeArrivals();
  void AbortDue();
  void PlanSteps();
  void CommitStep();
  StepResult Answer(const StepPlan& plan);
  void Take(const SequenceReport& report);
  void Release(SequenceId id);

  void NotePreemptions();
  void NoteSwapped();
  void CheckAdmissions();
  void CheckReturn(SequenceId id);
  void CheckFirstPlace(SequenceId id);
  void CheckPlan(const StepPlan& plan);
  void CheckSlice(const SequenceSlice& slice);
  void CheckEveryoneRuns(const StepPlan& plan) const;
  void CheckPages();

  Track& TrackOf(SequenceId id) { return tracks_[id - 1]; }
  Life& LifeOf(SequenceId id) { return lives_[id - 1]; }
  Rank RankOf(SequenceId id) const;
  static SequenceId IdOf(const Rank& rank) { return std::get<2>(rank); }
  double Uniform();
  int Length(double mean, int most);

  const SchedulerConfig config_;
  const Machine machine_;
  const std::unique_ptr<DecodeStrategy> strategy_;
  Scheduler scheduler_;
  std::mt19937_64 random_;

  std::vector<Arrival> arrivals_;  // by time
  size_t next_arrival_ = 0;
  std::vector<Track> tracks_;  // [sequence - 1], as the scheduler numbers them
  std::map<std::pair<RequestId, int>, SequenceId> ids_;
  std::vector<Life> lives_;  // likewise
  std::map<std::string, ClientTally> clients_;
  std::set<Rank> batch_;
  std::set<Rank> put_back_;
  uint64_t turns_ = 0;
  std::multimap<double, RequestId> aborts_;  // by time
  std::deque<InFlight> under_way_;
  std::vector<uint64_t> page_stamps_;  // [page] the step that was the last to use it
  uint64_t stamp_ = 0;
  double now_ = 0;
  uint64_t preemptions_ = 0;
  uint64_t steps_ahead_ = 0;
  int longest_step_ = 0;
};

// The `percentile` (0 to 100) of `values`, which must not be empty.
double Percentile(std::vector<double> values, double percentile);

}  // namespace sluice::sim
