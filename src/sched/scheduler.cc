#include "sched/scheduler.h"

#include <fmt/format.h>

#include <algorithm>
#include <span>
#include <utility>

#include "base/check.h"
#include "sampling/random.h"

namespace sluice {

namespace {

int PagesFor(int positions, int page_size) {
  return (positions + page_size - 1) / page_size;
}

int Uncomputed(const Sequence& sequence) {
  return sequence.length() - sequence.kv_length;
}

bool IsDecoding(const Sequence& sequence) {
  return Uncomputed(sequence) == 1 && sequence.rows_between_layers == 0;
}

bool ComesBefore(const std::unique_ptr<Sequence>& a, const std::unique_ptr<Sequence>& b) {
  return std::pair(a->priority, a->turn) < std::pair(b->priority, b->turn);
}

bool Contains(const std::vector<TokenId>& tokens, TokenId token) {
  return std::find(tokens.begin(), tokens.end(), token) != tokens.end();
}

// Why `result` cannot be what a worker made of `plan`; empty if it can.
std::string Mismatch(const StepPlan& plan, const StepResult& result) {
  if (result.step != plan.step) {
    return fmt::format("the worker answered step {} with a result of step {}", plan.step,
                       result.step);
  }
  if (result.slices.size() != plan.slices.size()) {
    return fmt::format("step {} has {} slices, its result {}", plan.step, plan.slices.size(),
                       result.slices.size());
  }
  for (size_t i = 0; i < plan.slices.size(); ++i) {
    const SequenceSlice& slice = plan.slices[i];
    const SliceResult& got = result.slices[i];
    if (got.sequence != slice.sequence || got.samples.size() != slice.sample_rows.size() ||
        got.scores.size() != slice.score_rows.size()) {
      return fmt::format(
          "slice {} of step {} asked for {} samples and {} scores of sequence {}, got {} and {} of "
          "sequence {}",
          i, plan.step, slice.sample_rows.size(), slice.score_rows.size(), slice.sequence,
          got.samples.size(), got.scores.size(), got.sequence);
    }
  }
  return "";
}

// The slice in one group of layers, which samples behind the last one.
SequenceSlice CutToLayers(SequenceSlice slice, LayerGroup layers) {
  slice.layers = layers;
  if (layers.IsLast()) return slice;
  slice.sample_rows.clear();
  slice.score_rows.clear();
  slice.sample = {};
  return slice;
}

int LengthLimit(const SchedulerConfig& config) {
  const int64_t positions = int64_t{config.num_pages} * config.page_size;
  return static_cast<int>(std::min<int64_t>(config.max_model_len, positions));
}

}  // namespace

Scheduler::Scheduler(const SchedulerConfig& config, DecodeStrategy& strategy)
    : config_(config),
      length_limit_(LengthLimit(config)),
      strategy_(strategy),
      pages_(config.num_pages),
      prefixes_(pages_, config.page_size),
      host_pages_(config.num_host_pages),
      swap_policy_(config.swap_seconds_per_page),
      gathering_(config.max_num_seqs, config.prefill_layer_groups) {
  SLUICE_CHECK_GE(config.max_num_seqs, 1);
  SLUICE_CHECK_GE(config.page_size, 1);
  SLUICE_CHECK_GE(length_limit_, 2);
  SLUICE_CHECK_GE(config.prefill_layer_groups, 1);
  // Otherwise a full batch of decoding sequences would leave some out of each step.
  if (config.max_num_batched_tokens < config.max_num_seqs) {
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("max_num_batched_tokens ({}) must be at least max_num_seqs ({})",
                            config.max_num_batched_tokens, config.max_num_seqs));
  }
}

