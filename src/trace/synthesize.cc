#include "trace/synthesize.h"

#include "base/check.h"

namespace sluice {
namespace {

RouterTraceHeader HeaderOf(const SyntheticDesc& desc, const SyntheticRun& run) {
  SLUICE_CHECK(run.sequences >= 1 && run.steps >= 0);
  RouterTraceHeader header{.model = "synthetic",
                           .num_layers = run.num_layers,
                           .num_experts = run.num_experts,
                           .top_k = run.top_k,
                           .seed = desc.seed};
  CheckTraceHeader(header);
  return header;
}

}  // namespace

SyntheticBatches::SyntheticBatches(const SyntheticDesc& desc, const SyntheticRun& run)
    : run_(run),
      header_(HeaderOf(desc, run)),
      routing_(desc, run.num_experts),
      tokens_(static_cast<size_t>(run.sequences)),
      ids_(tokens_.size() * static_cast<size_t>(run.top_k)) {
  header_.source = routing_.Name();
}

bool SyntheticBatches::NextBatch(RouterBatch& batch) {
  if (step_ == run_.steps) return false;
  batch.step = static_cast<uint64_t>(step_);
  batch.layer = layer_;
  batch.sequences.resize(tokens_.size());
  batch.positions.assign(tokens_.size(), step_);
  batch.weights.resize(ids_.size());
  for (size_t s = 0; s < tokens_.size(); ++s) {
    batch.sequences[s] = s;
    tokens_[s] = {s, step_};
  }
  const Shape shape = {run_.sequences, run_.top_k};
  routing_.Apply(layer_, tokens_, TensorView(batch.weights.data(), DType::kF32, shape),
                 TensorView(ids_.data(), DType::kI32, shape));
  batch.experts.assign(ids_.begin(), ids_.end());
  layer_ = (layer_ + 1) % run_.num_layers;
  if (layer_ == 0) ++step_;
  return true;
}

void SynthesizeTrace(const SyntheticDesc& desc, const SyntheticRun& run,
                     const std::filesystem::path& path) {
  SyntheticBatches source(desc, run);
  RouterTraceWriter writer(path, source.header());
  RouterBatch batch;
  while (source.NextBatch(batch)) writer.Append(batch);
  writer.Close();
}

}  // namespace sluice
