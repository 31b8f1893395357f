#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "cli/loaded_model.h"
#include "cli/model_flags.h"
#include "engine/worker.h"
#include "offload/offload_counters.h"
#include "trace/expert_load.h"

namespace sluice {

// The subcommand that a worker process runs. Not for users: it takes its flags from the server.
inline constexpr char kWorkerCommand[] = "worker";

// The worker behind a server, and the host memory that server and worker have resident now; the
// latter may be asked from any thread while the worker lives.
struct ServedWorker {
  std::unique_ptr<Worker> worker;
  std::function<uint64_t()> resident_bytes;
};

// Who is told what a worker does; any may be null.
struct WatchedWork {
  ExpertLoad* expert_load = nullptr;   // experts' tokens
  OffloadCounters* offload = nullptr;  // how experts came, where not all have a slot
  Timeline* timeline = nullptr;
};

// Loads the model, in this process or one of its own as `worker_process` says: on, off, or auto.
// The worker works for `watched`; that and `model` must outlive it. Throws Error as loading does,
// kInvalidArgument for a flag whose work cannot be done from another process.
ServedWorker StartWorker(const OpenedModel& model, const ModelFlags& flags,
                         const EngineFlags& engine, const std::string& worker_process,
                         const WatchedWork& watched);

}  // namespace sluice
