#include "fake_worker.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>
#include <stdexcept>

namespace sluice::sim {

namespace {

uint64_t Mix(uint64_t hash, uint64_t value) {
  hash ^= value + 0x9E3779B97F4A7C15ull + (hash << 6) + (hash >> 2);
  hash *= 0xBF58476D1CE4E5B9ull;
  return hash ^ (hash >> 31);
}

template <class... Args>
void Require(bool holds, fmt::format_string<Args...> message, Args&&... args) {
  if (!holds) throw std::runtime_error(fmt::format(message, std::forward<Args>(args)...));
}

uint64_t Next(uint64_t prefix_hash, TokenId token) {
  return Mix(prefix_hash, static_cast<uint64_t>(token));
}

TokenId Draw(uint64_t prefix_hash, TokenId last, uint64_t seed, int vocab_size) {
  const uint64_t whole = Mix(prefix_hash, seed);
  const uint64_t chosen = whole % 8 == 0 ? whole / 8 : Mix(17, static_cast<uint64_t>(last));
  return static_cast<TokenId>(chosen % static_cast<uint64_t>(vocab_size));
}

}  // namespace

TokenId NextToken(std::span<const TokenId> history, uint64_t seed, int vocab_size) {
  uint64_t hash = 0;
  for (TokenId token : history) hash = Next(hash, token);
  return Draw(hash, history.back(), seed, vocab_size);
}

FakeWorker::FakeWorker(const WorkerInfo& info, int max_num_seqs, int max_num_batched_tokens)
    : info_(info),
      max_num_seqs_(max_num_seqs),
      max_num_batched_tokens_(max_num_batched_tokens),
      slots_(static_cast<size_t>(info.num_pages) * static_cast<size_t>(info.page_size)),
      host_slots_(static_cast<size_t>(info.num_host_pages) * static_cast<size_t>(info.page_size)) {}

StepResult FakeWorker::Run(const StepPlan& plan) {
  ++steps_;
  CheckBatch(plan);
  CheckLayers(plan);
  if (before_step) before_step(plan);
  Swap(plan);
  StepResult result{.step = plan.step, .slices = {}, .error = ""};
  for (const SequenceSlice& slice : plan.slices) {
    CheckSlice(slice);
    result.slices.push_back(RunSlice(slice));
  }
  return result;
}

void FakeWorker::Swap(const StepPlan& plan) {
  const auto copy = [&](const std::vector<Slot>& source, std::vector<Slot>& target,
                        const PageCopy& page) {
    for (int i = 0; i < info_.page_size; ++i) {
      target.at(static_cast<size_t>(page.to * info_.page_size + i)) =
          source.at(static_cast<size_t>(page.from * info_.page_size + i));
    }
  };
  for (const PageCopy& page : plan.swap_out) copy(slots_, host_slots_, page);
  for (const PageCopy& page : plan.swap_in) copy(host_slots_, slots_, page);
}

void FakeWorker::CheckBatch(const StepPlan& plan) const {
  Require(!plan.slices.empty(), "step {} is empty", plan.step);
  Require(plan.slices.size() <= static_cast<size_t>(max_num_seqs_), "{} sequences in a step of {}",
          plan.slices.size(), max_num_seqs_);
  std::set<SequenceId> sequences;
  std::set<int32_t> read;
  std::set<int32_t> written;
  size_t rows = 0;
  for (const SequenceSlice& slice : plan.slices) {
    rows += slice.tokens.size();
    Require(sequences.insert(slice.sequence).second, "sequence {} twice in step {}", slice.sequence,
            plan.step);
    for (size_t i = 0; i < slice.pages.size(); ++i) {
      const int32_t page = slice.pages[i];
      Require(page >= 0 && page < info_.num_pages, "page {} of {}", page, info_.num_pages);
      const int end = static_cast<int>(i + 1) * info_.page_size;
      const bool writes = !slice.kv_positions.empty() && slice.kv_positions.front() < end;
      const bool fresh = writes ? written.insert(page).second : written.count(page) == 0;
      Require(fresh && !(writes && read.count(page) > 0),
              "page {} is written to and used by another sequence in step {}", page, plan.step);
      if (!writes) read.insert(page);
    }
  }
  Require(rows <= static_cast<size_t>(max_num_batched_tokens_), "{} rows in a step of {}", rows,
          max_num_batched_tokens_);
}

// That rows go from one layer group to the next, all of a step in the same one, and nobody else
// begins meanwhile.
void FakeWorker::CheckLayers(const StepPlan& plan) {
  std::vector<SequenceSlice> left;
  auto before = between_layers_.begin();
  const SequenceSlice* first = nullptr;
  bool decodes = true;  // whoever is in all layers
  for (const SequenceSlice& slice : plan.slices) {
    const LayerGroup& layers = slice.layers;
    Require(0 <= layers.nth && layers.nth < layers.of, "group {} of {}", layers.nth, layers.of);
    if (layers.IsAll()) {
      Require(first == nullptr, "sequence {} is behind rows in some layers", slice.sequence);
      decodes = decodes && slice.sample_rows.size() == slice.tokens.size();
      continue;
    }
    if (first == nullptr) first = &slice;
    Require(layers == first->layers, "sequence {} is in another group", slice.sequence);
    if (layers.nth > 0) {
      while (before != between_layers_.end() && before->sequence != slice.sequence) ++before;
      Require(before != between_layers_.end(), "sequence {} has not been through group {}",
              slice.sequence, layers.nth - 1);
      Require(before->layers.nth + 1 == layers.nth && before->layers.of == layers.of &&
                  before->tokens == slice.tokens && before->positions == slice.positions &&
                  before->pages == slice.pages,
              "sequence {} goes on with other rows", slice.sequence);
    }
    Require(layers.IsLast() || (slice.sample_rows.empty() && slice.score_rows.empty()),
            "sequence {} is sampled between layers", slice.sequence);
    if (!layers.IsLast()) left.push_back(slice);
  }
  Require(decodes || first == nullptr, "step {}: a prompt goes past others between layers",
          plan.step);
  between_layers_ = std::move(left);
  if (!between_layers_.empty()) ++steps_between_layers_;
}

void FakeWorker::CheckSlice(const SequenceSlice& slice) const {
  const size_t rows = slice.tokens.size();
  Require(rows > 0 && slice.positions.size() == rows && slice.kv_positions.size() == rows,
          "sequence {}: {} tokens, {} positions", slice.sequence, rows, slice.positions.size());
  for (size_t row = 0; row < rows; ++row) {
    Require(slice.positions[row] == slice.positions[0] + static_cast<int>(row) &&
                slice.kv_positions[row] == slice.positions[row],
            "sequence {}: row {} is at position {}", slice.sequence, row, slice.positions[row]);
  }
  Require(slice.kv_length == slice.positions.back() + 1, "sequence {}: kv_length {} after {}",
          slice.sequence, slice.kv_length, slice.positions.back());
  Require(slice.kv_length <= info_.max_model_len, "sequence {}: position {} past the context",
          slice.sequence, slice.kv_length - 1);
  const int covered = static_cast<int>(slice.pages.size()) * info_.page_size;
  Require(slice.kv_length <= covered && slice.kv_length > covered - info_.page_size,
          "sequence {}: {} pages for {} positions", slice.sequence, slice.pages.size(),
          slice.kv_length);
}

FakeWorker::Slot& FakeWorker::At(const SequenceSlice& slice, int position) {
  const int page = slice.pages[static_cast<size_t>(position / info_.page_size)];
  return slots_[static_cast<size_t>(page * info_.page_size + position % info_.page_size)];
}

const FakeWorker::Slot& FakeWorker::At(const SequenceSlice& slice, int position) const {
  return const_cast<FakeWorker*>(this)->At(slice, position);
}

std::string FakeWorker::SaltOf(const SequenceSlice& slice) const {
  return salt_of ? salt_of(slice.sequence) : "";
}

// The tokens of positions [0, length), read from the slots and checked on the way.
std::vector<TokenId> FakeWorker::ReadHistory(const SequenceSlice& slice, int length) const {
  std::vector<TokenId> history;
  uint64_t hash = 0;
  for (int position = 0; position < length; ++position) {
    const Slot& slot = At(slice, position);
    Require(slot.position == position, "sequence {} reads position {} and finds position {}",
            slice.sequence, position, slot.position);
    Require(slot.salt == SaltOf(slice), "sequence {} reads position {} of another salt",
            slice.sequence, position);
    hash = Next(hash, slot.token);
    Require(slot.prefix_hash == hash, "sequence {}: stale content at position {}", slice.sequence,
            position);
    history.push_back(slot.token);
  }
  return history;
}

// That the sequence finds the text that it wrote itself, where it did.
void FakeWorker::CheckHistory(const SequenceSlice& slice, uint64_t hash) const {
  const auto own = own_rows_.find(slice.sequence);
  const auto last = static_cast<size_t>(slice.positions[0]) - 1;
  if (own == own_rows_.end() || last >= own->second.size() || own->second[last] == 0) return;
  Require(own->second[last] == hash, "sequence {} reads another text than it wrote up to {}",
          slice.sequence, last);
}

SliceResult FakeWorker::RunSlice(const SequenceSlice& slice) {
  rows_ += slice.tokens.size();
  SliceResult result{.sequence = slice.sequence, .samples = {}, .scores = {}};
  std::vector<TokenId> history = ReadHistory(slice, slice.positions[0]);
  uint64_t hash = history.empty() ? 0 : At(slice, slice.positions[0] - 1).prefix_hash;
  if (!history.empty()) CheckHistory(slice, hash);
  if (!slice.layers.IsLast()) {
    for (const int position : slice.positions) At(slice, position) = {};
    return result;
  }
  std::vector<uint64_t>& own_rows = own_rows_[slice.sequence];
  own_rows.resize(std::max(own_rows.size(), static_cast<size_t>(slice.kv_length)));
  size_t next_sample = 0;
  size_t next_score = 0;
  for (size_t row = 0; row < slice.tokens.size(); ++row) {
    const TokenId token = slice.tokens[row];
    hash = Next(hash, token);
    const int position = slice.positions[row];
    At(slice, position) = {SaltOf(slice), position, token, hash};
    own_rows[static_cast<size_t>(position)] = hash;
    history.push_back(token);
    if (next_score < slice.score_rows.size() &&
        slice.score_rows[next_score].row == static_cast<int>(row)) {
      const TokenId target = slice.score_rows[next_score++].target;
      // The position stands in for the logprob, so that a test sees each scored once, in order.
      result.scores.push_back({.token = target, .logprob = static_cast<float>(position)});
    }
    if (next_sample == slice.sample_rows.size() ||
        slice.sample_rows[next_sample] != static_cast<int>(row)) {
      continue;
    }
    const SampleContext context = slice.ContextOfSample(static_cast<int>(next_sample++));
    Require(context.prompt_length + context.generated == position + 1,
            "sequence {}: samples output {} at position {}", slice.sequence, context.generated,
            position);
    Require(context.history.empty() || context.history == history,
            "sequence {}: the sampler's history differs at position {}", slice.sequence, position);
    result.samples.push_back({.token = Draw(hash, token, context.seed, info_.vocab_size)});
  }
  return result;
}

}  // namespace sluice::sim
