#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <boost/json/object.hpp>
#include <boost/json/serialize.hpp>
#include <memory>

#include "base/machine.h"
#include "cli/commands.h"
#include "cli/loaded_model.h"
#include "cli/model_flags.h"

namespace sluice {
namespace {

struct DoctorFlags {
  ModelFlags model;
  bool json = false;
};

boost::json::object DescribeMachine() {
  const MemoryInfo memory = QueryMemory();
  return {{"cpu", CpuModelName()},
          {"cores", AvailableCores()},
          {"cpu_tier", CpuTierName(DetectCpuTier())},
          {"memory_total", memory.total_bytes},
          {"memory_available", memory.available_bytes}};
}

// What the model is and what it needs for each dtype, with one full-length sequence's KV cache.
boost::json::object DescribeModel(const OpenedModel& model, const ModelFlags& flags) {
  const ModelSpec& spec = model.spec;
  boost::json::object report{{"name", model.name},
                             {"family", spec.family},
                             {"parameters", ParameterCount(spec)},
                             {"layers", spec.num_layers},
                             {"experts", spec.moe.num_experts},
                             {"top_k", spec.moe.top_k},
                             {"positions", spec.max_positions},
                             {"stored_as", DTypeName(spec.checkpoint_dtype)},
                             {"random_weights", model.random_weights},
                             {"tokenizer", model.tokenizer != nullptr},
                             {"chat_template", model.chat_template.has_value()}};
  const uint64_t available = QueryMemory().available_bytes;
  boost::json::object needs;
  for (const char* dtype : {"float32", "bfloat16"}) {
    ModelFlags asked = flags;
    asked.dtype = dtype;
    const RunnerOptions options = ResolveRunnerOptions(spec, asked, {.max_num_seqs = 1});
    const MemoryNeeds memory = EstimateMemory(spec, options);
    needs[dtype] = {{"weights", memory.weight_bytes},
                    {"kv_cache_one_sequence", memory.kv_bytes},
                    {"step_scratch", memory.scratch_bytes},
                    {"active_bytes_per_token", ActiveBytesPerToken(spec, options.dtype)},
                    {"fits", memory.total() <= available}};
  }
  report["memory"] = std::move(needs);
  return report;
}

void Print(const boost::json::object& report) {
  const auto bytes = [](const boost::json::value& v) {
    return FormatBytes(v.to_number<uint64_t>());
  };
  const boost::json::object& machine = report.at("machine").as_object();
  fmt::print("machine\n  {} , {} cores, kernels {}\n  memory {} of {} available\n",
             machine.at("cpu").as_string().c_str(), machine.at("cores").as_int64(),
             machine.at("cpu_tier").as_string().c_str(), bytes(machine.at("memory_available")),
             bytes(machine.at("memory_total")));
  const boost::json::object& model = report.at("model").as_object();
  fmt::print("model {} ({})\n  {:.2f} M parameters, {} layers, {} positions, stored as {}\n",
             model.at("name").as_string().c_str(), model.at("family").as_string().c_str(),
             model.at("parameters").to_number<double>() / 1e6, model.at("layers").as_int64(),
             model.at("positions").as_int64(), model.at("stored_as").as_string().c_str());
  if (model.at("experts").as_int64() > 0) {
    fmt::print("  {} experts a layer, {} for each token\n", model.at("experts").as_int64(),
               model.at("top_k").as_int64());
  }
  fmt::print("  tokenizer: {}, chat template: {}\n", model.at("tokenizer").as_bool() ? "yes" : "no",
             model.at("chat_template").as_bool() ? "yes" : "no");
  for (const auto& [dtype, value] : model.at("memory").as_object()) {
    const boost::json::object& needs = value.as_object();
    fmt::print("  {:<9} weights {}, KV cache {} a full sequence, {} read a token: {}\n",
               std::string(dtype), bytes(needs.at("weights")),
               bytes(needs.at("kv_cache_one_sequence")), bytes(needs.at("active_bytes_per_token")),
               needs.at("fits").as_bool() ? "fits" : "does not fit in the memory available");
  }
}

int Doctor(const DoctorFlags& flags) {
  const OpenedModel model = OpenModel(flags.model);
  const boost::json::object report{{"machine", DescribeMachine()},
                                   {"model", DescribeModel(model, flags.model)}};
  if (flags.json) {
    fmt::print("{}\n", boost::json::serialize(report));
  } else {
    Print(report);
  }
  return 0;
}

}  // namespace

Command AddDoctor(CLI::App& app) {
  auto flags = std::make_shared<DoctorFlags>();
  CLI::App* command = app.add_subcommand(
      "doctor", "Say what this machine has, what a checkpoint holds and whether it will run");
  AddModelFlags(*command, flags->model);
  command->add_flag("--json", flags->json, "Print the report as JSON");
  return [flags] { return Doctor(*flags); };
}

}  // namespace sluice
