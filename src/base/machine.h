#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace sluice {

// Instruction tiers that CPU kernels are written for, lowest first. A tier's kernels run on every
// machine of that tier or above.
enum class CpuTier { kPortable, kAvx2, kAvx512 };

// Returns "portable", "avx2" or "avx512"; ParseCpuTier reads the same names.
const char* CpuTierName(CpuTier tier);
std::optional<CpuTier> ParseCpuTier(std::string_view name);

// The highest tier that this processor and operating system run.
CpuTier DetectCpuTier();

// Cores that this process may run on (its affinity and its cgroup's CPU quota), at least 1.
int AvailableCores();

// Memory that this process may use. Honours the cgroup's limit (v2 and v1) where it is lower than
// the machine's.
struct MemoryInfo {
  uint64_t total_bytes = 0;
  uint64_t available_bytes = 0;
};
MemoryInfo QueryMemory();

// Resident set of a process now, in bytes: of this one, or of the one with that id. 0 where there
// is none.
uint64_t ResidentBytes(std::optional<int> process = {});

// The last-level cache, in bytes; 0 where the system does not say. A virtual machine may show more
// than its own share.
uint64_t LastLevelCacheBytes();

// Seconds since the machine booted in which a core had something to run and the hypervisor ran
// another guest on it, in the mean of all cores. 0 where the system does not say.
double StolenSeconds();

// The processor's name as the operating system gives it, "unknown" where it does not.
std::string CpuModelName();

// "6.7 GB", "512 MB", "12 KB": decimal units, three significant figures.
std::string FormatBytes(uint64_t bytes);

}  // namespace sluice