void Scheduler::CheckFits(const Request& request) const {
  if (request.prompt.empty()) {
    throw Error(ErrorCode::kInvalidArgument, "the prompt must hold at least one token, got none");
  }
  const size_t length = request.prompt.size();
  if (length < static_cast<size_t>(length_limit_)) return;
  if (length_limit_ == config_.max_model_len) {
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("the prompt has {} tokens, but the model's context is {} tokens and at "
                            "least one is needed for the answer: shorten the prompt",
                            length, config_.max_model_len));
  }
  throw Error(
      ErrorCode::kInvalidArgument,
      fmt::format("the prompt has {} tokens, but the KV cache holds {} ({} pages of {}) and "
                  "at least one is needed for the answer: shorten the prompt or start the "
                  "server with more memory for the KV cache",
                  length, length_limit_, config_.num_pages, config_.page_size));
}

void Scheduler::Add(RequestId id, const Request& request, uint64_t seed) {
  for (int index = 0; index < request.sampling.n; ++index) {
    auto sequence = std::make_unique<Sequence>();
    sequence->id = next_sequence_++;
    sequence->request = id;
    sequence->index = index;
    sequence->params = request.sampling;
    sequence->seed = index == 0 ? seed : MixSeed(seed, static_cast<uint64_t>(index));
    sequence->tokens = request.prompt;
    sequence->prompt_length = static_cast<int>(request.prompt.size());
    sequence->client = request.client;
    sequence->priority = request.priority;
    sequence->cache_salt = request.cache_salt;
    waiting_.Add(std::move(sequence));
  }
}

// As long as it lives, the sequences of a step under way are as that step will leave them.
class Scheduler::Foreseen {
 public:
  explicit Foreseen(const Flights& flights) : flights_(flights) {
    for (size_t i = 0; i < flights.size(); ++i) {
      const Flight& flight = flights[i];
      if (flight.sequence == nullptr) continue;
      flight.sequence->kv_length = flight.kv_length;
      if (flight.samples) flight.sequence->tokens.push_back(TokenDrawnBy(static_cast<int>(i)));
    }
  }
  ~Foreseen() {
    for (const Flight& flight : flights_) {
      if (flight.sequence == nullptr) continue;
      flight.sequence->kv_length = flight.kv_before;
      if (flight.samples) flight.sequence->tokens.pop_back();
    }
  }
  Foreseen(const Foreseen&) = delete;
  Foreseen& operator=(const Foreseen&) = delete;

 private:
  const Flights& flights_;
};

StepPlan Scheduler::Plan() {
  SLUICE_CHECK_LE(under_way_.size(), 1u);
  admitted_.clear();
  planned_.clear();
  StepPlan plan{.step = totals_.steps + under_way_.size() + 1};
  int budget = config_.max_num_batched_tokens;
  if (under_way_.empty()) {
    const uint64_t preemptions = totals_.preemptions;
    int lacking_pages = ShareRows();
    for (; lacking_pages > pages_.num_free(); lacking_pages = ShareRows()) PreemptLast(plan);
    PlanRows(lacking_pages, plan, budget);
    // A sequence that just gave its pages back must not take them again at once.
    if (totals_.preemptions == preemptions) Admit(plan, budget);
    SLUICE_CHECK(!plan.slices.empty() || idle());
  } else if (CanForesee(under_way_.front())) {
    const Foreseen foreseen(under_way_.front());
    // Too few pages are a reason to wait: a sequence may have some that is about to end.
    const int lacking_pages = ShareRows();
    if (lacking_pages <= pages_.num_free()) {
      PlanRows(lacking_pages, plan, budget);
      Admit(plan, budget);
    }
  }
  if (!plan.slices.empty()) under_way_.push_back(std::exchange(planned_, {}));
  return plan;
}

// Whether the step after this one depends on its tokens by nothing but their embeddings. Of rows
// between layers the one after it would have to know more.
bool Scheduler::CanForesee(const Flights& flights) const {
  return strategy_.Foreseeable() && config_.prefill_layer_groups == 1 &&
         std::none_of(flights.begin(), flights.end(), [](const Flight& flight) {
           if (flight.sequence == nullptr) return false;
           const SamplingParams& params = flight.sequence->params;
           return NeedsHistory(params) || params.prompt_logprobs;
         });
}

