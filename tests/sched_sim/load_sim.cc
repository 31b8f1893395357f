#include "load_sim.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <set>
#include <stdexcept>
#include <utility>

namespace sluice::sim {

namespace {

constexpr TokenId kEnd = 1;
constexpr TokenId kOther = 2;

template <class... Args>
void Require(bool holds, fmt::format_string<Args...> message, Args&&... args) {
  if (!holds) throw std::runtime_error(fmt::format(message, std::forward<Args>(args)...));
}

}  // namespace

LoadSim::LoadSim(const SchedulerConfig& config, const Machine& machine,
                 const std::vector<Stream>& streams, uint64_t seed)
    : config_(config),
      machine_(machine),
      strategy_(MakeAutoregressive()),
      scheduler_(config, *strategy_),
      random_(seed),
      page_stamps_(static_cast<size_t>(config.num_pages)) {
  for (const Stream& stream : streams) MakeArrivals(stream);
  std::stable_sort(arrivals_.begin(), arrivals_.end(),
                   [](const Arrival& a, const Arrival& b) { return a.time < b.time; });
}

// In (0, 1).
double LoadSim::Uniform() {
  return (static_cast<double>(random_() >> 12) + 0.5) * 0x1p-52;
}

int LoadSim::Length(double mean, int most) {
  return std::clamp(static_cast<int>(-std::log(Uniform()) * mean), 1, most);
}

void LoadSim::MakeArrivals(const Stream& stream) {
  double time = stream.start;
  int burst = 0;
  for (int i = 0; i < stream.num_requests; ++i) {
    if (burst == 0) {
      burst = Length(stream.mean_burst, stream.num_requests);
      // Bursts come as rarely as keeps the rate.
      if (stream.rate > 0) time += -std::log(Uniform()) * burst / stream.rate;
    }
    --burst;
    Arrival arrival{.time = time, .output = Length(stream.mean_output, stream.max_output)};
    arrival.request.prompt.assign(Length(stream.mean_prompt, stream.max_prompt), kOther);
    // Every text is another: only a request's sequences and those that come back share pages.
    arrival.request.prompt[0] = static_cast<TokenId>(kOther + 1 + arrivals_.size());
    arrival.request.client =
        stream.client + std::to_string(random_() % static_cast<uint64_t>(stream.num_clients));
    arrival.request.priority =
        stream.first_priority +
        static_cast<int>(random_() % static_cast<uint64_t>(stream.num_priorities));
    arrival.says_end = Uniform() < 0.5;
    arrival.request.sampling.max_tokens = arrival.output + (arrival.says_end ? 5 : 0);
    arrival.request.sampling.n = Uniform() < 0.05 ? 2 : 1;
    if (Uniform() < stream.abort_share) arrival.abort_after = -std::log(Uniform());
    arrivals_.push_back(std::move(arrival));
  }
}

void LoadSim::Run() {
  while (next_arrival_ < arrivals_.size() || !scheduler_.idle() || !under_way_.empty()) {
    TakeArrivals();
    AbortDue();
    PlanSteps();
    if (!under_way_.empty()) {
      CommitStep();
    } else if (scheduler_.idle() && next_arrival_ < arrivals_.size()) {
      now_ = std::max(now_, arrivals_[next_arrival_].time);
    }
  }
  for (size_t i = 0; i < tracks_.size(); ++i) {
    Require(tracks_[i].state == Track::State::kEnded, "sequence {} never ended", i + 1);
  }
  Require(scheduler_.pages().num_free() == config_.num_pages, "pages are held at the end");
  Require(scheduler_.host_pages().num_free() == config_.num_host_pages,
          "pages of the host's are held at the end");
  uint64_t tokens = 0;
  for (const Life& life : lives_) tokens += static_cast<uint64_t>(life.tokens);
  Require(scheduler_.Stats().generation_tokens == tokens, "{} tokens counted, {} reported",
          scheduler_.Stats().generation_tokens, tokens);
}

void LoadSim::TakeArrivals() {
  for (; next_arrival_ < arrivals_.size() && arrivals_[next_arrival_].time <= now_;
       ++next_arrival_) {
    Submit(arrivals_[next_arrival_]);
  }
}

void LoadSim::Submit(Arrival& arrival) {
  const RequestId request = next_arrival_ + 1;
  scheduler_.CheckFits(arrival.request);
  scheduler_.Add(request, arrival.request, 0);
  const auto limit = static_cast<int>(
      std::min<int64_t>(config_.max_model_len, int64_t{config_.num_pages} * config_.page_size));
  const int prompt = static_cast<int>(arrival.request.prompt.size());
  const bool fits = prompt + arrival.output <= limit;
  for (int index = 0; index < arrival.request.sampling.n; ++index) {
    tracks_.push_back(
        {.request = request,
         .output = fits ? arrival.output : limit - prompt,
         .finish = fits && arrival.says_end ? FinishReason::kStop : FinishReason::kLength,
         .most = std::min(limit, prompt + arrival.request.sampling.max_tokens),
         .length = prompt});
    lives_.push_back({.client = arrival.request.client,
                      .priority = arrival.request.priority,
                      .prompt = prompt,
                      .arrived = arrival.time});
    ids_[{request, index}] = tracks_.size();
    clients_[arrival.request.client].waiting.insert({arrival.request.priority, tracks_.size()});
  }
  if (arrival.abort_after >= 0) aborts_.emplace(arrival.time + arrival.abort_after, request);
  arrival.request.prompt = {};
}

void LoadSim::AbortDue() {
  while (!aborts_.empty() && aborts_.begin()->first <= now_) {
    for (const auto& report : scheduler_.End(aborts_.begin()->second, FinishReason::kAbort)) {
      Take(report);
    }
    aborts_.erase(aborts_.begin());
  }
}

void LoadSim::PlanSteps() {
  while (std::ssize(under_way_) < machine_.max_steps) {
    StepPlan plan = scheduler_.Plan();
    if (plan.slices.empty()) break;
    if (!under_way_.empty()) ++steps_ahead_;
    NotePreemptions();
    CheckAdmissions();
    CheckPlan(plan);
    NoteSwapped();
    CheckEveryoneRuns(plan);
    CheckPages();
    const int rows = static_cast<int>(plan.NumTokens());
    longest_step_ = std::max(longest_step_, rows);
    const double begin = under_way_.empty() ? now_ : under_way_.back().ready;
    under_way_.push_back({.plan = std::move(plan), .ready = begin + machine_.TimeOf(rows)});
  }
}

void LoadSim::CommitStep() {
  InFlight step = std::move(under_way_.front());
  under_way_.pop_front();
  now_ = step.ready;
  const StepResult result = Answer(step.plan);
  const auto reports = scheduler_.Commit(step.plan, result);
  if (!result.error.empty()) NoteSwapped();
  for (const SequenceReport& report : reports) Take(report);
}

StepResult LoadSim::Answer(const StepPlan& plan) {
  StepResult result{.step = plan.step};
  if (Uniform() < machine_.failure_share) {
    result.error = "the power went out";
    return result;
  }
  for (const SequenceSlice& slice : plan.slices) {
    SliceResult answer{.sequence = slice.sequence};
    if (!slice.sample_rows.empty()) {
      const Track& track = tracks_[slice.sequence - 1];
      const bool ends =
          track.finish == FinishReason::kStop && slice.sample.generated + 1 == track.output;
      answer.samples.push_back({.token = ends ? kEnd : kOther});
    }
    result.slices.push_back(std::move(answer));
  }
  return result;
}

// Sequences that were in the batch and wait again: the last of its order.
void LoadSim::NotePreemptions() {
  if (preemptions_ == scheduler_.Stats().preemptions) return;
  std::set<Rank> batch;
  for (const auto& sequence : scheduler_.running()) batch.insert(RankOf(sequence->id));
  for (auto it = batch_.begin(); it != batch_.end();) {
    const Rank rank = *it++;
    if (batch.count(rank)) continue;
    const auto next = batch.upper_bound(rank);
    Require(next == batch.end() || !batch_.count(*next),
            "sequence {} gave its pages up before one that comes after it", IdOf(rank));
    Track& track = TrackOf(IdOf(rank));
    track.state = Track::State::kPutBack;
    track.kv_length = 0;
    track.pages = {};
    put_back_.insert(rank);
    batch_.erase(rank);
    --clients_.at(LifeOf(IdOf(rank)).client).in_batch;
    ++preemptions_;
  }
  Require(preemptions_ == scheduler_.Stats().preemptions, "{} preemptions, {} counted",
          preemptions_, scheduler_.Stats().preemptions);
}

// What the scheduler says of those that wait.
void LoadSim::NoteSwapped() {
  int held = 0;
  scheduler_.waiting().ForEach([&](const Sequence& sequence) {
    Track& track = TrackOf(sequence.id);
    const int pages = (sequence.swapped_length + config_.page_size - 1) / config_.page_size;
    Require(std::ssize(sequence.host_pages) == pages, "sequence {}: {} pages of the host's for {}",
            sequence.id, sequence.host_pages.size(), sequence.swapped_length);
    Require(sequence.swapped_length < track.length, "sequence {} has {} of {} positions swapped",
            sequence.id, sequence.swapped_length, track.length);
    track.swapped = sequence.swapped_length;
    held += pages;
  });
  Require(held + scheduler_.host_pages().num_free() == config_.num_host_pages,
          "{} pages of the host's are held and {} are free, of {}", held,
          scheduler_.host_pages().num_free(), config_.num_host_pages);
}

// Goes through the places that the last plan gave, in the order in which they were given.
void LoadSim::CheckAdmissions() {
  std::deque<SequenceId> fresh;
  for (const auto& admission : scheduler_.admitted()) {
    fresh.push_back(ids_.at({admission.request, admission.index}));
  }
  std::deque<SequenceId> back;
  for (const auto& sequence : scheduler_.running()) {
    if (TrackOf(sequence->id).state == Track::State::kPutBack) back.push_back(sequence->id);
  }
  while (!fresh.empty() || !back.empty()) {
    const bool is_back = !back.empty() && (fresh.empty() || LifeOf(back.front()).priority <=
                                                                LifeOf(fresh.front()).priority);
    std::deque<SequenceId>& from = is_back ? back : fresh;
    is_back ? CheckReturn(from.front()) : CheckFirstPlace(from.front());
    TrackOf(from.front()).state = Track::State::kRunning;
    batch_.insert(RankOf(from.front()));
    ClientTally& tally = clients_.at(LifeOf(from.front()).client);
    ++tally.in_batch;
    tally.overtaken_by.clear();
    from.pop_front();
  }
}

void LoadSim::CheckReturn(SequenceId id) {
  Require(*put_back_.begin() == RankOf(id), "sequence {} came back before {}", id,
          IdOf(*put_back_.begin()));
  put_back_.erase(put_back_.begin());
  TrackOf(id).kv_length = TrackOf(id).swapped;
  for (const auto& [name, client] : clients_) {
    Require(client.waiting.empty() || client.waiting.begin()->first >= LifeOf(id).priority,
            "sequence {} came back before one of more priority", id);
  }
}

void LoadSim::CheckFirstPlace(SequenceId id) {
  const Life& life = LifeOf(id);
  ClientTally& own = clients_.at(life.client);
  Require(put_back_.empty() || std::get<0>(*put_back_.begin()) > life.priority,
          "sequence {} got a place before one that had given its own up", id);
  Require(!own.waiting.empty() && *own.waiting.begin() == std::pair(life.priority, id),
          "sequence {} got a place before an older one of its client", id);
  own.waiting.erase(own.waiting.begin());
  for (auto& [name, other] : clients_) {
    if (name == life.client || other.waiting.empty()) continue;
    const int priority = other.waiting.begin()->first;
    Require(priority >= life.priority, "sequence {} got a place before one of more priority", id);
    if (priority > life.priority) continue;
    Require(other.in_batch >= own.in_batch, "{} has {} places, {} has {} and gets one", name,
            other.in_batch, life.client, own.in_batch);
    if (other.in_batch > 0) continue;
    Require(++other.overtaken_by[life.client] <= 1, "{} got two places before {} had one",
            life.client, name);
  }
  TrackOf(id).turn = ++turns_;
}

void LoadSim::CheckPlan(const StepPlan& plan) {
  Require(plan.NumTokens() <= config_.max_num_batched_tokens, "{} rows in a step of {}",
          plan.NumTokens(), config_.max_num_batched_tokens);
  Require(std::ssize(plan.slices) <= config_.max_num_seqs, "{} sequences in a step of {}",
          plan.slices.size(), config_.max_num_seqs);
  ++stamp_;
  for (const SequenceSlice& slice : plan.slices) CheckSlice(slice);
}

void LoadSim::CheckSlice(const SequenceSlice& slice) {
  Track& track = TrackOf(slice.sequence);
  Require(track.state == Track::State::kRunning, "sequence {} runs without a place",
          slice.sequence);
  Require(track.planned != stamp_, "sequence {} is twice in a step", slice.sequence);
  track.planned = stamp_;
  const int rows = static_cast<int>(slice.tokens.size());
  Require(!slice.positions.empty(), "sequence {} has no rows", slice.sequence);
  if (track.pages.empty()) {
    const int begin = slice.positions.front();
    Require(begin == track.kv_length || (begin > track.kv_length && begin % config_.page_size == 0),
            "sequence {} begins at position {}, with {} known", slice.sequence, begin,
            track.kv_length);
    track.kv_length = begin;
  }
  Require(rows > 0 && slice.positions.front() == track.kv_length &&
              slice.positions.back() == track.kv_length + rows - 1,
          "sequence {} runs positions {} to {} after {}", slice.sequence, slice.positions.front(),
          slice.positions.back(), track.kv_length);
  track.kv_length += rows;
  Require(slice.kv_length == track.kv_length && track.kv_length <= track.length,
          "sequence {}: {} of {} positions after a step, it says {}", slice.sequence,
          track.kv_length, track.length, slice.kv_length);
  const bool samples = track.kv_length == track.length;
  Require(slice.sample_rows.size() == (samples ? 1u : 0u), "sequence {} samples at {} of {}",
          slice.sequence, track.kv_length, track.length);
  if (samples) ++track.length;
  Require(slice.pages.size() >= track.pages.size(), "sequence {} lost pages", slice.sequence);
  for (size_t i = 0; i < track.pages.size(); ++i) {
    Require(slice.pages[i] == track.pages[i] || scheduler_.pages().sealed(slice.pages[i]),
            "sequence {}'s page {} was exchanged", slice.sequence, i);
  }
  const int pages = (track.kv_length + config_.page_size - 1) / config_.page_size;
  Require(std::ssize(slice.pages) == pages, "sequence {}: {} pages for {} positions",
          slice.sequence, slice.pages.size(), track.kv_length);
  track.pages = slice.pages;
}

void LoadSim::CheckEveryoneRuns(const StepPlan& plan) const {
  const bool full = plan.NumTokens() == config_.max_num_batched_tokens;
  bool is_first = true;
  for (const Rank& rank : batch_) {
    const Track& track = tracks_[IdOf(rank) - 1];
    const bool runs = track.planned == stamp_;
    const bool at_length = track.length >= track.most;  // when the step under way is over
    if (!runs && !at_length) {
      Require(track.length - track.kv_length > 1, "sequence {} decodes and is not in the step",
              IdOf(rank));
      Require(!is_first, "sequence {} is the first and is not in the step", IdOf(rank));
      Require(full, "sequence {} is not in the step, which has room", IdOf(rank));
    }
    is_first = is_first && at_length;
  }
}

// No page has two owners, and none is lost.
void LoadSim::CheckPages() {
  int held = 0;
  for (const auto& sequence : scheduler_.running()) {
    for (const PageId page : sequence->pages.ids()) {
      const bool is_new = std::exchange(page_stamps_[page], stamp_) != stamp_;
      Require(is_new || scheduler_.pages().sealed(page), "page {} is used twice", page);
      held += is_new;
    }
  }
  Require(held + scheduler_.pages().num_free() == config_.num_pages,
          "{} pages are held and {} are free, of {}", held, scheduler_.pages().num_free(),
          config_.num_pages);
  scheduler_.waiting().ForEach([](const Sequence& sequence) {
    Require(sequence.pages.empty(), "sequence {} waits and holds pages", sequence.id);
  });
}

void LoadSim::Take(const SequenceReport& report) {
  const SequenceId id = ids_.at({report.request, report.output.index});
  Track& track = TrackOf(id);
  Life& life = LifeOf(id);
  Require(track.state != Track::State::kEnded, "a report on sequence {} after its last", id);
  for (size_t i = 0; i < report.output.tokens.size(); ++i) {
    if (life.tokens++ == 0) {
      life.first_token = now_;
    } else {
      life.gaps.push_back(now_ - track.last_token);
    }
    track.last_token = now_;
  }
  if (!report.output.finish) return;
  life.finish = *report.output.finish;
  life.ended = now_;
  const bool cut_short = life.finish == FinishReason::kAbort || life.finish == FinishReason::kError;
  Require(cut_short ? life.tokens <= track.output
                    : life.finish == track.finish && life.tokens == track.output,
          "sequence {} ends with {} after {} tokens, not with {} after {}", id,
          FinishReasonName(life.finish), life.tokens, FinishReasonName(track.finish), track.output);
  Release(id);
}

void LoadSim::Release(SequenceId id) {
  Track& track = TrackOf(id);
  ClientTally& client = clients_.at(LifeOf(id).client);
  if (track.state == Track::State::kRunning) --client.in_batch;
  batch_.erase(RankOf(id));
  put_back_.erase(RankOf(id));
  client.waiting.erase({LifeOf(id).priority, id});
  if (client.waiting.empty()) client.overtaken_by.clear();
  track.state = Track::State::kEnded;
  track.pages = {};
}

LoadSim::Rank LoadSim::RankOf(SequenceId id) const {
  return {lives_[id - 1].priority, tracks_[id - 1].turn, id};
}

double Percentile(std::vector<double> values, double percentile) {
  const auto nth = static_cast<size_t>(percentile / 100 * static_cast<double>(values.size() - 1));
  std::nth_element(values.begin(), values.begin() + static_cast<ptrdiff_t>(nth), values.end());
  return values[nth];
}

}  // namespace sluice::sim
