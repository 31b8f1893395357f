#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "device/tensor.h"
#include "ops/common/op_context.h"
#include "trace/router_observer.h"
#include "trace/routing_source.h"

namespace sluice {

// Which experts the tokens of a step go to in one layer.
struct Routing {
  TensorView weights;  // [T, top_k] f32
  TensorView ids;      // [T, top_k] i32
};

// The routing of one step: what the router chose, replaced by what a RoutingSource gives, and seen
// by a RouterObserver. On a device nothing waits for the host inside the step: a source that does
// not read the model's choice is asked for all layers before it, and an observer is told after it.
//
//   StepRouting routing(...);
//   for each layer: the router writes to routing.RouterOutput(layer);
//                   the experts run with routing.Settle(layer);
//                   or: Settle(layer, begin, end) as rows have been routed, then Settled(layer)
//   routing.Report();
class StepRouting {
 public:
  struct Options {
    std::span<const int> layers;  // those that route, ascending
    int top_k = 0;
    RoutingSource& source;
    RouterObserver* observer = nullptr;  // may be null
    uint64_t step = 0;
    std::span<const RoutingKey> tokens;  // [T] who the rows are
    int64_t padding = 0;  // so many at the end fill the step up: no observer is told of them
    // In layers other than [first_layer, end_layer) the first `everywhere` rows alone are routed.
    struct Partial {
      int64_t everywhere = 0;
      int first_layer = 0;
      int end_layer = 0;
    };
    std::optional<Partial> partial = std::nullopt;
  };

  // Tensors come from the context's arena, and live as long as what it gives back then. What the
  // options refer to outlives this.
  StepRouting(const Options& options, ops::OpContext& context);

  // Whether a step can be recorded and queued again: nothing in it waits for the host.
  bool Recordable() const { return !waits_; }
  // Whether the source was asked before the step, and whether each layer's choice is kept: the
  // layers' tensors are others then.
  bool given() const { return given_; }
  bool kept() const { return keeps_; }

  // Where the router of `layer` writes its choice; the same tensors until Settle.
  Routing RouterOutput(int layer);
  // What `layer` runs with, after the router.
  Routing Settle(int layer) {
    Settle(layer, 0, std::ssize(options_.tokens));
    return Settled(layer);
  }
  // The same by parts: each row belongs to one call.
  void Settle(int layer, int64_t begin, int64_t end);
  Routing Settled(int layer) const;
  // Tells the observer what it was not told yet; waits for the device if there is something.
  void Report();

 private:
  // Routing of rows [begin, ...) of the step.
  void ShowToHost(int layer, int64_t begin, const Routing& routing);
  void ShowToObserver(int layer, int64_t begin, const Routing& routing);
  void ShowDeviceToHost(int layer, int64_t begin, const Routing& routing);
  int64_t NumRouted(int layer) const;
  void GiveAll(const Shape& shape);
  size_t Ordinal(int layer) const;

  Options options_;
  ops::OpContext& context_;
  bool given_ = false;  // the source was asked before the step
  bool waits_ = false;  // the host looks at each layer within the step
  bool keeps_ = false;  // each layer's choice is kept for the observer
  Routing all_;         // [layers, T, top_k] of what is given or kept
  Routing scratch_;     // the router's choice where it is not kept
};

}  // namespace sluice