// Whether it needs more than one step's budget.
bool Scheduler::IsLong(const Sequence& sequence) const {
  return Uncomputed(sequence) > config_.max_num_batched_tokens;
}

// Settles how many rows each running sequence gets: one if it decodes; prompts share the rest, in
// their order. While some are between layers, no other gets any. Returns how many pages that takes
// beyond those that they have.
int Scheduler::ShareRows() {
  const bool begins = between_layers_.empty();
  shares_.assign(running_.size(), 0);
  int budget = config_.max_num_batched_tokens;
  int64_t wanted_behind = 0;
  bool any_is_long = false;
  for (size_t i = 0; i < running_.size(); ++i) {
    if (IsAtLength(*running_[i])) continue;
    if (IsDecoding(*running_[i])) {
      shares_[i] = 1;
      --budget;
    } else if (begins) {
      wanted_behind += Uncomputed(*running_[i]);
      any_is_long |= IsLong(*running_[i]);
    }
  }
  if (any_is_long) {
    if (const auto known = FindPlace()) {
      wanted_behind += waiting_.First().length() - std::ssize(*known) * config_.page_size;
    }
  }
  int lacking_pages = 0;
  for (size_t i = 0; i < running_.size(); ++i) {
    const Sequence& sequence = *running_[i];
    if (!IsDecoding(sequence) && begins) {
      const int wanted = Uncomputed(sequence);
      wanted_behind -= wanted;
      const int64_t left = IsLong(sequence) ? std::min<int64_t>(budget / 2, wanted_behind) : 0;
      shares_[i] = std::min(wanted, budget - static_cast<int>(left));
      budget -= shares_[i];
    }
    lacking_pages += PagesToReach(sequence.kv_length + shares_[i], sequence);
  }
  return lacking_pages;
}

void Scheduler::PlanRows(int lacking_pages, StepPlan& plan, int& budget) {
  plan.slices.reserve(running_.size());
  planned_.reserve(running_.size());
  PlanDecodes(pages_.num_free() - lacking_pages, plan, budget);
  prompt_layers_ = NextPromptLayers(plan);
  if (between_layers_.empty()) {
    PlanPrefills(plan, budget);
  } else {
    PlanNextLayers(plan, budget);
  }
}

// Through which layers prompts go in a step with these sequences that decode.
LayerGroup Scheduler::NextPromptLayers(const StepPlan& plan) const {
  if (!between_layers_.empty()) return {.nth = prompt_layers_.nth + 1, .of = prompt_layers_.of};
  if (plan.slices.empty()) return {};
  return {.of = config_.prefill_layer_groups};
}

// `spare_pages` are free for drafts.
void Scheduler::PlanDecodes(int spare_pages, StepPlan& plan, int& budget) {
  const auto decodes = std::count_if(running_.begin(), running_.end(),
                                     [](const auto& sequence) { return IsDecoding(*sequence); });
  // Rows for drafts: what a row for each sequence leaves, and half of it while prompts wait.
  int spare = budget - static_cast<int>(decodes);
  for (const BetweenLayers& rows : between_layers_) spare -= rows.sequence->rows_between_layers;
  if (static_cast<size_t>(decodes) < running_.size() || !waiting_.empty()) spare /= 2;
  for (const auto& running : running_) {
    Sequence& sequence = *running;
    if (!IsDecoding(sequence) || IsAtLength(sequence)) continue;
    GrowPages(sequence.kv_length + 1, sequence);
    const int64_t room =
        Capacity(sequence) + int64_t{spare_pages} * config_.page_size - sequence.kv_length;
    const int64_t wanted = 1 + std::min(spare, DraftLimit(sequence));
    StepDemand demand = strategy_.Demand(sequence, static_cast<int>(std::min(wanted, room)));
    spare -= static_cast<int>(demand.tokens.size()) - 1;
    spare_pages -= PagesToReach(demand.kv_length, sequence);
    GrowPages(demand.kv_length, sequence);
    AddSlice(sequence, MakeSlice(sequence, std::move(demand)), plan, budget);
  }
}

