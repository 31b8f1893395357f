#include <spdlog/spdlog.h>

#include <algorithm>
#include <exception>
#include <mutex>
#include <string>
#include <utility>

#include "base/check.h"
#include "engine/model_runner.h"

namespace sluice {

InProcessWorker::InProcessWorker(ModelRunner& runner)
    : runner_(runner), scratch_(runner.pool().num_threads()) {}

InProcessWorker::~InProcessWorker() {
  while (!steps_.empty()) Collect();
}

void InProcessWorker::DigestRow(const SequenceSlice& slice, const ModelRunner::LogitsRow& row,
                                SliceResult& result) {
  SampleScratch& scratch = scratch_[row.thread];
  for (size_t i = 0; i < slice.score_rows.size(); ++i) {
    if (slice.score_rows[i].row != row.row) continue;
    result.scores[i] = ScoreToken(row.logits, slice.score_rows[i].target,
                                  slice.sample.params.prompt_logprobs.value_or(0), scratch);
  }
  const auto found = std::lower_bound(slice.sample_rows.begin(), slice.sample_rows.end(), row.row);
  if (found == slice.sample_rows.end() || *found != row.row) return;
  const auto nth = static_cast<int>(found - slice.sample_rows.begin());
  // The first row is every decode's: no copy of its history is made.
  result.samples[nth] = nth == 0 ? Sample(row.logits, slice.sample, scratch)
                                 : Sample(row.logits, slice.ContextOfSample(nth), scratch);
}

void InProcessWorker::Submit(const StepPlan& plan) {
  Step& step = steps_.emplace_back();
  StepResult& result = step.result;
  result.step = plan.step;
  for (const SequenceSlice& slice : plan.slices) {
    SliceResult& target = result.slices.emplace_back();
    target.sequence = slice.sequence;
    target.samples.resize(slice.sample_rows.size());
    target.scores.resize(slice.score_rows.size());
  }
  std::mutex error_mutex;
  const auto digest = [&](const ModelRunner::LogitsRow& row) {
    SliceResult& target = result.slices[row.slice];
    try {
      DigestRow(plan.slices[row.slice], row, target);
    } catch (const std::exception& error) {
      std::lock_guard lock(error_mutex);
      target.error = error.what();
    }
  };
  try {
    for (ModelRunner::SliceFailure& failure : runner_.Submit(plan, digest)) {
      result.slices[failure.slice].error = std::move(failure.error);
    }
    step.runs = true;
  } catch (const std::exception& error) {
    Fail(error, result);
  }
}

StepResult InProcessWorker::Collect() {
  SLUICE_CHECK(!steps_.empty());
  Step step = std::move(steps_.front());
  steps_.pop_front();
  if (!step.runs) return std::move(step.result);
  try {
    for (ModelRunner::DrawnRow& row : runner_.Collect()) {
      SliceResult& target = step.result.slices[row.slice];
      if (!row.error.empty()) target.error = std::move(row.error);
      target.samples[row.nth] = std::move(row.token);
    }
  } catch (const std::exception& error) {
    Fail(error, step.result);
  }
  return std::move(step.result);
}

bool InProcessWorker::Ready() {
  SLUICE_CHECK(!steps_.empty());
  return !steps_.front().runs || runner_.Ready();
}

void InProcessWorker::Fail(const std::exception& error, StepResult& result) const {
  spdlog::error("step {} failed: {}", result.step, error.what());
  result.slices.clear();
  result.error = "step " + std::to_string(result.step) + ": " + error.what();
  // An error inside a kernel ends the device's context: nothing runs in this process again.
  result.worker_lost = runner_.stream() != nullptr && !runner_.stream()->Works();
}

}  // namespace sluice
