#include "cli/trace_flags.h"

#include <CLI/CLI.hpp>
#include <memory>

#include "base/error.h"
#include "cli/model_flags.h"

namespace sluice {

CLI::Option* AddSyntheticFlags(CLI::App& command, SyntheticFlags& flags) {
  const char* group = "Synthetic run";
  CLI::Option* source = command.add_option(
      "--source", flags.source,
      "uniform[:seed], zipf:S[:seed], skewed:F[:seed], markov:P[:seed] (each expert follows that "
      "of the layer before with probability P) or drifting:N[:seed] (the hot experts move on every "
      "N steps)");
  source->group(group);
  const auto count = Quiet(CLI::Range(1, 1 << 20));
  SyntheticRun& run = flags.run;
  command.add_option("--layers", run.num_layers, "Layers, all with experts")
      ->check(count)
      ->group(group);
  command.add_option("--experts", run.num_experts, "Experts of a layer")
      ->check(count)
      ->group(group);
  command.add_option("--top-k", run.top_k, "Experts of a token")->check(count)->group(group);
  command.add_option("--sequences", run.sequences, "Sequences side by side, one token each a step")
      ->check(count)
      ->group(group);
  command.add_option("--steps", run.steps, "Steps")
      ->check(Quiet(CLI::Range(1, 1 << 30)))
      ->group(group);
  return source;
}

void AddRunFlags(CLI::App& command, RunFlags& flags) {
  command.add_option("trace", flags.trace, "A trace, as --router-trace writes it");
  AddSyntheticFlags(command, flags.synthetic);
}

OpenSource OpenRun(const RunFlags& flags) {
  if (flags.trace.empty() == flags.synthetic.source.empty()) {
    throw Error(ErrorCode::kInvalidArgument,
                "name what to study: either a trace, or a distribution with --source");
  }
  if (!flags.trace.empty()) {
    return [path = flags.trace] { return std::make_unique<RouterTraceReader>(path); };
  }
  return [desc = ParseSynthetic(flags.synthetic.source), run = flags.synthetic.run] {
    return std::make_unique<SyntheticBatches>(desc, run);
  };
}

}  // namespace sluice