void Scheduler::PlanPrefills(StepPlan& plan, int& budget) {
  for (size_t i = 0; i < running_.size(); ++i) {
    Sequence& sequence = *running_[i];
    const int rows = std::min(budget, shares_[i]);  // drafts may have taken some
    if (IsDecoding(sequence) || rows == 0) continue;
    AddPrefill(sequence, rows, plan, budget);
  }
}

void Scheduler::PlanNextLayers(StepPlan& plan, int& budget) {
  for (const BetweenLayers& rows : between_layers_) {
    AddSlice(*rows.sequence, CutToLayers(rows.slice, prompt_layers_), plan, budget);
  }
  if (!prompt_layers_.IsLast()) return;
  for (const BetweenLayers& rows : between_layers_) rows.sequence->rows_between_layers = 0;
  between_layers_.clear();
}

void Scheduler::Admit(StepPlan& plan, int& budget) {
  if (waiting_.empty()) gathering_.Reset();
  while (budget > 0 && prompt_layers_.nth == 0) {
    std::optional<PageList> known = FindPlace();
    if (!known) return;
    if (PutsPromptsOff()) {
      ++totals_.steps_put_off;
      return;
    }
    gathering_.Reset();
    const bool is_new = waiting_.First().turn == 0;
    std::unique_ptr<Sequence> taken = waiting_.TakeFirst();
    Sequence& sequence = *taken;
    running_.insert(std::upper_bound(running_.begin(), running_.end(), taken, ComesBefore),
                    std::move(taken));
    sequence.pages = *std::move(known);
    sequence.num_sealed = sequence.pages.size();
    sequence.kv_length = Capacity(sequence);
    SwapIn(sequence, plan);
    if (is_new) CountAdmission(sequence);
    AddPrefill(sequence, std::min(budget, Uncomputed(sequence)), plan, budget);
  }
}

// Whether those that have a place had better begin in a later step, with others. Not where nobody
// decodes whom that would spare, nor where prompts go through the layers in this step anyway; and
// nobody waits who goes on with an answer, or for others that are less urgent.
bool Scheduler::PutsPromptsOff() {
  if (prompt_layers_.IsAll() || !between_layers_.empty()) return false;
  const Sequence& first = waiting_.First();
  if (first.turn > 0 || first.priority < running_.back()->priority) return false;
  const int64_t free = config_.max_num_seqs - std::ssize(running_);
  int64_t as_urgent = 0;
  waiting_.ForEach(
      [&](const Sequence& waiting) { as_urgent += waiting.priority == first.priority; });
  if (as_urgent <= free) return false;
  int steps_to_end = length_limit_;
  for (const auto& sequence : running_) {
    steps_to_end = std::min(steps_to_end, TokensLeft(*sequence));
  }
  return gathering_.PutOff(static_cast<int>(free), steps_to_end);
}

// The pages that are known of the first that waits, if there is a place for it, room for all of it
// and its next token, and a page for each running sequence to grow into: to admit earlier would
// soon mean to preempt.
std::optional<PageList> Scheduler::FindPlace() {
  if (waiting_.empty() || std::ssize(running_) >= config_.max_num_seqs) return std::nullopt;
  if (pages_.num_free() <= std::ssize(running_)) return std::nullopt;
  const Sequence& first = waiting_.First();
  // Whether the step that swaps it out goes well is not known yet.
  if (first.swap_step > totals_.steps) return std::nullopt;
  PageList known = KnownPages(first);
  const auto needed = PagesFor(first.length() + 1, config_.page_size) - std::ssize(known);
  if (pages_.num_free() < needed + std::ssize(running_)) return std::nullopt;
  return known;
}

