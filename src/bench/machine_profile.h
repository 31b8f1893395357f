#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>

#include "base/machine.h"
#include "device/dtype.h"
#include "offload/simulated_link.h"
#include "plan/hardware_profile.h"

namespace sluice {

struct MachineProfileOptions {
  std::string name;
  int num_threads = 1;
  CpuTier tier = CpuTier::kPortable;
  std::optional<int> cuda;         // the CUDA device beside the host; none = the host alone
  std::filesystem::path disk_dir;  // where a file is made and read; empty = the disk is left out
  int64_t memory_bytes = int64_t{1} << 30;  // that reading is timed over: far beyond any cache
};

// Measures this machine: memory, read bandwidth and products of the host, reading a disk, and with
// a CUDA device its memory, bandwidth, products and both directions of the link. Takes some
// seconds, 1 GB of host memory, 2 GB of the device's and 256 MB of the disk. Throws Error.
HardwareProfile MeasureMachine(const MachineProfileOptions& options);

// What is to be known of a machine whose experts come over a link.
struct OffloadProbe {
  int num_threads = 1;       // that compute; beside a device all cores read the host's memory
  bool cpu_experts = false;  // beside a device: these compute too
  CpuTier tier = CpuTier::kPortable;
  std::optional<int> cuda;  // none = the CPU computes, behind `link`
  SimulatedLink link;
  DType dtype = DType::kBF16;  // of the products
  size_t expert_bytes = 0;     // that are copied at once
};

// The figure of a host's products with weights of `dtype`.
inline HardwareFigure HostFlops(DType dtype) {
  return dtype == DType::kF32 ? &HardwareProfile::host_f32_flops
                              : &HardwareProfile::host_bf16_flops;
}

// The figures that the cost of a step needs (plan/offload_plan.h) but the disk's, HostFlops of the
// probe's dtype where the host computes, and what tells machines apart, in well under two seconds.
// On the CPU its memory is the GPU's too.
HardwareProfile MeasureForOffload(const OffloadProbe& probe);

}  // namespace sluice
