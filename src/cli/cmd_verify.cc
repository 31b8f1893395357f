#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <boost/json/object.hpp>
#include <boost/json/serialize.hpp>
#include <fstream>
#include <iterator>
#include <memory>
#include <set>
#include <string>

#include "base/machine.h"
#include "cli/commands.h"
#include "cli/loaded_model.h"
#include "cli/model_flags.h"
#include "engine/verify.h"

namespace sluice {
namespace {

struct VerifyFlags {
  ModelFlags model;
  std::string golden;
  std::string logits_out;
  std::string text;
  int window = 2048;
  bool replay_routing = false;
  bool require_fast = false;
  bool json = false;
};

// A routing trace of this model, to be filled by a MemoryRecorder.
std::shared_ptr<InMemoryTrace> MakeTrace(const OpenedModel& model) {
  return std::make_shared<InMemoryTrace>(
      RouterTraceHeader{.model = model.name,
                        .num_layers = model.spec.num_layers,
                        .num_experts = model.spec.moe.num_experts,
                        .top_k = model.spec.moe.top_k,
                        .source = "model"});
}

// Logits of every row of the golden, and in `trace`, when given, the experts that were used.
Tensor RunGolden(ModelRunner& runner, const Golden& golden, InMemoryTrace* trace) {
  std::vector<std::span<const TokenId>> rows;
  for (int b = 0; b < golden.batch; ++b) rows.push_back(golden.row(b));
  std::unique_ptr<MemoryRecorder> recorder;
  if (trace != nullptr) recorder = std::make_unique<MemoryRecorder>(*trace);
  runner.SetObserver(recorder.get());
  Tensor logits = ForwardSequences(runner, rows);
  runner.SetObserver(nullptr);
  return logits;
}

int64_t TokensWithOtherExperts(const ModelSpec& spec, const Golden& golden,
                               const InMemoryTrace& ours, const InMemoryTrace& reference) {
  int64_t differing = 0;
  for (int b = 0; b < golden.batch; ++b) {
    for (int t = 0; t < golden.length; ++t) {
      const RoutingKey key{.sequence = static_cast<uint64_t>(b), .position = t};
      for (int layer : MoeLayers(spec)) {
        const auto a = ours.Find(layer, key).value().experts;
        const auto r = reference.Find(layer, key).value().experts;
        if (std::set<uint16_t>(a.begin(), a.end()) != std::set<uint16_t>(r.begin(), r.end())) {
          ++differing;
          break;
        }
      }
    }
  }
  return differing;
}

void WriteLogits(const std::string& path, const Tensor& logits) {
  const std::string header = fmt::format(
      R"({{"logits":{{"dtype":"F32","shape":[{},{},{}],"data_offsets":[0,{}]}}}})",
      logits.shape()[0], logits.shape()[1], logits.shape()[2], logits.view().NumBytes());
  std::ofstream file(path, std::ios::binary);
  const uint64_t length = header.size();
  file.write(reinterpret_cast<const char*>(&length), sizeof(length));
  file.write(header.data(), std::ssize(header));
  file.write(static_cast<const char*>(logits.view().raw()), logits.view().NumBytes());
  if (!file.flush()) {
    throw Error(ErrorCode::kResourceExhausted, "cannot write the logits to '" + path + "'");
  }
}

std::string Kernels(const RunnerOptions& options) {
  if (options.cuda.has_value()) return fmt::format("cuda, {} weights", DTypeName(options.dtype));
  return fmt::format("cpu {}, {} weights",
                     options.reference_ops ? "reference" : CpuTierName(options.tier),
                     DTypeName(options.dtype));
}

// The golden's part of the report. Sets `passed` to false past a tolerance.
// What ran slowly, for want of a kernel made for this machine and these shapes.
boost::json::array Fallbacks(const ModelRunner& runner) {
  const RunnerOptions& options = runner.options();
  if (options.reference_ops) return {"the plain references"};
  if (runner.stream() == nullptr) {
    return options.tier == CpuTier::kPortable ? boost::json::array{"the portable tier"}
                                              : boost::json::array{};
  }
  const std::set<std::string>& ops = runner.stream()->fallbacks();
  return boost::json::array(ops.begin(), ops.end());
}

boost::json::object VerifyGolden(const VerifyFlags& flags, const OpenedModel& model,
                                 const RunnerOptions& options, const Golden& golden, bool& passed) {
  if (golden.vocab_size != model.spec.vocab_size) {
    throw Error(ErrorCode::kDataLoss,
                fmt::format("the golden's logits have {} columns, the model's vocabulary {}",
                            golden.vocab_size, model.spec.vocab_size));
  }
  for (TokenId id : golden.input_ids) {
    if (id >= 0 && id < golden.vocab_size) continue;
    throw Error(ErrorCode::kDataLoss,
                fmt::format("the golden's input_ids hold {}, the vocabulary ends at {}", id,
                            golden.vocab_size - 1));
  }
  const bool moe = model.spec.moe.num_experts > 0;
  std::shared_ptr<InMemoryTrace> reference = moe ? MakeTrace(model) : nullptr;
  std::shared_ptr<InMemoryTrace> ours = moe ? MakeTrace(model) : nullptr;
  if (moe && options.dtype != DType::kF32) {
    RunnerOptions f32 = options;
    f32.dtype = DType::kF32;
    f32.kv_dtype = std::nullopt;
    RunGolden(*LoadRunner(model, flags.model, f32), golden, reference.get());
  }
  const std::unique_ptr<ModelRunner> runner = LoadRunner(model, flags.model, options);
  if (moe && flags.replay_routing && options.dtype != DType::kF32) {
    runner->SetRouting(std::make_unique<ReplayRouting>(reference));
  }
  const Tensor logits = RunGolden(*runner, golden, ours.get());
  if (!flags.logits_out.empty()) WriteLogits(flags.logits_out, logits);
  const auto count = static_cast<size_t>(logits.view().NumElements());
  const LogitsDistance distance =
      CompareLogits({logits.data<float>(), count}, golden.logits, golden.vocab_size);
  const double tolerance = ToleranceOf(options.dtype);
  passed = passed && distance.relative_l2 <= tolerance;

  boost::json::object report{{"tokens", golden.batch * golden.length},
                             {"relative_l2", distance.relative_l2},
                             {"max_abs_error", distance.max_abs},
                             {"mean_kl", distance.mean_kl},
                             {"tolerance", tolerance}};
  if (moe) {
    report["tokens_with_other_experts"] =
        options.dtype == DType::kF32
            ? 0
            : TokensWithOtherExperts(model.spec, golden, *ours, *reference);
  }
  if (!passed && moe && !flags.replay_routing && options.dtype != DType::kF32) {
    report["hint"] = "rounding chose other experts; --replay-routing compares with the same ones";
  }
  // A replayed routing knows the golden's own positions only, so there is nothing to continue with.
  const bool replayed = moe && flags.replay_routing && options.dtype != DType::kF32;
  if (!golden.greedy_ids.empty() && !replayed) {
    const std::vector<TokenId> text =
        GreedyContinuation(*runner, golden.row(0), static_cast<int>(golden.greedy_ids.size()));
    const auto [mine, theirs] = std::mismatch(text.begin(), text.end(), golden.greedy_ids.begin());
    const bool same = mine == text.end();
    report["greedy_tokens"] = text.size();
    report["first_greedy_mismatch"] =
        same ? boost::json::value(nullptr) : boost::json::value(mine - text.begin());
    // In a rounded dtype a near-tie may fall the other way; in f32 the text has to be the same.
    if (options.dtype == DType::kF32) passed = passed && same;
  }
  report["fallbacks"] = Fallbacks(*runner);
  return report;
}

boost::json::object VerifyText(const VerifyFlags& flags, const OpenedModel& model,
                               const RunnerOptions& options) {
  if (model.tokenizer == nullptr) {
    throw Error(ErrorCode::kNotFound, "--text needs a tokenizer: name its folder with --tokenizer");
  }
  std::ifstream file(flags.text, std::ios::binary);
  if (!file) throw Error(ErrorCode::kNotFound, "cannot read '" + flags.text + "'");
  const std::string text{std::istreambuf_iterator<char>(file), {}};
  const std::vector<TokenId> tokens = model.tokenizer->Encode(text);
  if (tokens.size() < 2) {
    throw Error(ErrorCode::kInvalidArgument, "'" + flags.text + "' has fewer than two tokens");
  }
  const std::unique_ptr<ModelRunner> runner = LoadRunner(model, flags.model, options);
  const TextLoss loss = ScoreText(*runner, tokens, std::min(flags.window, options.max_model_len));
  return {{"file", flags.text},        {"window", std::min(flags.window, options.max_model_len)},
          {"tokens", loss.tokens},     {"predicted_tokens", loss.predicted_tokens},
          {"mean_nll", loss.mean_nll}, {"fallbacks", Fallbacks(*runner)}};
}

void Print(const boost::json::object& report) {
  for (const auto& [key, value] : report) {
    if (value.is_object()) {
      fmt::print("{}:\n", std::string(key));
      for (const auto& [name, inner] : value.as_object()) {
        fmt::print("  {:<28}{}\n", std::string(name), boost::json::serialize(inner));
      }
    } else {
      fmt::print("{:<30}{}\n", std::string(key), boost::json::serialize(value));
    }
  }
}

int Verify(const VerifyFlags& flags) {
  const OpenedModel model = OpenModel(flags.model);
  RunnerOptions options = ResolveRunnerOptions(model.spec, flags.model, {});
  std::string golden_file = flags.golden;
  if (golden_file.empty() && flags.text.empty()) golden_file = model.origin + "/golden.safetensors";

  if (!golden_file.empty() && flags.golden.empty() && flags.model.model.empty()) {
    throw Error(ErrorCode::kInvalidArgument,
                "nothing to verify the embedded model against: give --golden FILE or --text FILE");
  }
  if (golden_file.empty() && !flags.logits_out.empty()) {
    throw Error(ErrorCode::kInvalidArgument, "--logits-out writes a golden's logits: add --golden");
  }
  bool passed = true;
  boost::json::object report{{"model", model.name}, {"kernels", Kernels(options)}};
  if (!golden_file.empty()) {
    const Golden golden = LoadGolden(golden_file);
    const int positions = golden.length + static_cast<int>(golden.greedy_ids.size());
    options.num_pages = golden.batch * (positions / options.page_size + 1);
    options.max_step_rows = golden.batch * golden.length;
    report["golden"] = VerifyGolden(flags, model, options, golden, passed);
  }
  if (!flags.text.empty()) {
    options.num_pages = std::min(flags.window, options.max_model_len) / options.page_size + 1;
    report["text"] = VerifyText(flags, model, options);
  }
  for (const char* part : {"golden", "text"}) {
    if (!flags.require_fast || !report.contains(part)) continue;
    if (report[part].as_object().at("fallbacks").as_array().empty()) continue;
    report["require_fast"] = "a fallback kernel ran";
    passed = false;
  }
  report["passed"] = passed;
  if (flags.json) {
    fmt::print("{}\n", boost::json::serialize(report));
  } else {
    Print(report);
  }
  return passed ? 0 : 1;
}

}  // namespace

Command AddVerify(CLI::App& app) {
  auto flags = std::make_shared<VerifyFlags>();
  CLI::App* command = app.add_subcommand(
      "verify", "Run a checkpoint against reference logits, or score a text with it");
  AddModelFlags(*command, flags->model);
  command->add_option("--golden", flags->golden,
                      "Safetensors file of input_ids, logits and optional greedy_ids; default: "
                      "golden.safetensors in the model's folder");
  command->add_option("--text", flags->text,
                      "Text file: print the mean negative log-likelihood per token");
  command->add_option("--window", flags->window, "Tokens of text scored together")
      ->check(Quiet(CLI::Range(2, 1 << 20)));
  command->add_option("--logits-out", flags->logits_out,
                      "Write our logits to this safetensors file");
  command->add_flag("--replay-routing", flags->replay_routing,
                    "Take every token's experts from a run in float32");
  command->add_flag("--require-fast", flags->require_fast, "Fail if a fallback kernel ran");
  command->add_flag("--json", flags->json, "Print the report as JSON");
  return [flags] { return Verify(*flags); };
}

}  // namespace sluice
