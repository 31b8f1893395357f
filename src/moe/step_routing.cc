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
  if (given_ || keeps_) all_ = Allocate(context_.arena, all);
  if (given_) GiveAll();
}

// Asks the source for every layer and queues one copy of it all.
void StepRouting::GiveAll() {
  const Routing host = Allocate(*context_.staging, all_.ids.shape());
  for (size_t i = 0; i < options_.layers.size(); ++i) {
    ShowToHost(options_.layers[i], Layer(host, i));
  }
  Copy(host, all_, *context_.cuda);
}

size_t StepRouting::Ordinal(int layer) const {
  const auto found = std::lower_bound(options_.layers.begin(), options_.layers.end(), layer);
  SLUICE_CHECK(found != options_.layers.end() && *found == layer);
  return static_cast<size_t>(found - options_.layers.begin());
}

Routing StepRouting::RouterOutput(int layer) {
  return keeps_ ? Layer(all_, Ordinal(layer)) : scratch_;
}

Routing StepRouting::Settle(int layer) {
  if (given_ || keeps_) return Layer(all_, Ordinal(layer));
  if (waits_) {
    ShowDeviceToHost(layer, scratch_);
  } else if (!context_.OnCuda()) {
    ShowToHost(layer, scratch_);
  }
  return scratch_;
}

void StepRouting::ShowToHost(int layer, const Routing& routing) {
  options_.source.Apply(layer, options_.tokens, routing.weights, routing.ids);
  if (options_.observer == nullptr) return;
  options_.observer->Observe(options_.step, layer, options_.tokens, routing.weights, routing.ids);
}

// The host works on a copy that then goes back.
void StepRouting::ShowDeviceToHost(int layer, const Routing& routing) {
  const Arena::Scope scope(*context_.staging);
  const Routing copy = Allocate(*context_.staging, routing.ids.shape());
  Copy(routing, copy, *context_.cuda);
  context_.cuda->Synchronize();
  ShowToHost(layer, copy);
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
    ShowToHost(options_.layers[i], Layer(host, i));
  }
}

}  // namespace sluice
