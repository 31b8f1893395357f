#include "study/study_runner.h"

#include <fmt/chrono.h>
#include <fmt/format.h>

#include <boost/json/parse.hpp>
#include <boost/json/serialize.hpp>
#include <chrono>
#include <cmath>
#include <fstream>
#include <iterator>
#include <stop_token>

#include "base/error.h"
#include "base/machine.h"
#include "hub/file_lock.h"

namespace sluice {
namespace {

namespace fs = std::filesystem;
namespace json = boost::json;

// Writes beside and renames: a stop leaves the whole file or none.
void WriteFile(const fs::path& path, const std::string& text) {
  const fs::path part = path.string() + ".part";
  std::ofstream file(part, std::ios::binary | std::ios::trunc);
  file << text;
  file.close();
  std::error_code error;
  if (file) fs::rename(part, path, error);
  if (!file || error) {
    throw Error(ErrorCode::kResourceExhausted, path.string() + ": cannot be written");
  }
}

json::object ReadObject(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  const std::string text((std::istreambuf_iterator<char>(file)), {});
  boost::system::error_code error;
  const json::value value = json::parse(text, error);
  if (!file.is_open() || error || !value.is_object()) {
    throw Error(ErrorCode::kDataLoss,
                path.string() + ": is damaged; remove it and the study makes it again");
  }
  return value.as_object();
}

json::array TextsToJson(const std::vector<std::string>& texts) {
  return json::array(texts.begin(), texts.end());
}

fs::path RecordPath(const fs::path& dir, int run) {
  return dir / "runs" / fmt::format("{:05}.json", run + 1);
}

json::object LevelsOf(const StudyPlan& plan, int point) {
  json::object levels;
  const std::vector<int>& chosen = plan.design.points[point];
  for (size_t f = 0; f < chosen.size(); ++f) {
    const Factor& factor = plan.design.factors[f];
    levels[factor.name] = factor.levels[chosen[f]].value;
  }
  return levels;
}

// How the run ended, in words; what is wrong goes to `error`.
std::string Judge(const StudyPlan& plan, const ChildResult& child, json::value& result,
                  std::string& error) {
  boost::system::error_code parsed;
  result = json::parse(child.output, parsed);
  if (parsed) result = nullptr;
  if (child.timed_out) {
    error = fmt::format("killed after {:.0f} s", child.seconds);
    return "timed out";
  }
  if (child.exit_code != 0 || child.too_long) {
    error = child.too_long      ? "killed: it printed more than 64 MiB"
            : child.signal != 0 ? fmt::format("ended by signal {}", child.signal)
                                : fmt::format("exit code {}", child.exit_code);
    if (!child.diagnostics.empty()) error += ": " + child.diagnostics;
    return "failed";
  }
  if (parsed) {
    error = "what it printed is not JSON: " + parsed.message();
    return "failed";
  }
  for (const std::string& path : plan.responses) {
    if (FindResponse(result, path)) continue;
    error = "its result has no number at " + path;
    return "failed";
  }
  return "ok";
}

json::object DescribeMachine() {
  return {{"cpu", CpuModelName()},
          {"cores", AvailableCores()},
          {"cpu_tier", CpuTierName(DetectCpuTier())},
          {"memory_total", QueryMemory().total_bytes}};
}

json::object MakeRun(const StudyPlan& plan, const StudyRunOptions& options, int run,
                     const PlannedRun& planned) {
  const std::vector<std::string> arguments = RunArguments(plan, planned.point);
  const auto started = std::chrono::floor<std::chrono::seconds>(std::chrono::system_clock::now());
  const ChildResult child = RunChild(options.program, arguments, plan.timeout_s);
  json::value result;
  std::string error;
  const std::string status = Judge(plan, child, result, error);
  return {{"format", "sluice-study-run"},
          {"version", 1},
          {"study", plan.name},
          {"run", run + 1},
          {"point", planned.point},
          {"repeat", planned.repeat},
          {"factors", LevelsOf(plan, planned.point)},
          {"arguments", TextsToJson(arguments)},
          {"status", status},
          {"exit_code", child.exit_code},
          {"signal", child.signal},
          {"error", error},
          {"started", fmt::format("{:%Y-%m-%dT%H:%M:%SZ}", fmt::gmtime(started))},
          {"seconds", child.seconds},
          {"machine", DescribeMachine()},
          {"result", std::move(result)}};
}

StudyRecord RecordOf(const StudyPlan& plan, const json::object& object, int run,
                     const PlannedRun& planned, const fs::path& path) {
  try {
    StudyRecord record{.run = run, .planned = planned};
    record.status = std::string(object.at("status").as_string());
    record.error = std::string(object.at("error").as_string());
    record.seconds = object.at("seconds").to_number<double>();
    const bool same = object.at("point").to_number<int>() == planned.point &&
                      object.at("repeat").to_number<int>() == planned.repeat;
    if (!same) throw Error(ErrorCode::kDataLoss, "another run's");
    if (record.status != "ok") return record;
    for (const std::string& response : plan.responses) {
      record.responses.push_back(FindResponse(object.at("result"), response).value());
    }
    return record;
  } catch (const std::exception&) {
    throw Error(ErrorCode::kDataLoss,
                path.string() + ": is not the record of this run; remove it and it is made again");
  }
}

// Makes the folder, or sees that it is this plan's.
void OpenFolder(const StudyPlan& plan, const fs::path& dir) {
  std::error_code error;
  fs::create_directories(dir / "runs", error);
  if (error) {
    throw Error(ErrorCode::kResourceExhausted,
                dir.string() + ": cannot be made: " + error.message());
  }
  const fs::path path = dir / "study.json";
  const std::string text = json::serialize(ToJson(plan));
  if (!fs::exists(path)) {
    WriteFile(path, text + "\n");
    return;
  }
  if (json::serialize(ReadObject(path)) == text) return;
  throw Error(ErrorCode::kInvalidArgument,
              dir.string() +
                  ": holds the results of another design; give --out another folder, "
                  "or remove this one");
}

std::string CsvField(const json::value& value) {
  std::string text = value.is_string() ? std::string(value.as_string()) : json::serialize(value);
  if (text.find_first_of(",\"\n") == std::string::npos) return text;
  std::string quoted = "\"";
  for (const char c : text) quoted += c == '"' ? "\"\"" : std::string(1, c);
  return quoted + "\"";
}

std::string Csv(const StudyPlan& plan, const std::vector<StudyRecord>& records) {
  std::string text = "run,point,repeat";
  for (const Factor& factor : plan.design.factors)
    text += "," + CsvField(json::string(factor.name));
  text += ",status,seconds";
  for (const std::string& response : plan.responses) text += "," + CsvField(json::string(response));
  text += "\n";
  for (const StudyRecord& record : records) {
    text += fmt::format("{},{},{}", record.run + 1, record.planned.point, record.planned.repeat);
    for (const auto& level : LevelsOf(plan, record.planned.point)) {
      text += "," + CsvField(level.value());
    }
    text += fmt::format(",{},{:.3f}", record.status, record.seconds);
    for (size_t r = 0; r < plan.responses.size(); ++r) {
      text += record.responses.empty() ? "," : fmt::format(",{}", record.responses[r]);
    }
    text += "\n";
  }
  return text;
}

// The element of a list that one part of a path names: an index, or key=value.
const json::value* FindElement(const json::array& list, std::string_view part) {
  const size_t equals = part.find('=');
  if (equals == std::string_view::npos) {
    size_t index = 0;
    const bool digits = !part.empty() && part.size() < 10 &&
                        part.find_first_not_of("0123456789") == std::string_view::npos;
    if (!digits) return nullptr;
    for (const char digit : part) index = 10 * index + (digit - '0');
    return index < list.size() ? &list[index] : nullptr;
  }
  for (const json::value& element : list) {
    const json::object* object = element.if_object();
    const json::value* found =
        object == nullptr ? nullptr : object->if_contains(part.substr(0, equals));
    if (found != nullptr && CsvField(*found) == part.substr(equals + 1)) return &element;
  }
  return nullptr;
}

}  // namespace

std::optional<double> FindResponse(const json::value& result, const std::string& path) {
  const json::value* at = &result;
  for (size_t begin = 0; begin <= path.size() && at != nullptr;) {
    const size_t end = std::min(path.find('.', begin), path.size());
    const std::string_view part = std::string_view(path).substr(begin, end - begin);
    if (const json::object* object = at->if_object()) {
      at = object->if_contains(part);
    } else if (const json::array* list = at->if_array()) {
      at = FindElement(*list, part);
    } else {
      at = nullptr;
    }
    begin = end + 1;
  }
  if (at == nullptr || !at->is_number()) return std::nullopt;
  return at->to_number<double>();
}

std::vector<StudyRecord> RunStudy(const StudyPlan& plan, const StudyRunOptions& options,
                                  const std::function<void(const StudyRecord&)>& done) {
  const FileLock lock(options.dir / ".lock", std::stop_token());
  OpenFolder(plan, options.dir);
  const std::vector<PlannedRun> runs = RandomOrder(plan.design, plan.repeats, plan.seed);
  std::vector<StudyRecord> records;
  int made = 0;
  for (int run = 0; run < std::ssize(runs); ++run) {
    const fs::path path = RecordPath(options.dir, run);
    if (fs::exists(path)) {
      records.push_back(RecordOf(plan, ReadObject(path), run, runs[run], path));
      if (records.back().status == "ok" || !options.retry_failed) continue;
      records.pop_back();
    }
    if (options.max_runs > 0 && made == options.max_runs) continue;
    const json::object object = MakeRun(plan, options, run, runs[run]);
    WriteFile(path, json::serialize(object) + "\n");
    records.push_back(RecordOf(plan, object, run, runs[run], path));
    ++made;
    done(records.back());
  }
  WriteFile(options.dir / "runs.csv", Csv(plan, records));
  return records;
}

std::vector<PointSummary> Summarize(const StudyPlan& plan,
                                    const std::vector<StudyRecord>& records) {
  const size_t responses = plan.responses.size();
  std::vector<PointSummary> points;
  for (size_t p = 0; p < plan.design.points.size(); ++p) {
    points.push_back({.point = static_cast<int>(p),
                      .mean = std::vector<double>(responses),
                      .deviation = std::vector<double>(responses)});
  }
  for (const StudyRecord& record : records) {
    PointSummary& point = points[record.planned.point];
    if (record.status != "ok") {
      ++point.failed;
      continue;
    }
    // Welford: the deviation holds the sum of squares until all are in.
    ++point.runs;
    for (size_t r = 0; r < responses; ++r) {
      const double off = record.responses[r] - point.mean[r];
      point.mean[r] += off / point.runs;
      point.deviation[r] += off * (record.responses[r] - point.mean[r]);
    }
  }
  for (PointSummary& point : points) {
    for (double& deviation : point.deviation) {
      deviation = point.runs > 1 ? std::sqrt(deviation / (point.runs - 1)) : 0.0;
    }
  }
  return points;
}

}  // namespace sluice