// What the prefix cache has of the sequence, but for the rows whose logits are needed: the last
// one, and those that are to be scored.
PageList Scheduler::KnownPages(const Sequence& sequence) {
  if (!config_.enable_prefix_caching) return {};
  int needless = sequence.length() - 1;
  if (sequence.params.prompt_logprobs && sequence.num_scored + 1 < sequence.prompt_length) {
    needless = sequence.num_scored;
  }
  const std::span<const TokenId> tokens(sequence.tokens);
  return prefixes_.Find(sequence.cache_salt, tokens.first(static_cast<size_t>(needless)));
}

void Scheduler::CountAdmission(Sequence& sequence) {
  admitted_.push_back({sequence.request, sequence.index});
  if (!config_.enable_prefix_caching || sequence.params.prompt_logprobs) return;
  sequence.cached_tokens = sequence.kv_length;
  totals_.prefix_queries += static_cast<uint64_t>(sequence.prompt_length);
  totals_.prefix_hits += static_cast<uint64_t>(sequence.cached_tokens);
}

// How many tokens it may still get.
int Scheduler::TokensLeft(const Sequence& sequence) const {
  const int by_length = length_limit_ - sequence.length();
  const int by_tokens = sequence.params.max_tokens - sequence.num_generated();
  return std::max(0, std::min(by_length, by_tokens));
}

// How many drafts could be committed beside the next token.
int Scheduler::DraftLimit(const Sequence& sequence) const {
  return std::max(0, TokensLeft(sequence) - 1);
}

int Scheduler::Capacity(const Sequence& sequence) const {
  return static_cast<int>(sequence.pages.size()) * config_.page_size;
}

// How many more pages it needs until positions [0, kv_length) have some.
int Scheduler::PagesToReach(int kv_length, const Sequence& sequence) const {
  const int needed = PagesFor(kv_length, config_.page_size);
  return std::max(0, needed - static_cast<int>(sequence.pages.size()));
}

// There are enough free ones.
void Scheduler::GrowPages(int kv_length, Sequence& sequence) {
  for (int missing = PagesToReach(kv_length, sequence); missing > 0; --missing) {
    PageHandle page = pages_.Allocate();
    SLUICE_CHECK(page.valid());
    sequence.pages.push_back(std::move(page));
  }
}

void Scheduler::GivePagesBack(Sequence& sequence) {
  sequence.pages.clear();
  sequence.num_sealed = 0;
  sequence.kv_length = 0;
  sequence.rows_between_layers = 0;
}

// How many of its first pages stay known when it gives its own back.
int Scheduler::PagesHeldByOthers(const Sequence& sequence) const {
  size_t held = 0;
  while (held < sequence.num_sealed && pages_.shares(sequence.pages[held]) > 1) ++held;
  return static_cast<int>(held);
}

void Scheduler::PreemptLast(StepPlan& plan) {
  SLUICE_CHECK(under_way_.empty() && planned_.empty());
  SLUICE_CHECK_GE(running_.size(), 2u);  // one alone has room
  Sequence& victim = *running_.back();
  const int pages = PagesFor(victim.kv_length, config_.page_size);
  const int known = PagesHeldByOthers(victim);
  if (pages <= host_pages_.num_free() &&
      swap_policy_.SwapIsCheaper(pages, pages - known,
                                 victim.kv_length - known * config_.page_size)) {
    SwapOut(victim, plan);
  }
  LeaveLayers(victim);
  GivePagesBack(victim);
  waiting_.PutBack(std::move(running_.back()));
  running_.pop_back();
  ++totals_.preemptions;
}

// Has the step copy the sequence's pages before anybody writes to them.
void Scheduler::SwapOut(Sequence& sequence, StepPlan& plan) {
  const int pages = PagesFor(sequence.kv_length, config_.page_size);
  for (int nth = 0; nth < pages; ++nth) {
    sequence.host_pages.push_back(host_pages_.Allocate());
    plan.swap_out.push_back({sequence.pages[nth], sequence.host_pages.back().id()});
  }
  sequence.swapped_length = sequence.kv_length;
  sequence.swap_step = plan.step;
  totals_.pages_swapped_out += static_cast<uint64_t>(pages);
}

