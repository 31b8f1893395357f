// The same text as a --topology file and as a --config file.
#include <fstream>

#include "arch/registry.h"
#include "cli/yaml_args.h"
#include "fuzz_support.h"

namespace sluice {
namespace {

void Expand(std::string_view text) {
  const std::filesystem::path file = fuzz::ScratchFolder() / "flags.yaml";
  std::ofstream(file, std::ios::binary) << text;
  const std::vector<std::string> arguments =
      ExpandConfigFile({"--log-level", "off", "run", "--config", file.string(), "-p", "x"});
  fuzz::Require(arguments.size() >= 5 && arguments[2] == "run" && arguments.back() == "x",
                "a file's flags stand behind the command");
}

}  // namespace
}  // namespace sluice

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text = sluice::fuzz::AsText(data, size);
  sluice::fuzz::Try(
      [&] { sluice::SpecFromConfig(sluice::HfConfig::FromTopologyYaml(text, "topology.yaml")); });
  sluice::fuzz::Try([&] { sluice::Expand(text); });
  return 0;
}
