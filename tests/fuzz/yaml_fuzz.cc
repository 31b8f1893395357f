// The same text as a --topology file and as a --config file.
#include "arch/registry.h"
#include "cli/yaml_args.h"
#include "fuzz_support.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text = sluice::fuzz::AsText(data, size);
  sluice::fuzz::Try(
      [&] { sluice::SpecFromConfig(sluice::HfConfig::FromTopologyYaml(text, "topology.yaml")); });
  sluice::fuzz::Try([&] { sluice::FlagsFromYaml(text, "config.yaml"); });
  return 0;
}
