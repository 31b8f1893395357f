#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <boost/json/array.hpp>
#include <boost/json/object.hpp>
#include <boost/json/serialize.hpp>
#include <filesystem>
#include <fstream>
#include <memory>
#include <sstream>

#include "base/error.h"
#include "base/machine.h"
#include "checkpoint/weight_files.h"
#include "cli/commands.h"
#include "cli/embedded_model.h"
#include "cli/loaded_model.h"
#include "cli/model_flags.h"
#include "engine/expert_budget.h"
#include "hub/model_places.h"
#include "tokenizer/tokenizer_style.h"

namespace sluice {
namespace {

namespace fs = std::filesystem;
namespace json = boost::json;

struct DoctorFlags {
  ModelFlags model;
  EngineFlags engine;
  bool json = false;
};

// The name that --dtype knows the type by.
std::string FlagOf(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return "float32";
    case DType::kBF16:
      return "bfloat16";
    case DType::kF16:
      return "float16";
    default:
      return std::string(DTypeName(dtype));
  }
}

json::object DescribeMachine() {
  const MemoryInfo memory = QueryMemory();
  const ModelPlaces places = ModelPlacesFromEnvironment();
  json::array models;
  for (const LocalModel& model : ListModels(places)) models.emplace_back(model.name);
  json::array gpus;
  for (const CudaDeviceInfo& gpu : CudaDevices()) {
    gpus.push_back(
        {{"name", gpu.name},
         {"compute_capability", fmt::format("{}.{}", gpu.compute_major, gpu.compute_minor)},
         {"memory_total", gpu.total_bytes},
         {"memory_free", CudaFreeBytes(gpu.ordinal)}});
  }
  return {{"cpu", CpuModelName()},
          {"cores", AvailableCores()},
          {"cpu_tier", CpuTierName(DetectCpuTier())},
          {"memory_total", memory.total_bytes},
          {"memory_available", memory.available_bytes},
          {"cuda_built", kCudaBuilt},
          {"gpus", std::move(gpus)},
          {"model_dir", places.model_dir.value_or("").string()},
          {"hub_cache", places.hub_cache.value_or("").string()},
          {"models", std::move(models)}};
}

// How many experts could stay in memory where all of them do not fit; 0 when not even the fewest
// would, or when the model has none.
int ExpertSlotsThatFit(const ModelSpec& spec, const RunnerOptions& options, uint64_t available) {
  if (spec.moe.num_experts == 0 || SmallestBudget(spec, options) > available) return 0;
  return SlotsWithin(spec, options, available);
}

// Places experts as the flags' budgets say; returns why that, or all together, does not fit. Empty
// where it does.
std::string WhyItDoesNotFit(const ModelSpec& spec, const OffloadFlags& flags,
                            RunnerOptions& options) {
  try {
    PlaceExperts(spec, flags, options);
    CheckFits(spec, options, EstimateMemory(spec, options));
  } catch (const Error& error) {
    if (error.code() != ErrorCode::kResourceExhausted) throw;
    return error.what();
  }
  return "";
}

// What the model needs with its weights held as `dtype`, under the flags that `serve` would get.
json::object DescribeNeeds(const ModelSpec& spec, const DoctorFlags& flags, DType dtype) {
  ModelFlags asked = flags.model;
  asked.dtype = FlagOf(dtype);
  RunnerOptions options = ResolveRunnerOptions(spec, asked, flags.engine);
  const std::string why_not = WhyItDoesNotFit(spec, asked.offload, options);
  const MemoryNeeds needs = EstimateMemory(spec, options);
  const KvLayout kv = KvLayoutOf(spec, options);
  const int64_t pages = (options.max_model_len + options.page_size - 1) / options.page_size;
  json::object described{{"weights", needs.weight_bytes},
                         {"kv_cache", needs.kv_bytes},
                         {"kv_cache_positions", int64_t{options.num_pages} * options.page_size},
                         {"kv_cache_one_sequence", kv.BytesPerPage() * pages},
                         {"step_scratch", needs.scratch_bytes},
                         {"process", needs.process_bytes},
                         {"total", needs.total()},
                         {"on_gpu", options.cuda.has_value()},
                         {"active_bytes_per_token", ActiveBytesPerToken(spec, dtype)},
                         {"fits", why_not.empty()}};
  if (options.expert_slots > 0) {
    described["expert_slots"] = options.expert_slots;
    described["experts_in_slots"] = needs.expert_bytes;
    described["host_expert_slots"] = options.offload.host_slots;
    described["experts_on_host"] = needs.host_expert_bytes;
    described["experts"] = ExpertsInAll(spec, options);
  }
  if (why_not.empty()) return described;
  described["why_not"] = why_not;
  const bool bounded = VramBudget(asked.offload).has_value();
  described["expert_slots_that_fit"] =
      bounded ? 0 : ExpertSlotsThatFit(spec, options, AvailableMemory(options));
  return described;
}

std::string StyleOfTokenizer(const OpenedModel& model, const ModelFlags& flags) {
  if (model.tokenizer == nullptr) return "";
  if (flags.model.empty() && flags.tokenizer.empty()) {
    return TokenizerStyle(GetEmbeddedModel().tokenizer_json);
  }
  const fs::path dir = flags.tokenizer.empty()
                           ? fs::path(model.origin)
                           : FindModel(flags.tokenizer, "", ModelPlacesFromEnvironment()).dir;
  std::ifstream file(dir / "tokenizer.json", std::ios::binary);
  std::ostringstream text;
  text << file.rdbuf();
  return TokenizerStyle(text.str());
}

void DescribeSpec(const ModelSpec& spec, json::object& report) {
  report["family"] = spec.family;
  report["parameters"] = ParameterCount(spec);
  report["active_parameters"] = ActiveParameterCount(spec);
  report["layers"] = spec.num_layers;
  report["moe_layers"] = spec.NumMoeLayers();
  report["experts"] = spec.moe.num_experts;
  report["top_k"] = spec.moe.top_k;
  report["positions"] = spec.max_positions;
  report["stored_as"] = DTypeName(spec.checkpoint_dtype);
}

void DescribeFiles(const WeightFiles& files, json::object& report) {
  json::array listed;
  for (const WeightFiles::File& file : files.files) {
    listed.push_back({{"name", file.name}, {"bytes", file.bytes}, {"tensors", file.tensors}});
  }
  report["weight_files"] = std::move(listed);
  json::object stored;
  for (const auto& [dtype, bytes] : files.stored_bytes) stored[dtype] = bytes;
  report["stored_bytes"] = std::move(stored);
}

// What the model is, what is wrong with it, and what it needs in each format.
json::object DescribeModel(const DoctorFlags& flags) {
  ModelFlags asked = flags.model;
  const bool is_folder = !asked.model.empty() && asked.topology.empty();
  std::vector<std::string> problems;
  json::object report;
  if (is_folder && asked.load_format != "dummy") {
    const LocalModel local = FindModel(asked.model, asked.revision, ModelPlacesFromEnvironment());
    const WeightFiles files = InspectWeightFiles(local.dir);
    DescribeFiles(files, report);
    problems = files.problems;
    // What is wrong with the files is said; the rest can be looked at without them.
    if (!problems.empty()) asked.load_format = "dummy";
  }
  const OpenedModel model = ExamineModel(asked, problems);
  report["name"] = model.name;
  report["folder"] = model.origin;
  report["random_weights"] = flags.model.load_format == "dummy" || !flags.model.topology.empty();
  report["quantization"] = model.quantization;
  report["tokenizer"] = model.tokenizer != nullptr;
  report["tokenizer_style"] = StyleOfTokenizer(model, flags.model);
  report["tokens"] = model.tokenizer == nullptr ? 0 : model.tokenizer->vocab_size();
  report["chat_template"] = model.chat_template.has_value();
  bool fits = false;
  if (model.spec.num_layers > 0) {
    if (std::string why = WhyNotRun(model.spec); !why.empty()) problems.push_back(std::move(why));
    DescribeSpec(model.spec, report);
    json::object needs;
    for (const DType dtype : WeightDTypes()) {
      needs[FlagOf(dtype)] = DescribeNeeds(model.spec, flags, dtype);
    }
    const std::string dtype = FlagOf(ParseDType(asked.dtype, model.spec.checkpoint_dtype));
    const json::value* own = needs.if_contains(dtype);
    fits = own != nullptr && own->at("fits").as_bool();
    report["dtype"] = dtype;
    report["memory"] = std::move(needs);
  }
  report["runs"] = fits && problems.empty();
  report["problems"] = json::array(problems.begin(), problems.end());
  return report;
}

std::string Bytes(const json::value& bytes) {
  return FormatBytes(bytes.to_number<uint64_t>());
}

std::string Text(const json::value& text) {
  return std::string(text.as_string());
}

void PrintMachine(const json::object& machine) {
  fmt::print("machine\n  {}, {} cores, kernels {}\n  memory {} of {} available\n",
             Text(machine.at("cpu")), machine.at("cores").as_int64(), Text(machine.at("cpu_tier")),
             Bytes(machine.at("memory_available")), Bytes(machine.at("memory_total")));
  for (const json::value& value : machine.at("gpus").as_array()) {
    const json::object& gpu = value.as_object();
    fmt::print("  GPU {}, compute capability {}, memory {} of {} free\n", Text(gpu.at("name")),
               Text(gpu.at("compute_capability")), Bytes(gpu.at("memory_free")),
               Bytes(gpu.at("memory_total")));
  }
  const std::string model_dir = Text(machine.at("model_dir"));
  fmt::print("  models in MODEL_DIR ({}) and {}:", model_dir.empty() ? "not set" : model_dir,
             Text(machine.at("hub_cache")));
  for (const json::value& name : machine.at("models").as_array()) fmt::print(" {}", Text(name));
  fmt::print("{}\n", machine.at("models").as_array().empty() ? " none" : "");
}

// "7.34 M", "30.5 B".
std::string Count(const json::value& number) {
  const auto count = number.to_number<double>();
  return count < 1e9 ? fmt::format("{:.3g} M", count / 1e6) : fmt::format("{:.1f} B", count / 1e9);
}

void PrintSpec(const json::object& model) {
  fmt::print("  {}: {} parameters, {} for each token; {} layers, {} positions\n",
             Text(model.at("family")), Count(model.at("parameters")),
             Count(model.at("active_parameters")), model.at("layers").as_int64(),
             model.at("positions").as_int64());
  if (model.at("experts").as_int64() > 0) {
    fmt::print("  {} experts in each of {} layers, {} for each token\n",
               model.at("experts").as_int64(), model.at("moe_layers").as_int64(),
               model.at("top_k").as_int64());
  }
  const std::string quantization = Text(model.at("quantization"));
  fmt::print("  stored as {}{}{}\n", Text(model.at("stored_as")),
             quantization.empty() ? "" : ", quantised: ", quantization);
}

void PrintMemory(const json::object& model) {
  for (const auto& [dtype, value] : model.at("memory").as_object()) {
    const json::object& needs = value.as_object();
    const bool fits = needs.at("fits").as_bool();
    fmt::print(
        "  {:<9} needs {}{}: weights {}, KV cache {} for {} positions, step {}, process {}\n",
        std::string(dtype), Bytes(needs.at("total")),
        needs.at("on_gpu").as_bool() ? " of GPU memory" : "", Bytes(needs.at("weights")),
        Bytes(needs.at("kv_cache")), needs.at("kv_cache_positions").as_int64(),
        Bytes(needs.at("step_scratch")), Bytes(needs.at("process")));
    fmt::print("            {} read for each token; {}\n",
               Bytes(needs.at("active_bytes_per_token")),
               fits ? "fits" : "does not fit in the memory available");
    if (needs.contains("expert_slots")) {
      fmt::print("            {} of {} experts have a slot ({}), {} lie in host memory ({})\n",
                 needs.at("expert_slots").as_int64(), needs.at("experts").as_int64(),
                 Bytes(needs.at("experts_in_slots")), needs.at("host_expert_slots").as_int64(),
                 Bytes(needs.at("experts_on_host")));
    }
    if (fits) continue;
    fmt::print("            {}\n", Text(needs.at("why_not")));
    if (needs.at("expert_slots_that_fit").as_int64() == 0) continue;
    fmt::print("            would fit with --expert-slots {}\n",
               needs.at("expert_slots_that_fit").as_int64());
  }
}

void PrintModel(const json::object& model) {
  fmt::print("model {} ({})\n", Text(model.at("name")), Text(model.at("folder")));
  if (model.contains("family")) PrintSpec(model);
  if (const json::value* files = model.if_contains("weight_files")) {
    uint64_t bytes = 0;
    uint64_t tensors = 0;
    for (const json::value& file : files->as_array()) {
      bytes += file.at("bytes").to_number<uint64_t>();
      tensors += file.at("tensors").to_number<uint64_t>();
    }
    fmt::print("  {} weight files, {}, {} tensors\n", files->as_array().size(), FormatBytes(bytes),
               tensors);
  }
  if (model.at("tokenizer").as_bool()) {
    fmt::print("  tokenizer: {}, {} tokens", Text(model.at("tokenizer_style")),
               model.at("tokens").as_int64());
  } else {
    fmt::print("  tokenizer: none");
  }
  fmt::print("; chat template: {}\n", model.at("chat_template").as_bool() ? "yes" : "no");
  if (model.contains("memory")) PrintMemory(model);
  for (const json::value& problem : model.at("problems").as_array()) {
    fmt::print("  problem: {}\n", Text(problem));
  }
  fmt::print("  {}\n", model.at("runs").as_bool() ? "runs here" : "does not run here as it is");
}

int Doctor(const DoctorFlags& flags) {
  const json::object report{{"machine", DescribeMachine()}, {"model", DescribeModel(flags)}};
  if (flags.json) {
    fmt::print("{}\n", json::serialize(report));
  } else {
    PrintMachine(report.at("machine").as_object());
    PrintModel(report.at("model").as_object());
  }
  return report.at("model").at("runs").as_bool() ? 0 : 1;
}

}  // namespace

Command AddDoctor(CLI::App& app) {
  auto flags = std::make_shared<DoctorFlags>();
  CLI::App* command = app.add_subcommand(
      "doctor",
      "Say what this machine has, what a checkpoint holds, what is wrong with it, what it needs in "
      "memory and whether it will run; exits 1 when it will not");
  AddModelFlags(*command, flags->model);
  AddBatchFlags(*command, flags->engine);
  command->add_flag("--json", flags->json, "Print the report as JSON");
  return [flags] { return Doctor(*flags); };
}

}  // namespace sluice
