#include "engine/model_runner.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <deque>
#include <mutex>
#include <utility>
#include <vector>

#include "base/check.h"
#include "ops/attention/attention.h"
#include "ops/common/upload.h"

namespace sluice {
namespace {

ops::AttentionMask MaskOf(const ModelSpec& spec, StepMask mask) {
  return mask == StepMask::kTree ? ops::AttentionMask::kTree : spec.attention.mask;
}

MemoryKind MemoryOf(const RunnerOptions& options) {
  return options.cuda.has_value() ? MemoryKind::kCuda : MemoryKind::kHost;
}

// Adds up what loading threads read. Copies share the count.
OnBytesRead CountBytes(int64_t total, const LoadProgress& progress) {
  if (!progress) return {};
  struct Count {
    std::mutex mutex;
    int64_t done = 0;
  };
  return [count = std::make_shared<Count>(), total, progress](int64_t bytes) {
    std::lock_guard lock(count->mutex);
    if (count->done >= total) return;  // loaded: experts that are read again later are no progress
    count->done = std::min(total, count->done + bytes);
    progress(count->done, total);
  };
}

// Of weights that are read before a step can run: all but the experts of other ranks, those that
// are read when they are needed, and what is in memory already.
int64_t BytesToLoad(const ModelSpec& spec, const RunnerOptions& options) {
  const MoeSpec& moe = spec.moe;
  const auto layers = static_cast<int64_t>(MoeLayers(spec).size());
  const int64_t here = layers * (moe.num_experts == 0 ? 0 : LocalExperts(spec, options));
  int64_t held = here;
  if (options.expert_slots > 0 && options.expert_slots < here) {
    const bool fills_host = options.offload.shared_host == nullptr;
    held = fills_host ? std::min<int64_t>(here, options.offload.host_slots) : 0;
  }
  const int64_t expert =
      int64_t{3} * spec.hidden_size * moe.expert_ffn * static_cast<int64_t>(SizeOf(options.dtype));
  if (options.shared_weights != nullptr) return held * expert;
  return static_cast<int64_t>(WeightBytes(spec, options.dtype)) -
         (layers * moe.num_experts - held) * expert;
}

// Whose graphs are kept. Where experts are streamed each layer has one.
constexpr size_t kMostShapes = 128;
constexpr size_t kMostStreamedShapes = 16;

}  // namespace

ModelRunner::ModelRunner(const ModelSpec& spec, const WeightSource& source,
                         const RunnerOptions& options, std::unique_ptr<RoutingSource> routing,
                         const LoadProgress& progress)
    : spec_(spec),
      options_(options),
      pool_(options.num_threads),
      stream_(options.cuda.has_value() ? std::make_unique<CudaStream>(*options.cuda) : nullptr),
      arena_(MemoryOf(options)),
      staging_(MemoryKind::kPinned),
      routing_(std::move(routing)),
      graphs_(options.expert_slots > 0 ? kMostStreamedShapes : kMostShapes),
      rows_(std::make_unique<Rows>()) {
  SLUICE_CHECK(routing_ != nullptr);
  SLUICE_CHECK_GE(options_.num_pages, 1);
  SLUICE_CHECK_LE(options_.max_model_len, spec_.max_positions);
  Validate(spec_);
  const MemoryNeeds needs = EstimateMemory(spec_, options_);
  CheckFits(spec_, options_, needs);
  if (stream_ != nullptr) PrepareDevice(needs);

  const OnBytesRead on_read = CountBytes(BytesToLoad(spec_, options_), progress);
  weights_ = options_.shared_weights;
  if (weights_ == nullptr) {
    own_weights_ = std::make_unique<ModelWeights>(spec_, source, options_.dtype, pool_, on_read,
                                                  stream_.get());
    weights_ = own_weights_.get();
  }
  moe_layers_ = MoeLayers(spec_);
  if (!moe_layers_.empty()) PrepareExperts(source, on_read);
  pages_ = std::make_unique<PagePool>(KvLayoutOf(spec_, options_), options_.num_pages,
                                      MemoryOf(options_));
  if (options_.num_host_pages > 0) PrepareSwapping();
  decoder_ = std::make_unique<Decoder>(spec_, *weights_);
  if (RunsLayerGroups(options_)) {
    SLUICE_CHECK_LE(options_.offload.prefill_layer_groups, spec_.num_layers);
    hidden_between_ =
        Tensor(DType::kF32, {options_.max_step_rows, spec_.hidden_size}, MemoryOf(options_));
  }
}

ModelRunner::~ModelRunner() = default;

void ModelRunner::TakePages() {
  pages_->TakeMemory(pool_);
}

void ModelRunner::PrepareExperts(const WeightSource& source, const OnBytesRead& on_read) {
  const OffloadOptions& offload = options_.offload;
  const ExpertLayout layout = ExpertLayoutOf(spec_, options_.dtype);
  ProcessGroup* group = options_.expert_parallel;
  const int local = LocalExperts(spec_, options_);
  const ExpertSet experts(moe_layers_, local, group == nullptr ? 0 : group->rank() * local);
  expert_source_ = std::make_unique<CheckpointExperts>(spec_, source, on_read);
  HostExperts* host = nullptr;
  const bool all_have_slots = options_.expert_slots == 0 || options_.expert_slots >= experts.size();
  if (!all_have_slots) {
    if (group != nullptr) {
      throw Error(ErrorCode::kUnsupported,
                  "with expert parallelism every expert needs a slot on its rank: leave the "
                  "expert slots out");
    }
    host = offload.shared_host;
    if (host == nullptr && offload.host_slots > 0) {
      host_experts_ = std::make_unique<HostExperts>(
          layout, experts,
          HostExperts::Options{
              .num_slots = offload.host_slots,
              .memory = stream_ != nullptr ? MemoryKind::kPinned : MemoryKind::kHost},
          *expert_source_, pool_);
      host = host_experts_.get();
    }
    if (host != nullptr) {
      link_ = stream_ != nullptr ? MakeCudaLink(*stream_, options_.timeline)
                                 : MakeThreadLink(offload.link, options_.timeline);
    }
  }
  experts_ = std::make_unique<ExpertStore>(
      layout,
      ExpertStore::Options{.experts = experts,
                           .num_slots = all_have_slots ? 0 : options_.expert_slots,
                           .poison_freed = options_.poison_freed_slots,
                           .memory = MemoryOf(options_),
                           .stream = stream_.get(),
                           .link = link_.get(),
                           .host = host,
                           .eviction = offload.eviction},
      *expert_source_, pool_);
  if (!all_have_slots && offload.streaming.cpu_experts && host != nullptr) {
    cpu_share_ = std::make_unique<CpuShare>(*experts_, pool_,
                                            CpuShare::Options{.tier = options_.tier,
                                                              .top_k = spec_.moe.top_k,
                                                              .beside_device = stream_ != nullptr,
                                                              .timeline = options_.timeline});
  }
  if (!all_have_slots) {
    streamed_ = std::make_unique<StreamedExperts>(
        *experts_, StreamedExperts::Options{.streaming = offload.streaming,
                                            .top_k = spec_.moe.top_k,
                                            .cpu_share = cpu_share_.get(),
                                            .timeline = options_.timeline});
  }
  dispatcher_ = group == nullptr ? MakeLocalDispatcher(spec_.moe.num_experts)
                                 : MakeAllToAllDispatcher(spec_.moe.num_experts, *group);
}

// What a step takes of the device, before the weights come: what is left over is theirs.
void ModelRunner::PrepareDevice(const MemoryNeeds& needs) {
  stream_->SetBlocking(options_.blocking_launches);
  free_at_start_ = CudaFreeBytes(stream_->device().ordinal);
  arena_.Reserve(needs.arena_bytes);
  inbox_ = std::make_unique<ops::Inbox>(*stream_, ops::Inbox::Sends::kTogether, needs.inbox_bytes);
  sampler_ = std::make_unique<DeviceSampler>(*stream_, spec_.vocab_size,
                                             static_cast<int>(MaxLogitRows(options_)));
  for (StepUnderWay& step : steps_) step.done.emplace();
  if (options_.timeline != nullptr) {
    device_spans_ = std::make_unique<DeviceSpans>(*options_.timeline, *stream_);
  }
}

// Takes the host's pages, and measures what copies to and from them take.
void ModelRunner::PrepareSwapping() {
  host_pages_ =
      std::make_unique<PagePool>(pages_->layout(), options_.num_host_pages,
                                 stream_ != nullptr ? MemoryKind::kPinned : MemoryKind::kHost);
  const int pages = std::min({16, pages_->num_pages(), host_pages_->num_pages()});
  const auto copy_all = [&] {
    for (int page = 0; page < pages; ++page) {
      CopyPage(*pages_, page, *host_pages_, page, stream_.get());
      CopyPage(*host_pages_, page, *pages_, page, stream_.get());
    }
    if (stream_ != nullptr) stream_->Synchronize();
  };
  copy_all();  // the first touch of memory takes time of its own
  const auto begin = std::chrono::steady_clock::now();
  copy_all();
  const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - begin;
  swap_seconds_per_page_ = taken.count() / (2 * pages);
}

// Ahead of the step's rows, which may use the pages.
void ModelRunner::SwapPages(const StepPlan& plan) {
  if (plan.swap_out.empty() && plan.swap_in.empty()) return;
  SLUICE_CHECK(host_pages_ != nullptr);
  for (const auto& [from, to] : plan.swap_out) {
    CopyPage(*pages_, from, *host_pages_, to, stream_.get());
  }
  for (const auto& [from, to] : plan.swap_in) {
    CopyPage(*host_pages_, from, *pages_, to, stream_.get());
  }
}

MemoryUse ModelRunner::Memory() const {
  MemoryUse use{.planned = EstimateMemory(spec_, options_), .arena_peak_bytes = arena_.PeakBytes()};
  if (stream_ == nullptr) return use;
  const uint64_t free = CudaFreeBytes(stream_->device().ordinal);
  use.taken_bytes = free_at_start_ - std::min(free_at_start_, free);
  return use;
}

// Steps can be queued behind each other where nothing inside one waits for the host, and all that
// is drawn in one is there at its end.
WorkerInfo ModelRunner::Info() const {
  const bool host_looks = streamed_ != nullptr || options_.observer != nullptr ||
                          options_.blocking_launches ||
                          (!routing_->IsModel() && routing_->ReadsModel());
  const bool draws_at_once = options_.max_sequences <= MaxLogitRows(options_);
  return {.vocab_size = spec_.vocab_size,
          .max_model_len = options_.max_model_len,
          .page_size = options_.page_size,
          .num_pages = options_.num_pages,
          .num_host_pages = options_.num_host_pages,
          .swap_seconds_per_page = swap_seconds_per_page_,
          .max_steps = stream_ != nullptr && !host_looks && draws_at_once ? kMostSteps : 1,
          .prefill_layer_groups = streamed_ != nullptr ? options_.offload.prefill_layer_groups : 1};
}

// The plan's rows laid behind each other, as the Decoder takes them. Kept between steps for its
// memory.
struct ModelRunner::Rows {
  std::vector<int32_t> tokens;  // ids, or -1 - i for the sampler's last draw i
  std::vector<int32_t> positions;
  std::vector<int64_t> kv_slots;
  std::vector<ops::AttentionSequence> sequences;
  std::vector<std::vector<ops::AttentionSequence>> parts;  // of DecoderInput's parts
  std::vector<RoutingKey> keys;                            // [T]
  int64_t padding = 0;                  // of the rows, so many at the end are nobody's
  int64_t everywhere = 0;               // the first so many rows go through all layers
  LayerGroup layers;                    // the others through these
  std::vector<RowsOfSequence> partial;  // who the others are
  // The rows whose logits are wanted, and where they are among all. There may be more of the
  // latter: the others are nobody's.
  std::vector<WantedRow> wanted;
  std::vector<int32_t> wanted_rows;

