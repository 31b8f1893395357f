#include "trace/synthesize.h"

#include <vector>

#include "base/check.h"

namespace sluice {

void SynthesizeTrace(const SyntheticDesc& desc, const SyntheticRun& run,
                     const std::filesystem::path& path) {
  SLUICE_CHECK(run.sequences >= 1 && run.steps >= 0);
  RouterTraceHeader header{.model = "synthetic",
                           .num_layers = run.num_layers,
                           .num_experts = run.num_experts,
                           .top_k = run.top_k,
                           .seed = desc.seed};
  CheckTraceHeader(header);
  SyntheticRouting source(desc, run.num_experts);
  header.source = source.Name();
  RouterTraceWriter writer(path, header);
  FileRecorder recorder(writer);
  const Shape shape = {run.sequences, run.top_k};
  std::vector<float> weights(static_cast<size_t>(shape.NumElements()));
  std::vector<int32_t> ids(weights.size());
  std::vector<RoutingKey> tokens(static_cast<size_t>(run.sequences));
  const TensorView weight_view(weights.data(), DType::kF32, shape);
  const TensorView id_view(ids.data(), DType::kI32, shape);
  for (int step = 0; step < run.steps; ++step) {
    for (size_t s = 0; s < tokens.size(); ++s) tokens[s] = {s, step};
    for (int layer = 0; layer < run.num_layers; ++layer) {
      source.Apply(layer, tokens, weight_view, id_view);
      recorder.Observe(static_cast<uint64_t>(step), layer, tokens, weight_view, id_view);
    }
  }
  writer.Close();
}

}  // namespace sluice
