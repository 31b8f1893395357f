#pragma once

#include <cstdint>
#include <tuple>

namespace sluice {

// What the worker process of tests and benchmarks (testing_worker.cc) may be ordered to be.
enum class TestingWorker {
  kModel,    // runs the tiny model
  kEcho,     // answers each sample row with the token after its own
  kRefused,  // throws Error(kResourceExhausted) while it loads
  kDying,    // exits while it loads
  kChanged,  // as kEcho for the first time, and with another Info where it replaces one
  kStalled,  // as kEcho for the first time, and never loaded where it replaces one
};
constexpr TestingWorker LastOf(TestingWorker) {
  return TestingWorker::kStalled;
}

struct TestingOrder {
  TestingWorker worker = TestingWorker::kModel;
  bool replaces = false;
};
inline auto Fields(TestingOrder& order) {
  auto& [worker, replaces] = order;
  return std::tie(worker, replaces);
}

// Steps by which kEcho ends: killed by a signal, or with a result that says so.
inline constexpr uint64_t kKillingStep = 1001;
inline constexpr uint64_t kLosingStep = 1002;

}  // namespace sluice
