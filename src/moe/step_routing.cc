#include "moe/step_routing.h"

#include <algorithm>

namespace sluice {
namespace {

Routing Allocate(Arena& arena, const Shape& shape) {
  return {.weights = arena.Allocate(DType::kF32, shape), .ids = arena.Allocate(DType::kI32, shape)};
}

void Copy(const Routing& from, const Routing& to, CudaStream& stream) {
  stream.Copy(to.weights.raw(), from.weights.raw(), from.weights.NumBytes());
  stream.Copy(to.ids.raw(), from.ids.raw(), from.ids.NumBytes());
}

Routing Layer(const Routing& all, size_t ordinal) {
  const auto i = static_cast<int64_t>(ordinal);
  return {.weights = all.weights[i], .ids = all.ids[i]};
}

}  // namespace

StepRouting::StepRouting(const Options& options, ops::OpContext& context)
    : options_(options), context_(context) {
  const int64_t tokens = std::ssize(options_.tokens);
  const Shape one{tokens, options_.top_k};
  const Shape all{std::ssize(options_.layers), tokens, options_.top_k};
  scratch_ = Allocate(context_.arena, one);
  if (!context_.OnCuda()) return;
  SLUICE_CHECK(context_.staging != nullptr);
  const RoutingSource& source = options_.source;
  given_ = !source.IsModel() && !source.ReadsModel();
  waits_ = !source.IsModel() && source.ReadsModel();
  keeps_ = source.IsModel() && options_.observer != nullptr;
  if (keeps_) all_ = Allocate(context_.arena, all);
  if (given_) GiveAll(all);
}

// Asks the source for every layer.
void StepRouting::GiveAll(const Shape& shape) {
  SLUICE_CHECK(context_.inbox != nullptr);
  const auto bytes = static_cast<size_t>(shape.NumElements()) * sizeof(float);
  const ops::Inbox::Piece weights = context_.inbox->Take(bytes);
  const ops::Inbox::Piece ids = context_.inbox->Take(bytes);
  const auto at = [&](std::byte* weight, std::byte* id) {
    return Routing{.weights = TensorView(weight, DType::kF32, shape),
                   .ids = TensorView(id, DType::kI32, shape)};
  };
  const Routing host = at(weights.host, ids.host);
  // Draws of a token's experts in one layer that a thread should have to itself, at least.
  constexpr int64_t kGrainRows = 256;
  const int64_t grain = kGrainRows / std::max<int64_t>(1, std::ssize(options_.tokens)) + 1;
  context_.pool.ParallelFor(
      std::ssize(options_.layers), grain, [&](int64_t begin, int64_t end, int) {
        for (int64_t i = begin; i < end; ++i) {
          const Routing layer = Layer(host, static_cast<size_t>(i));
          options_.source.Apply(options_.layers[i], options_.tokens, layer.weights, layer.ids);
        }
      });
  for (size_t i = 0; i < options_.layers.size(); ++i) {
    ShowToObserver(options_.layers[i], 0, Layer(host, i));
  }
  context_.inbox->Filled(weights);
  context_.inbox->Filled(ids);
  all_ = at(weights.device, ids.device);
}

size_t StepRouting::Ordinal(int layer) const {
  const auto found = std::lower_bound(options_.layers.begin(), options_.layers.end(), layer);
  SLUICE_CHECK(found != options_.layers.end() && *found == layer);
  return static_cast<size_t>(found - options_.layers.begin());
}

Routing StepRouting::RouterOutput(int layer) {
  return keeps_ ? Layer(all_, Ordinal(layer)) : scratch_;
}

void StepRouting::Settle(int layer, int64_t begin, int64_t end) {
  if (given_ || keeps_) return;
  const Routing part = {.weights = scratch_.weights.Slice(begin, end),
                        .ids = scratch_.ids.Slice(begin, end)};
  if (waits_) {
    ShowDeviceToHost(layer, begin, part);
  } else if (!context_.OnCuda()) {
    ShowToHost(layer, begin, part);
  }
}

Routing StepRouting::Settled(int layer) const {
  return given_ || keeps_ ? Layer(all_, Ordinal(layer)) : scratch_;
}

void StepRouting::ShowToHost(int layer, int64_t begin, const Routing& routing) {
  const auto tokens =
      options_.tokens.subspan(static_cast<size_t>(begin), static_cast<size_t>(routing.ids.dim(0)));
  options_.source.Apply(layer, tokens, routing.weights, routing.ids);
  ShowToObserver(layer, begin, routing);
}

// Rows that are somebody's.
int64_t StepRouting::NumRouted(int layer) const {
  const auto& partial = options_.partial;
  const bool all = !partial || (partial->first_layer <= layer && layer < partial->end_layer);
  return all ? std::ssize(options_.tokens) - options_.padding : partial->everywhere;
}

void StepRouting::ShowToObserver(int layer, int64_t begin, const Routing& routing) {
  if (options_.observer == nullptr) return;
  const int64_t seen = std::min(routing.ids.dim(0), NumRouted(layer) - begin);
  if (seen <= 0) return;
  const auto tokens =
      options_.tokens.subspan(static_cast<size_t>(begin), static_cast<size_t>(seen));
  options_.observer->Observe(options_.step, layer, tokens, routing.weights.Slice(0, seen),
                             routing.ids.Slice(0, seen));
}

// The host works on a copy that then goes back.
void StepRouting::ShowDeviceToHost(int layer, int64_t begin, const Routing& routing) {
  const Arena::Scope scope(*context_.staging);
  const Routing copy = Allocate(*context_.staging, routing.ids.shape());
  Copy(routing, copy, *context_.cuda);
  context_.cuda->Synchronize();
  ShowToHost(layer, begin, copy);
  Copy(copy, routing, *context_.cuda);
  context_.cuda->Synchronize();  // the next layer writes the copy anew
}

void StepRouting::Report() {
  if (!keeps_) return;
  const Arena::Scope scope(*context_.staging);
  const Routing host = Allocate(*context_.staging, all_.ids.shape());
  Copy(all_, host, *context_.cuda);
  context_.cuda->Synchronize();
  for (size_t i = 0; i < options_.layers.size(); ++i) {
    ShowToHost(options_.layers[i], 0, Layer(host, i));
  }
}

}  // namespace sluice