// Has the step bring back what was swapped out. The host's pages are free again at once: what goes
// to them next is copied in a later step, since none swaps both ways.
void Scheduler::SwapIn(Sequence& sequence, StepPlan& plan) {
  if (sequence.swapped_length == 0) return;
  SLUICE_CHECK(plan.swap_out.empty());
  const size_t held = sequence.pages.size();  // with their contents
  GrowPages(sequence.swapped_length, sequence);
  for (size_t nth = held; nth < sequence.host_pages.size(); ++nth) {
    plan.swap_in.push_back({sequence.host_pages[nth].id(), sequence.pages[nth]});
    ++totals_.pages_swapped_in;
  }
  sequence.kv_length = std::max(sequence.kv_length, sequence.swapped_length);
  DropSwapped(sequence);
}

void Scheduler::DropSwapped(Sequence& sequence) {
  sequence.host_pages.clear();
  sequence.swapped_length = 0;
}

SequenceSlice Scheduler::MakeSlice(const Sequence& sequence, StepDemand demand) const {
  SLUICE_CHECK_LE(demand.kv_length, Capacity(sequence));
  SequenceSlice slice = {.sequence = sequence.id,
                         .tokens = std::move(demand.tokens),
                         .positions = std::move(demand.positions),
                         .kv_positions = std::move(demand.kv_positions),
                         .pages = sequence.pages.ids(),
                         .kv_length = demand.kv_length,
                         .mask = demand.mask,
                         .ancestors = std::move(demand.ancestors),
                         .sample_rows = std::move(demand.sample_rows)};
  AddScoring(sequence, slice);
  AddSampling(sequence, slice);
  return slice;
}

void Scheduler::AddSlice(Sequence& sequence, SequenceSlice slice, StepPlan& plan, int& budget) {
  SLUICE_CHECK_LE(static_cast<int>(slice.tokens.size()), budget);
  budget -= static_cast<int>(slice.tokens.size());
  planned_.push_back({.sequence = &sequence,
                      .kv_before = sequence.kv_length,
                      .kv_length = slice.kv_length,
                      .samples = !slice.sample_rows.empty()});
  plan.slices.push_back(std::move(slice));
}

// So many of the sequence's next rows, in the layers that prompts go through in this step.
void Scheduler::AddPrefill(Sequence& sequence, int rows, StepPlan& plan, int& budget) {
  GrowPages(sequence.kv_length + rows, sequence);
  SequenceSlice slice = MakeSlice(sequence, strategy_.Demand(sequence, rows));
  if (!prompt_layers_.IsLast()) {
    sequence.rows_between_layers = static_cast<int>(slice.tokens.size());
    between_layers_.push_back({&sequence, slice});
  }
  AddSlice(sequence, CutToLayers(std::move(slice), prompt_layers_), plan, budget);
}

// Its rows between layers are not wanted any more.
void Scheduler::LeaveLayers(const Sequence& sequence) {
  std::erase_if(between_layers_,
                [&](const BetweenLayers& rows) { return rows.sequence == &sequence; });
}

void Scheduler::AddScoring(const Sequence& sequence, SequenceSlice& slice) const {
  if (!sequence.params.prompt_logprobs) return;
  for (size_t row = 0; row < slice.positions.size(); ++row) {
    // The row at position p scores prompt token p + 1, which is the p-th scored one.
    const int position = slice.positions[row];
    if (position < sequence.num_scored || position + 1 >= sequence.prompt_length) continue;
    slice.score_rows.push_back({static_cast<int32_t>(row), sequence.tokens[position + 1]});
  }
}

void Scheduler::AddSampling(const Sequence& sequence, SequenceSlice& slice) const {
  if (slice.sample_rows.empty() && slice.score_rows.empty()) return;
  SampleContext& context = slice.sample;
  context.params = sequence.params;
  context.seed = sequence.seed;
  context.prompt_length = sequence.prompt_length;
  context.generated = sequence.num_generated();
  if (slice.sample_rows.empty()) return;
  if (NeedsHistory(sequence.params)) context.history = sequence.tokens;
  if (context.generated < sequence.params.min_tokens) {
    context.end_ids = config_.eos_ids;
    const auto& stops = sequence.params.stop_token_ids;
    context.end_ids.insert(context.end_ids.end(), stops.begin(), stops.end());
  }
}

