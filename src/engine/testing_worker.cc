// The process that tests and benchmarks of WorkerProcess start as their worker.
#include "engine/testing_worker.h"

#include <signal.h>
#include <unistd.h>

#include <cstdlib>
#include <memory>

#include "arch/testing.h"
#include "base/error.h"
#include "engine/deferring_worker.h"
#include "engine/model_runner.h"
#include "engine/worker_process.h"

namespace sluice {
namespace {

// The tiny model with random weights, as the tests run it in their own process.
class ModelWorker : public Worker {
 public:
  ModelWorker()
      : spec_(TinyMoeSpec()),
        source_(ListTensors(spec_), DType::kF32, 1),
        runner_(spec_, source_, {.num_threads = 2, .num_pages = 8, .max_model_len = 64},
                std::make_unique<ModelRouting>()),
        worker_(runner_) {}
  WorkerInfo Info() const override { return worker_.Info(); }
  void Submit(const StepPlan& plan) override { worker_.Submit(plan); }
  StepResult Collect() override { return worker_.Collect(); }

 private:
  ModelSpec spec_;
  DummySource source_;
  ModelRunner runner_;
  InProcessWorker worker_;
};

class EchoWorker : public DeferringWorker {
 public:
  explicit EchoWorker(int num_pages) : num_pages_(num_pages) {}
  WorkerInfo Info() const override {
    return {.vocab_size = 1000,
            .max_model_len = 4096,
            .page_size = 16,
            .num_pages = num_pages_,
            .max_steps = 2};
  }

 private:
  StepResult Run(const StepPlan& plan) override {
    if (plan.step == kKillingStep) raise(SIGKILL);
    StepResult result{.step = plan.step};
    if (plan.step == kLosingStep) {
      result.error = "the device is gone";
      result.worker_lost = true;
      return result;
    }
    for (const SequenceSlice& slice : plan.slices) {
      SliceResult& answer = result.slices.emplace_back();
      answer.sequence = slice.sequence;
      for (const int32_t row : slice.sample_rows) {
        answer.samples.push_back({.token = slice.tokens.at(row) + 1, .top = {}});
      }
    }
    return result;
  }

  const int num_pages_;
};

std::unique_ptr<Worker> Load(const TestingOrder& order) {
  switch (order.worker) {
    case TestingWorker::kModel:
      return std::make_unique<ModelWorker>();
    case TestingWorker::kEcho:
      return std::make_unique<EchoWorker>(64);
    case TestingWorker::kChanged:
      return std::make_unique<EchoWorker>(order.replaces ? 32 : 64);
    case TestingWorker::kStalled:
      while (order.replaces) pause();
      return std::make_unique<EchoWorker>(64);
    case TestingWorker::kDying:
      std::_Exit(3);
    case TestingWorker::kRefused:
      break;
  }
  throw Error(ErrorCode::kResourceExhausted, "it does not fit: try another flag");
}

}  // namespace
}  // namespace sluice

int main(int argc, char** argv) {
  if (argc != 3) return 2;
  return sluice::ServeWorker(sluice::WorkerChannel(std::atoi(argv[1]), std::atoi(argv[2])),
                             [](sluice::WorkerChannel& channel) {
                               return sluice::Load(channel.Receive<sluice::TestingOrder>());
                             });
}