  void Clear() {
    tokens.clear();
    positions.clear();
    kv_slots.clear();
    sequences.clear();
    keys.clear();
    padding = 0;
    everywhere = 0;
    layers = {};
    partial.clear();
    wanted.clear();
    wanted_rows.clear();
  }
  bool AllKnown() const { return std::all_of(tokens.begin(), tokens.end(), IsKnown); }
  // Whether every sequence has one row, which sees what is before it.
  bool Decodes() const {
    return std::all_of(sequences.begin(), sequences.end(), [](const auto& sequence) {
      return sequence.query_count == 1 && sequence.mask != ops::AttentionMask::kTree;
    });
  }
};

// Adds a slice's rows that are sampled or scored. `draws`: those only sampled are drawn on the
// device.
void ModelRunner::GatherWanted(const SequenceSlice& slice, int index, bool draws, Rows& rows) {
  const auto begin = static_cast<int32_t>(rows.tokens.size() - slice.tokens.size());
  const size_t first = rows.wanted.size();
  for (size_t nth = 0; nth < slice.sample_rows.size(); ++nth) {
    rows.wanted.push_back({index, slice.sample_rows[nth], draws ? static_cast<int>(nth) : -1});
  }
  for (const SequenceSlice::ScoreRow& score : slice.score_rows) {
    const auto from = rows.wanted.begin() + static_cast<ptrdiff_t>(first);
    const auto same = std::find_if(from, rows.wanted.end(),
                                   [&](const WantedRow& row) { return row.row == score.row; });
    if (same == rows.wanted.end()) {
      rows.wanted.push_back({index, score.row, -1});
    } else {
      same->nth = -1;
    }
  }
  for (size_t i = first; i < rows.wanted.size(); ++i) {
    SLUICE_CHECK_LT(rows.wanted[i].row, std::ssize(slice.tokens));
    rows.wanted_rows.push_back(begin + rows.wanted[i].row);
  }
}

// What stands for a token that the step before draws.
TokenId ModelRunner::PlaceToken(TokenId token) const {
  SLUICE_CHECK(sampler_ != nullptr);
  if (last_draws_.empty()) return 0;  // that step failed: nobody reads what is made of it
  const int32_t draw = last_draws_.at(SliceThatDraws(token));
  SLUICE_CHECK_GE(draw, 0);
  return -1 - draw;
}

void ModelRunner::GatherRows(const StepPlan& plan, bool draws, Rows& rows) const {
  rows.Clear();
  for (size_t s = 0; s < plan.slices.size(); ++s) {
    const SequenceSlice& slice = plan.slices[s];
    const int count = static_cast<int>(slice.tokens.size());
    SLUICE_CHECK_EQ(slice.positions.size(), slice.tokens.size());
    SLUICE_CHECK_EQ(slice.kv_positions.size(), slice.tokens.size());
    SLUICE_CHECK(rows.partial.empty() || slice.layers == rows.layers);
    if (slice.layers.IsAll()) {
      rows.everywhere += count;
    } else {
      SLUICE_CHECK(slice.layers.IsLast() ||
                   (slice.sample_rows.empty() && slice.score_rows.empty()));
      rows.layers = slice.layers;
      rows.partial.push_back({.sequence = slice.sequence, .count = count});
    }
    rows.sequences.push_back({.query_begin = static_cast<int>(rows.tokens.size()),
                              .query_count = count,
                              .positions = slice.positions,
                              .pages = slice.pages,
                              .kv_length = slice.kv_length,
                              .mask = MaskOf(spec_, slice.mask),
                              .ancestors = slice.ancestors,
                              .slots_of_queries = slice.kv_positions});
    for (const TokenId token : slice.tokens) {
      rows.tokens.push_back(IsKnown(token) ? token : PlaceToken(token));
    }
    rows.positions.insert(rows.positions.end(), slice.positions.begin(), slice.positions.end());
    for (int i = 0; i < count; ++i) {
      const int position = slice.kv_positions[i];
      SLUICE_CHECK_LT(position, slice.kv_length);
      const int64_t page = slice.pages.at(position / options_.page_size);
      rows.kv_slots.push_back(page * options_.page_size + position % options_.page_size);
      rows.keys.push_back({.sequence = slice.sequence, .position = slice.positions[i]});
    }
    GatherWanted(slice, static_cast<int>(s), draws, rows);
  }
  // Streamed experts are counted by the rows that choose them.
  const bool recordable = stream_ != nullptr && !stream_->blocking() && streamed_ == nullptr;
  if (recordable && rows.Decodes()) FillBucket(rows);
}

// Brings a decode step to its bucket's size with copies of its shortest sequence's row that write
// no keys and values: they go through the same experts and read what is read anyway.
void ModelRunner::FillBucket(Rows& rows) const {
  const int64_t count = std::ssize(rows.tokens);
  const int64_t wanted = std::ssize(rows.wanted_rows);
  if (count == 0 || wanted > MaxLogitRows(options_)) return;
  const auto shortest =
      std::min_element(rows.sequences.begin(), rows.sequences.end(),
                       [](const auto& a, const auto& b) { return a.kv_length < b.kv_length; });
  const ops::AttentionSequence sequence = *shortest;
  const int row = sequence.query_begin;
  rows.padding = BatchBucket(count) - count;
  for (int64_t i = 0; i < rows.padding; ++i) {
    ops::AttentionSequence copy = sequence;
    copy.query_begin = static_cast<int>(rows.tokens.size());
    rows.sequences.push_back(copy);
    rows.tokens.push_back(rows.tokens[row]);
    rows.positions.push_back(rows.positions[row]);
    rows.kv_slots.push_back(-1);
    rows.keys.push_back(rows.keys[row]);
  }
  if (wanted == 0) return;
  const int64_t room = std::min(BatchBucket(wanted), MaxLogitRows(options_));
  rows.wanted_rows.resize(static_cast<size_t>(room), rows.wanted_rows.front());
}

std::vector<ModelRunner::SliceFailure> ModelRunner::Submit(const StepPlan& plan,
                                                           const LogitsSink& sink) {
  Queue(plan, sampler_ != nullptr, sink);
  return FailedSlices();
}

void ModelRunner::Run(const StepPlan& plan, const LogitsSink& sink) {
  SLUICE_CHECK_EQ(submitted_, collected_);
  Queue(plan, false, sink);
  Collect();
  const std::vector<SliceFailure> failed = FailedSlices();
  if (!failed.empty()) throw Error(ErrorCode::kDataLoss, failed.front().error);
}

// The slices of the step queued last whose tokens needed an expert that could not be read.
std::vector<ModelRunner::SliceFailure> ModelRunner::FailedSlices() const {
  std::vector<SliceFailure> failed;
  if (streamed_ == nullptr) return failed;
  const std::vector<ops::AttentionSequence>& sequences = rows_->sequences;
  for (size_t s = 0; s < sequences.size(); ++s) {
    const int64_t begin = sequences[s].query_begin;
    const int64_t end = begin + sequences[s].query_count;
    const auto of_slice = [&](const StreamedExperts::Failure& failure) {
      return begin <= failure.token && failure.token < end;
    };
    const auto first = std::ranges::find_if(streamed_->failures(), of_slice);
    if (first == streamed_->failures().end()) continue;
    failed.push_back({static_cast<int>(s), first->error});
  }
  return failed;
}

void ModelRunner::Queue(const StepPlan& plan, bool draws, const LogitsSink& sink) {
  SLUICE_CHECK_LT(submitted_ - collected_, uint64_t{kMostSteps});
  try {
    QueueStep(plan, draws, sink, steps_[submitted_ % kMostSteps]);
  } catch (...) {
    last_draws_.clear();
    // What was queued reads memory that the host writes for the next steps.
    if (stream_ != nullptr && stream_->Works()) stream_->Synchronize();
    throw;
  }
  ++submitted_;
}

void ModelRunner::QueueStep(const StepPlan& plan, bool draws, const LogitsSink& sink,
                            StepUnderWay& step) {
  step.facts = options_.timeline == nullptr ? SpanFacts{} : FactsOf(plan);
  step.drawing.clear();
  step.drawn.clear();
  const TimelineSpan span(options_.timeline, "step", step.facts);
  const Arena::Scope scope(arena_);
  const Arena::Scope staging_scope(staging_);
  ops::OpContext ctx{.pool = pool_,
                     .arena = arena_,
                     .tier = options_.tier,
                     .reference = options_.reference_ops,
                     .cuda = stream_.get(),
                     .batch_invariant = options_.batch_invariant,
                     .decoding_first = options_.decoding_first,
                     .inbox = inbox_.get(),
                     .staging = &staging_};
  SwapPages(plan);
  StepInput input;
  Prepare(plan, draws, input, step, ctx);
  const StepOutput output = Compute(input, step, ctx);
  last_draws_.assign(plan.slices.size(), -1);
  const int64_t most = MaxLogitRows(options_);
  const std::span<const WantedRow> wanted(rows_->wanted);
  Deliver(plan, wanted.first(std::min(wanted.size(), static_cast<size_t>(most))), output.logits,
          sink, step);
  for (int64_t begin = most; begin < std::ssize(wanted); begin += most) {
    if (!step.drawing.empty()) {
      step.done->Record(*stream_);
      Await(step);
      TakeDraws(step);
    }
    const Arena::Scope chunk_scope(arena_);
    const int64_t count = std::min(most, std::ssize(wanted) - begin);
    const TensorView logits =
        decoder_->Logits(output.hidden, input.wanted_rows.Slice(begin, begin + count), ctx);
    MarkDevice("logits", step);
    Deliver(plan, wanted.subspan(begin, count), logits, sink, step);
  }
  if (input.routing) input.routing->Report();
  if (stream_ != nullptr) step.done->Record(*stream_);
}

std::vector<ModelRunner::DrawnRow> ModelRunner::Collect() {
  SLUICE_CHECK_LT(collected_, submitted_);
  StepUnderWay& step = steps_[collected_++ % kMostSteps];
  if (stream_ == nullptr) return {};
  Await(step);
  const TimelineSpan span(options_.timeline, "sample", step.facts);
  TakeDraws(step);
  if (device_spans_ != nullptr) device_spans_->End(step.spans);
  return std::move(step.drawn);
}

bool ModelRunner::Ready() const {
  SLUICE_CHECK_LT(collected_, submitted_);
  return stream_ == nullptr || steps_[collected_ % kMostSteps].done->Reached();
}

// All that the host tells the step, before anything else: what follows can be a recorded graph.
void ModelRunner::Prepare(const StepPlan& plan, bool draws, StepInput& input, StepUnderWay& step,
                          ops::OpContext& ctx) {
  Rows& rows = *rows_;
  TensorView tokens;
  {
    const TimelineSpan span(options_.timeline, "prepare", step.facts);
    if (inbox_ != nullptr) inbox_->Clear();
    GatherRows(plan, draws, rows);
    tokens = ops::Upload(std::span(rows.tokens), ctx);
    input.decoder = {.tokens = tokens,
                     .positions = ops::Upload(std::span(rows.positions), ctx),
                     .kv_slots = ops::Upload(std::span(rows.kv_slots), ctx),
                     .attention = ops::PlaceSequences(rows.sequences, ctx)};
    if (!rows.partial.empty()) {
      const int64_t end = rows.everywhere;
      const std::span sequences(rows.sequences);
      input.everywhere = {.tokens = input.decoder.tokens.Slice(0, end),
                          .positions = input.decoder.positions.Slice(0, end),
                          .kv_slots = input.decoder.kv_slots.Slice(0, end),
                          .attention = ops::PlaceSequences(
                              sequences.first(sequences.size() - rows.partial.size()), ctx)};
    } else if (streamed_ != nullptr) {
      CutIntoParts(input.decoder, ctx);
    }
    input.wanted_rows = ops::Upload(std::span(rows.wanted_rows), ctx);
    if (experts_ != nullptr) {
      StepRouting::Options options{.layers = moe_layers_,
                                   .top_k = spec_.moe.top_k,
                                   .source = *routing_,
                                   .observer = options_.observer,
                                   .step = plan.step,
                                   .tokens = rows.keys,
                                   .padding = rows.padding};
      if (!rows.partial.empty()) {
        const auto [first, end] = LayersOf(rows.layers);
        options.partial = {.everywhere = rows.everywhere, .first_layer = first, .end_layer = end};
      }
      input.routing.emplace(options, ctx);
      input.moe.emplace(MoeContext{.experts = *experts_,
                                   .dispatcher = *dispatcher_,
                                   .routing = *input.routing,
                                   .streamed = streamed_.get()});
      if (streamed_ != nullptr) streamed_->BeginStep();
    }
  }
  if (inbox_ == nullptr) return;
  const TimelineSpan span(options_.timeline, "upload", step.facts);
  if (device_spans_ != nullptr) device_spans_->Begin(step.facts, step.spans);
  inbox_->Send();
  if (!rows.AllKnown()) sampler_->FillIn(tokens);
  MarkDevice("upload", step);
}

// As many parts of whole sequences as the options say, of about as many rows each.
void ModelRunner::CutIntoParts(DecoderInput& input, ops::OpContext& ctx) {
  Rows& rows = *rows_;
  rows.parts.clear();
  const int64_t all = input.tokens.dim(0);
  const int64_t wanted =
      std::min<int64_t>(options_.offload.streaming.batch_groups, std::ssize(rows.sequences));
  if (wanted <= 1) return;
  for (const ops::AttentionSequence& sequence : rows.sequences) {
    const int64_t begin = sequence.query_begin;
    if (begin * wanted >= std::ssize(rows.parts) * all) rows.parts.emplace_back();
    rows.parts.back().push_back(sequence);
  }
  for (std::vector<ops::AttentionSequence>& part : rows.parts) {
    const int begin = part.front().query_begin;
    const int end = part.back().query_begin + part.back().query_count;
    for (ops::AttentionSequence& sequence : part) sequence.query_begin -= begin;
    input.parts.push_back({.tokens = input.tokens.Slice(begin, end),
                           .positions = input.positions.Slice(begin, end),
                           .kv_slots = input.kv_slots.Slice(begin, end),
                           .attention = ops::PlaceSequences(part, ctx)});
  }
}

// Records what a step's layers queue up to their routers' choices, each as a part of the step.
class ModelRunner::PartRecorder : public LayerRecorder {
 public:
  PartRecorder(StepGraphs& graphs, const StepShape& shape, CudaStream& stream)
      : graphs_(graphs), shape_(shape), stream_(stream) {}
  void Run(int layer, FunctionRef<void()> queue) override {
    graphs_.RunPart(shape_, layer, stream_, queue);
  }