void Scheduler::ObserveStep(const StepPlan& plan, double seconds) {
  swap_policy_.Observe(plan.NumWholeTokens(), seconds);
  // Where prompts go in layer groups, one step is planned at a time, so this is the last one; and
  // sequences that decode come first in it.
  if (prompt_layers_.IsAll() || !plan.slices.front().layers.IsAll()) return;
  gathering_.Observe(!plan.slices.back().layers.IsAll(), seconds);
}

std::vector<SequenceReport> Scheduler::Commit(const StepPlan& plan, const StepResult& result) {
  SLUICE_CHECK(!under_way_.empty());
  const Flights flights = std::move(under_way_.front());
  under_way_.pop_front();
  SLUICE_CHECK_EQ(flights.size(), plan.slices.size());
  ++totals_.steps;
  const std::string error = result.error.empty() ? Mismatch(plan, result) : result.error;
  if (!error.empty() && !plan.swap_out.empty()) {
    waiting_.ForEach([&](Sequence& sequence) {
      if (sequence.swap_step == plan.step) DropSwapped(sequence);
    });
  }
  std::vector<SequenceReport> reports;
  reports.reserve(flights.size());
  for (size_t i = 0; i < flights.size(); ++i) {
    if (flights[i].sequence == nullptr) continue;
    Sequence& sequence = *flights[i].sequence;
    Output output{.index = sequence.index};
    const std::string& failure = error.empty() ? result.slices[i].error : error;
    if (failure.empty()) {
      output = CommitSlice(sequence, plan.slices[i], result.slices[i]);
    } else {
      sequence.finish = FinishReason::kError;
      output.error = failure;
    }
    output.finish = sequence.finish;
    if (!output.tokens.empty() || output.finish) {
      reports.push_back({sequence.request, std::move(output)});
    }
  }
  RemoveFinished();
  return reports;
}

Output Scheduler::CommitSlice(Sequence& sequence, const SequenceSlice& slice,
                              const SliceResult& result) {
  Output output{.index = sequence.index};
  if (!slice.layers.IsLast()) return output;
  StepOutcome outcome = strategy_.Accept(sequence, slice, result);
  sequence.num_scored += static_cast<int>(result.scores.size());
  sequence.prompt_scores.insert(sequence.prompt_scores.end(), result.scores.begin(),
                                result.scores.end());
  if (sequence.num_generated() == 0 && !outcome.committed.empty()) {
    output.prompt = std::exchange(sequence.prompt_scores, {});
    output.cached_tokens = sequence.cached_tokens;
    totals_.prompt_tokens += static_cast<uint64_t>(sequence.prompt_length);
    totals_.prompt_tokens_cached += static_cast<uint64_t>(sequence.cached_tokens);
  }
  output.tokens = std::move(outcome.committed);
  for (size_t i = 0; i < output.tokens.size(); ++i) {
    sequence.tokens.push_back(output.tokens[i].token);
    sequence.finish = FinishOf(sequence);
    if (sequence.finish) output.tokens.resize(i + 1);
  }
  totals_.generation_tokens += output.tokens.size();
  sequence.kv_length = outcome.kv_length;
  if (sequence.kv_length < slice.kv_length) {
    SLUICE_CHECK(under_way_.empty());  // a later step was planned with all of them
    sequence.pages.Truncate(static_cast<size_t>(PagesFor(sequence.kv_length, config_.page_size)));
  }
  SealPages(sequence);
  return output;
}

