// A config.json and, each after a NUL byte, --hf-overrides and a generation_config.json: read as a
// model that then tells its tensors and its needs in memory.
#include <limits>

#include "arch/registry.h"
#include "engine/model_runner.h"
#include "fuzz_support.h"

namespace sluice {
namespace {

void CheckNeeds(const ModelSpec& spec) {
  RunnerOptions options;
  options.dtype = spec.checkpoint_dtype;
  options.max_model_len = spec.max_positions;
  options.num_pages = 1 << 20;
  const MemoryNeeds needs = EstimateMemory(spec, options);
  fuzz::Require(needs.weight_bytes >= WeightBytes(spec, options.dtype) / 2,
                "the weights are counted");
  fuzz::Require(needs.kv_bytes > 0 && needs.total() > needs.kv_bytes, "the needs are summed");
  fuzz::Require(KvLayoutOf(spec, options).BytesPerPage() > 0, "a page has bytes");
  uint64_t elements = 0;
  for (const DummySource::Listed& tensor : ListTensors(spec)) {
    elements += static_cast<uint64_t>(tensor.shape.NumElements());
  }
  fuzz::Require(elements == ParameterCount(spec), "the listed tensors make the parameters");
  fuzz::Require(ActiveBytesPerToken(spec, DType::kBF16) < std::numeric_limits<int64_t>::max(),
                "the bytes of a token fit");
}

// A model's own tensors suit it; those of another are refused by name.
void CheckSources(const ModelSpec& spec) {
  const std::vector<DummySource::Listed> tensors = ListTensors(spec);
  if (tensors.size() > 4096) return;  // the rest is more of the same
  CheckTensors(spec, DummySource(tensors, spec.checkpoint_dtype, 0));
  bool refused = false;
  try {
    CheckTensors(spec, DummySource({{"other", {1}}}, spec.checkpoint_dtype, 0));
  } catch (const Error& error) {
    refused = error.code() == ErrorCode::kDataLoss;
  }
  fuzz::Require(refused, "the tensors of another model are refused");
  for (const TensorRule& rule : spec.tensors) {
    fuzz::Require(*TensorRoleName(rule.role) != '\0', "a role has a name");
  }
}

void Read(std::string_view input) {
  const std::vector<std::string_view> parts = fuzz::Cut(input, 3);
  HfConfig config = HfConfig::FromJson(parts[0], "config.json");
  if (!parts[1].empty()) config.ApplyOverrides(parts[1]);
  std::optional<HfConfig> generation;
  if (!parts[2].empty()) generation = HfConfig::FromJson(parts[2], "generation_config.json");
  const ModelSpec spec = SpecFromConfig(config, generation ? &*generation : nullptr);
  CheckNeeds(spec);
  CheckSources(spec);
}

}  // namespace
}  // namespace sluice

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  sluice::fuzz::Try([&] { sluice::Read(sluice::fuzz::AsText(data, size)); });
  return 0;
}
