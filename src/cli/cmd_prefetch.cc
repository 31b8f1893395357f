#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <boost/json/array.hpp>
#include <boost/json/serialize.hpp>
#include <memory>

#include "base/machine.h"
#include "cli/commands.h"
#include "cli/model_flags.h"
#include "cli/trace_flags.h"
#include "study/prefetch.h"

namespace sluice {
namespace {

namespace json = boost::json;

struct PrefetchFlags {
  RunFlags run;
  std::vector<int> slots = {4, 8, 16, 32, 64};
  std::vector<int> look_ahead = {1, 2, 3};
  std::vector<int> row_entries = {0};
  double half_life = 0.0;
  bool json = false;
};

// One table: how far it looks ahead, how long its rows are, and how it did.
struct Played {
  PrefetchOptions options;
  std::unique_ptr<PrefetchStudy> study;
};

std::vector<Played> Play(const PrefetchFlags& flags, BatchSource& source) {
  std::vector<Played> played;
  for (const int look_ahead : flags.look_ahead) {
    for (const int row_entries : flags.row_entries) {
      PrefetchOptions options{.slots = flags.slots, .look_ahead = look_ahead};
      options.table.row_entries = row_entries;
      options.table.half_life = flags.half_life;
      auto study = std::make_unique<PrefetchStudy>(source.header(), options);
      played.push_back({.options = options, .study = std::move(study)});
    }
  }
  RouterBatch batch;
  while (source.NextBatch(batch)) {
    for (Played& each : played) each.study->Add(batch);
  }
  return played;
}

void PrintHits(const std::vector<Played>& played) {
  fmt::print("of the experts that layers needed, fetched ahead by\n");
  fmt::print("{:>10}  {:>11}  {:>10}  {:>6}  {:>8}  {:>10}  {:>8}\n", "look ahead", "row entries",
             "table size", "slots", "table", "frequency", "best");
  for (const Played& each : played) {
    const int entries = each.options.table.row_entries;
    for (const PrefetchHits& hits : each.study->Hits()) {
      fmt::print("{:>10}  {:>11}  {:>10}  {:>6}  {:>6.1f} %  {:>8.1f} %  {:>6.1f} %\n",
                 each.options.look_ahead, entries == 0 ? "all" : std::to_string(entries),
                 FormatBytes(each.study->table_bytes()), hits.slots, 100 * hits.table,
                 100 * hits.frequency, 100 * hits.best);
    }
  }
}

int RunPrefetch(const PrefetchFlags& flags) {
  const std::unique_ptr<BatchSource> source = OpenRun(flags.run)();
  const std::vector<Played> played = Play(flags, *source);
  const RouterTraceHeader& header = source->header();
  if (flags.json) {
    json::array listed;
    for (const Played& each : played) listed.push_back(ToJson(*each.study, each.options));
    fmt::print("{}\n", json::serialize(json::object{{"model", header.model},
                                                    {"source", header.source},
                                                    {"experts", header.num_experts},
                                                    {"top_k", header.top_k},
                                                    {"tables", std::move(listed)}}));
    return 0;
  }
  fmt::print("{}, routed by {}: {} of {} experts\n", header.model, header.source, header.top_k,
             header.num_experts);
  PrintHits(played);
  return 0;
}

}  // namespace

Command AddStudyPrefetch(CLI::App& app) {
  auto flags = std::make_shared<PrefetchFlags>();
  CLI::App* command = app.add_subcommand(
      "prefetch", "How many of a layer's experts are known from the layers before it");
  AddRunFlags(*command, flags->run);
  const auto several = CLI::MultiOptionPolicy::TakeAll;
  command->add_option("--slots", flags->slots, "Experts fetched ahead for a layer, as 8 16 32")
      ->multi_option_policy(several)
      ->check(Quiet(CLI::Range(1, 65536)));
  command
      ->add_option("--look-ahead", flags->look_ahead, "Layers with experts to look ahead, as 1 2")
      ->multi_option_policy(several)
      ->check(Quiet(CLI::Range(1, 4096)));
  command
      ->add_option("--row-entries", flags->row_entries,
                   "Following experts that the table keeps for each expert, as 8 32 0; 0 = all")
      ->multi_option_policy(several)
      ->check(Quiet(CLI::Range(0, 65536)));
  command
      ->add_option("--half-life", flags->half_life,
                   "Tokens after which what was seen counts half; 0 = for ever alike")
      ->check(Quiet(CLI::NonNegativeNumber));
  command->add_flag("--json", flags->json, "Print every figure as JSON");
  return [flags] { return RunPrefetch(*flags); };
}

}  // namespace sluice
