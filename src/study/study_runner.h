#pragma once

#include <boost/json/object.hpp>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "study/child_process.h"
#include "study/study_file.h"

namespace sluice {

struct StudyRunOptions {
  std::filesystem::path dir;  // of the study's results; made
  std::string program;        // this binary
  bool retry_failed = false;  // run again what is recorded as failed
  int max_runs = 0;           // runs to make before stopping, 0 = all
};

// What a study has so far, for one row of its table.
struct StudyRecord {
  int run = 0;  // its place in the order, from 0
  PlannedRun planned;
  std::string status;  // "ok", "failed" or "timed out"
  double seconds = 0.0;
  std::string error;              // empty where status is "ok"
  std::vector<double> responses;  // [responses] of the plan, where status is "ok"
};

// Runs what has no record yet, one run after the other in the plan's order, each in a process of
// its own. A run that fails is recorded and the study goes on. Results, under options.dir:
//
//   study.json          the plan: another plan's folder is refused
//   runs/00017.json     one a run: what was run, where, how it ended, and the command's JSON
//   runs.csv            run, repeat, factors, status, seconds and responses, written at the end
//
// `done` is called after each run that was made. Returns every record, in the order of runs. Throws
// Error(kInvalidArgument) for a folder of another plan, kDataLoss for a damaged record,
// kUnavailable while another process runs a study there, kResourceExhausted when results cannot be
// written.
std::vector<StudyRecord> RunStudy(const StudyPlan& plan, const StudyRunOptions& options,
                                  const std::function<void(const StudyRecord&)>& done);

// The number at `path` of a result (see StudyPlan); empty where there is none.
std::optional<double> FindResponse(const boost::json::value& result, const std::string& path);

// Mean and standard deviation of each response over the repeats of each point.
struct PointSummary {
  int point = 0;
  int runs = 0;  // that are ok
  int failed = 0;
  std::vector<double> mean;       // [responses]
  std::vector<double> deviation;  // of a sample; 0 for one run
};
std::vector<PointSummary> Summarize(const StudyPlan& plan, const std::vector<StudyRecord>& records);

}  // namespace sluice
