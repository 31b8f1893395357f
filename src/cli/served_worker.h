#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "cli/loaded_model.h"
#include "cli/model_flags.h"
#include "engine/worker.h"
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

// Loads the model, in this process or one of its own as `worker_process` says: on, off, or auto.
// The worker counts experts' tokens to `expert_load` and records on `timeline`, either of which may
// be null; they and `model` must outlive it. Throws Error as loading does, kInvalidArgument for a
// flag whose work cannot be done from another process.
ServedWorker StartWorker(const OpenedModel& model, const ModelFlags& flags,
                         const EngineFlags& engine, const std::string& worker_process,
                         ExpertLoad* expert_load, Timeline* timeline);

}  // namespace sluice
