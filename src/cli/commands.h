#pragma once

#include <functional>

namespace CLI {
class App;
}

namespace sluice {

// Each declares its subcommand and returns what runs when it is chosen: the process's exit code
// (0 success, 1 failed). Errors are thrown.
using Command = std::function<int()>;

Command AddServe(CLI::App& app);
Command AddWorker(CLI::App& app);
Command AddRun(CLI::App& app);
Command AddChat(CLI::App& app);
Command AddVerify(CLI::App& app);
Command AddBenchLatency(CLI::App& app);
Command AddBenchKvCache(CLI::App& app);
Command AddBenchThroughput(CLI::App& app);
Command AddBenchServe(CLI::App& app);
Command AddBenchOffload(CLI::App& app);
Command AddBenchKernels(CLI::App& app);
Command AddBenchAttention(CLI::App& app);
Command AddBenchRouter(CLI::App& app);
Command AddDoctor(CLI::App& app);
Command AddPull(CLI::App& app);
Command AddProfile(CLI::App& app);
Command AddTraceRecord(CLI::App& app);
Command AddTraceInfo(CLI::App& app);
Command AddTraceConvert(CLI::App& app);
Command AddTraceSynth(CLI::App& app);
Command AddPlanTheory(CLI::App& app);
Command AddPlanOffload(CLI::App& app);
Command AddPlanPlacement(CLI::App& app);
Command AddPlanPredict(CLI::App& app);
Command AddStudyLoadBalance(CLI::App& app);
Command AddStudyPrefetch(CLI::App& app);
Command AddStudyRun(CLI::App& app);

}  // namespace sluice