// Seals the pages that the committed tokens fill. What a step under way still reads of a page that
// another takes the place of is there: whoever gets it writes to it in a step after that.
void Scheduler::SealPages(Sequence& sequence) {
  if (!config_.enable_prefix_caching) return;
  const auto page_size = static_cast<size_t>(config_.page_size);
  // Drafts behind a token that ended the sequence have keys and values too.
  const int committed = std::min(sequence.kv_length, sequence.length());
  const size_t full = static_cast<size_t>(committed) / page_size;
  const std::span<const TokenId> tokens(sequence.tokens);
  for (; sequence.num_sealed < full; ++sequence.num_sealed) {
    const size_t nth = sequence.num_sealed;
    prefixes_.Seal(sequence.cache_salt, tokens.subspan(nth * page_size, page_size), sequence.pages,
                   nth);
  }
}

// Whether the sequence ends with its last token, in vLLM's order of reasons.
std::optional<FinishReason> Scheduler::FinishOf(const Sequence& sequence) const {
  const SamplingParams& params = sequence.params;
  const TokenId last = sequence.tokens.back();
  if (sequence.num_generated() > params.min_tokens) {
    if (!params.ignore_eos && Contains(config_.eos_ids, last)) return FinishReason::kStop;
    if (Contains(params.stop_token_ids, last)) return FinishReason::kStop;
  }
  if (IsAtLength(sequence)) return FinishReason::kLength;
  return std::nullopt;
}

// Running sequences are not, but for those that the step under way brings there.
bool Scheduler::IsAtLength(const Sequence& sequence) const {
  return TokensLeft(sequence) == 0;
}

// Before a sequence goes.
void Scheduler::Forget(const Sequence& sequence) {
  strategy_.Forget(sequence.id);
  LeaveLayers(sequence);
  for (Flights& flights : under_way_) {
    for (Flight& flight : flights) {
      if (flight.sequence == &sequence) flight.sequence = nullptr;
    }
  }
}

void Scheduler::RemoveFinished() {
  std::erase_if(running_, [this](const std::unique_ptr<Sequence>& sequence) {
    if (!sequence->finish) return false;
    waiting_.Leave(*sequence);
    Forget(*sequence);
    return true;
  });
}

std::vector<SequenceReport> Scheduler::End(RequestId request, FinishReason reason,
                                           const std::string& error) {
  return EndWhere([=](const Sequence& sequence) { return sequence.request == request; }, reason,
                  error);
}

std::vector<SequenceReport> Scheduler::EndSequence(RequestId request, int index,
                                                   FinishReason reason) {
  return EndWhere(
      [=](const Sequence& sequence) {
        return sequence.request == request && sequence.index == index;
      },
      reason, "");
}

std::vector<SequenceReport> Scheduler::EndAll(FinishReason reason, const std::string& error) {
  return EndWhere([](const Sequence&) { return true; }, reason, error);
}

std::vector<SequenceReport> Scheduler::EndWhere(const std::function<bool(const Sequence&)>& matches,
                                                FinishReason reason, const std::string& error) {
  std::vector<SequenceReport> reports;
  const auto end = [&](const Sequence& sequence) {
    Forget(sequence);
    reports.push_back(
        {sequence.request, {.index = sequence.index, .finish = reason, .error = error}});
  };
  std::erase_if(running_, [&](const std::unique_ptr<Sequence>& sequence) {
    if (!matches(*sequence)) return false;
    waiting_.Leave(*sequence);
    end(*sequence);
    return true;
  });
  for (const auto& sequence : waiting_.TakeWhere(matches)) end(*sequence);
  return reports;
}

void Scheduler::ForgetPages() {
  SLUICE_CHECK(idle());
  prefixes_.Clear();
}

EngineStats Scheduler::Stats() const {
  EngineStats stats = totals_;
  stats.prefix_evictions = prefixes_.evictions();
  stats.running = static_cast<int>(running_.size());
  stats.waiting = static_cast<int>(waiting_.size());
  stats.pages_total = pages_.num_pages();
  stats.pages_used = pages_.num_pages() - pages_.num_free();
  return stats;
}

}  // namespace sluice