 private:
  StepGraphs& graphs_;
  const StepShape shape_;
  CudaStream& stream_;
};

// The layers, and the logits of the first rows that are wanted: as a graph where that can be, or
// where the host asks for each layer's experts, each layer up to that.
StepOutput ModelRunner::Compute(StepInput& input, StepUnderWay& step, ops::OpContext& ctx) {
  const SpanFacts& facts = step.facts;
  const int64_t first = std::min(MaxLogitRows(options_), input.wanted_rows.dim(0));
  const auto layers = [&] { return RunLayers(input, ctx); };
  const auto logits = [&](TensorView hidden) {
    return decoder_->Logits(hidden, input.wanted_rows.Slice(0, first), ctx);
  };
  StepOutput output;
  const std::optional<StepShape> shape = RecordableShape(input);
  if (shape && streamed_ == nullptr) {
    const TimelineSpan span(options_.timeline, "graph", facts);
    output = graphs_.Run(*shape, *stream_, [&] {
      const TensorView hidden = layers();
      return StepOutput{.hidden = hidden, .logits = logits(hidden)};
    });
    MarkDevice("graph", step);
    return output;
  }
  std::optional<PartRecorder> recorder;
  if (shape) input.decoder.recorder = &recorder.emplace(graphs_, *shape, *stream_);
  {
    const TimelineSpan span(options_.timeline, "layers", facts);
    output.hidden = layers();
    MarkDevice("layers", step);
  }
  const TimelineSpan span(options_.timeline, "logits", facts);
  output.logits = logits(output.hidden);
  MarkDevice("logits", step);
  return output;
}

std::pair<int, int> ModelRunner::LayersOf(const LayerGroup& group) const {
  return {spec_.num_layers * group.nth / group.of, spec_.num_layers * (group.nth + 1) / group.of};
}

// All rows through their layers; returns their hidden states, of which those of rows that have more
// layers to go are worth nothing to anybody else.
TensorView ModelRunner::RunLayers(StepInput& input, ops::OpContext& ctx) {
  const Decoder::Stream all = decoder_->Embed(input.decoder, ctx);
  const auto run = [&](int begin, int end, const DecoderInput& rows,
                       const Decoder::Stream& stream) {
    if (stream.x.dim(0) == 0) return;
    decoder_->RunLayers(begin, end, rows, stream, *pages_, input.moe ? &*input.moe : nullptr, ctx);
  };
  const LayerGroup& group = rows_->layers;
  const auto [first, end] = LayersOf(group);
  const Decoder::Stream everywhere = all.First(rows_->everywhere);
  const TensorView partial = all.x.Slice(rows_->everywhere, all.x.dim(0));
  if (group.nth > 0) TakeUp(partial);
  run(0, first, input.everywhere, everywhere);
  run(first, end, input.decoder, all);
  if (!group.IsLast()) LayDown(partial);
  run(end, spec_.num_layers, input.everywhere, everywhere);
  return all.x;
}

void ModelRunner::CopyHidden(ConstTensorView from, TensorView to) {
  const auto bytes = static_cast<size_t>(from.NumBytes());
  if (stream_ != nullptr) {
    stream_->Copy(to.raw(), from.raw(), bytes);
  } else {
    std::memcpy(to.raw(), from.raw(), bytes);
  }
}

// What the step before laid down, but for sequences that have left since: x [partial rows, hidden].
void ModelRunner::TakeUp(TensorView x) {
  int64_t from = 0;
  int64_t to = 0;
  auto left = rows_between_.begin();
  for (const RowsOfSequence& rows : rows_->partial) {
    for (; left != rows_between_.end() && !(*left == rows); ++left) from += left->count;
    SLUICE_CHECK(left != rows_between_.end());
    CopyHidden(hidden_between_.view().Slice(from, from + rows.count), x.Slice(to, to + rows.count));
    from += rows.count;
    to += rows.count;
    ++left;
  }
}

void ModelRunner::LayDown(ConstTensorView x) {
  rows_between_ = rows_->partial;
  CopyHidden(x, hidden_between_.view().Slice(0, x.dim(0)));
}

std::optional<StepShape> ModelRunner::RecordableShape(const StepInput& input) const {
  const Rows& rows = *rows_;
  if (!rows.partial.empty()) return std::nullopt;
  if (stream_ == nullptr || stream_->blocking() || !rows.Decodes()) return std::nullopt;
  if (streamed_ != nullptr) {
    // With more rows a layer's kernels take longer than the host takes to launch each.
    constexpr int64_t kMostRows = 16;
    if (rows.sequences.size() > kMostRows || !input.decoder.parts.empty()) return std::nullopt;
  }
  if (std::ssize(rows.wanted) > MaxLogitRows(options_)) return std::nullopt;
  if (input.routing && !input.routing->Recordable()) return std::nullopt;
  const ops::PlacedSequences& placed = input.decoder.attention.placed;
  return StepShape{.rows = input.decoder.tokens.dim(0),
                   .wanted = input.wanted_rows.dim(0),
                   .table_width = placed.page_table.dim(1),
                   .kv_length = placed.max_kv_length,
                   .routing_given = input.routing && input.routing->given(),
                   .routing_kept = input.routing && input.routing->kept()};
}

// Hands on rows `wanted`, whose logits these are: has those drawn that the device draws, waits for
// those that the host looks at.
void ModelRunner::Deliver(const StepPlan& plan, std::span<const WantedRow> wanted,
                          TensorView logits, const LogitsSink& sink, StepUnderWay& step) {
  const Arena::Scope staging_scope(staging_);
  std::optional<TimelineSpan> queue(std::in_place, options_.timeline, "queue sampling", step.facts);
  std::vector<int64_t> to_host;
  for (int64_t i = 0; i < std::ssize(wanted); ++i) {
    if (wanted[i].nth < 0) to_host.push_back(i);
  }
  QueueDraws(plan, wanted, logits, step);
  const ConstTensorView host = OnHost(logits, to_host);
  MarkDevice("sampling", step);
  queue.reset();
  if (stream_ != nullptr) {
    if (to_host.empty()) return;
    step.done->Record(*stream_);
    Await(step);
  }
  const TimelineSpan span(options_.timeline, "sample", step.facts);
  pool_.ParallelFor(std::ssize(to_host), 1, [&](int64_t first, int64_t last, int thread) {
    for (int64_t k = first; k < last; ++k) {
      const WantedRow& row = wanted[to_host[k]];
      sink({.slice = row.slice,
            .row = row.row,
            .thread = thread,
            .logits = {host[k].data<float>(), static_cast<size_t>(spec_.vocab_size)}});
    }
  });
}

void ModelRunner::QueueDraws(const StepPlan& plan, std::span<const WantedRow> wanted,
                             TensorView logits, StepUnderWay& step) {
  std::deque<SampleContext> contexts;
  std::vector<DeviceSampler::Request> requests;
  for (int64_t i = 0; i < std::ssize(wanted); ++i) {
    const WantedRow& row = wanted[i];
    if (row.nth < 0) continue;
    const SequenceSlice& slice = plan.slices[row.slice];
    last_draws_[row.slice] = static_cast<int32_t>(requests.size());
    // The first row is every decode's: no copy of its history is made.
    const SampleContext* context =
        row.nth == 0 ? &slice.sample : &contexts.emplace_back(slice.ContextOfSample(row.nth));
    requests.push_back({.row = i, .context = context});
    step.drawing.push_back(row);
  }
  if (!requests.empty()) sampler_->Queue(logits, requests, step.draws);
}

// Waits until the device has passed step.done.
void ModelRunner::Await(StepUnderWay& step) {
  const TimelineSpan span(options_.timeline, "wait", step.facts);
  const auto start = std::chrono::steady_clock::now();
  step.done->Synchronize();
  waited_ += std::chrono::steady_clock::now() - start;
}

// What the device has drawn of step.drawing, once it is there.
void ModelRunner::TakeDraws(StepUnderWay& step) {
  for (size_t i = 0; i < step.drawing.size(); ++i) {
    const WantedRow& row = step.drawing[i];
    DrawnRow& result = step.drawn.emplace_back(
        DrawnRow{.slice = row.slice, .nth = row.nth, .token = {}, .error = {}});
    try {
      result.token = sampler_->Result(step.draws, i);
    } catch (const Error& error) {
      result.error = error.what();
    }
  }
  step.drawing.clear();
}

ConstTensorView ModelRunner::OnHost(ConstTensorView logits, std::span<const int64_t> rows) {
  // On the CPU every wanted row is the host's, in order.
  if (stream_ == nullptr) return logits;
  const TensorView host = staging_.Allocate(logits.dtype(), {std::ssize(rows), logits.dim(1)});
  for (int64_t begin = 0, end = 0; begin < std::ssize(rows); begin = end) {
    // Rows that lie behind each other go together.
    for (end = begin + 1; end < std::ssize(rows) && rows[end] == rows[end - 1] + 1;) ++end;
    const TensorView part = host.Slice(begin, end);
    stream_->Copy(part.raw(), logits[rows[begin]].raw(), part.NumBytes());
  }
  return host;
}

}  // namespace sluice
