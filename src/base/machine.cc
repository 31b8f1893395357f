#include "base/machine.h"

#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <limits>
#include <sstream>

namespace sluice {
namespace {

constexpr uint64_t kNoLimit = std::numeric_limits<uint64_t>::max();

// The first unsigned number in a file, or nothing ("max" in cgroup files means no limit).
std::optional<uint64_t> ReadNumber(const char* path) {
  std::ifstream file(path);
  uint64_t value = 0;
  if (file >> value) return value;
  return std::nullopt;
}

// A line "NAME: 123 kB" of /proc/meminfo or /proc/self/status, in bytes.
uint64_t ReadKilobyteLine(const std::string& path, std::string_view name) {
  std::ifstream file(path);
  std::string line;
  while (std::getline(file, line)) {
    if (line.size() > name.size() && line.compare(0, name.size(), name) == 0 &&
        line[name.size()] == ':') {
      return std::strtoull(line.c_str() + name.size() + 1, nullptr, 10) * 1024;
    }
  }
  return 0;
}

uint64_t ReclaimableFileBytes() {
  for (const char* path : {"/sys/fs/cgroup/memory.stat", "/sys/fs/cgroup/memory/memory.stat"}) {
    std::ifstream file(path);
    std::string name;
    uint64_t value = 0;
    while (file >> name >> value) {
      if (name == "inactive_file" || name == "total_inactive_file") return value;
    }
  }
  return 0;
}

int CgroupCpuLimit() {
  std::ifstream file("/sys/fs/cgroup/cpu.max");  // "QUOTA PERIOD" in microseconds, or "max PERIOD"
  double quota = 0;
  double period = 0;
  if (file >> quota >> period && period > 0) {
    return std::max(1, static_cast<int>(std::ceil(quota / period)));
  }
  return std::numeric_limits<int>::max();
}

}  // namespace

const char* CpuTierName(CpuTier tier) {
  switch (tier) {
    case CpuTier::kPortable:
      return "portable";
    case CpuTier::kAvx2:
      return "avx2";
    case CpuTier::kAvx512:
      return "avx512";
  }
  return "unknown";
}

std::optional<CpuTier> ParseCpuTier(std::string_view name) {
  for (CpuTier tier : {CpuTier::kPortable, CpuTier::kAvx2, CpuTier::kAvx512}) {
    if (name == CpuTierName(tier)) return tier;
  }
  return std::nullopt;
}

CpuTier DetectCpuTier() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
  if (avx2 && avx512) return CpuTier::kAvx512;
  if (avx2) return CpuTier::kAvx2;
#endif
  return CpuTier::kPortable;
}

int AvailableCores() {
  int cores = static_cast<int>(sysconf(_SC_NPROCESSORS_ONLN));
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof(set), &set) == 0) cores = CPU_COUNT(&set);
  return std::max(1, std::min(cores, CgroupCpuLimit()));
}

MemoryInfo QueryMemory() {
  MemoryInfo info;
  info.total_bytes = ReadKilobyteLine("/proc/meminfo", "MemTotal");
  info.available_bytes = ReadKilobyteLine("/proc/meminfo", "MemAvailable");
  const uint64_t limit =
      ReadNumber("/sys/fs/cgroup/memory.max")
          .value_or(ReadNumber("/sys/fs/cgroup/memory/memory.limit_in_bytes").value_or(kNoLimit));
  if (limit < info.total_bytes) {
    uint64_t used =
        ReadNumber("/sys/fs/cgroup/memory.current")
            .value_or(ReadNumber("/sys/fs/cgroup/memory/memory.usage_in_bytes").value_or(0));
    // Files that were read count as used, a mapped checkpoint among them, but give way when asked.
    used -= std::min(used, ReclaimableFileBytes());
    info.total_bytes = limit;
    info.available_bytes = std::min(info.available_bytes, limit > used ? limit - used : 0);
  }
  return info;
}

uint64_t ResidentBytes(std::optional<int> process) {
  const std::string name = process.has_value() ? std::to_string(*process) : "self";
  return ReadKilobyteLine("/proc/" + name + "/status", "VmRSS");
}

uint64_t LastLevelCacheBytes() {
  return static_cast<uint64_t>(std::max(0L, sysconf(_SC_LEVEL3_CACHE_SIZE)));
}

double StolenSeconds() {
  std::ifstream file("/proc/stat");
  std::string cpu;  // the first line is that of all cores
  uint64_t user = 0, nice = 0, system = 0, idle = 0, iowait = 0, irq = 0, softirq = 0, steal = 0;
  file >> cpu >> user >> nice >> system >> idle >> iowait >> irq >> softirq >> steal;
  if (!file || cpu != "cpu") return 0.0;
  const auto ticks_per_s = static_cast<double>(sysconf(_SC_CLK_TCK));
  const auto cores = static_cast<double>(sysconf(_SC_NPROCESSORS_ONLN));
  return static_cast<double>(steal) / ticks_per_s / cores;
}

std::string CpuModelName() {
  std::ifstream file("/proc/cpuinfo");
  std::string line;
  while (std::getline(file, line)) {
    if (line.rfind("model name", 0) == 0) {
      const size_t colon = line.find(": ");
      if (colon != std::string::npos) return line.substr(colon + 2);
    }
  }
  return "unknown";
}

std::string FormatBytes(uint64_t bytes) {
  static constexpr const char* kUnits[] = {"B", "KB", "MB", "GB", "TB"};
  double value = static_cast<double>(bytes);
  size_t unit = 0;
  while (value >= 999.5 && unit + 1 < std::size(kUnits)) {
    value /= 1000;
    ++unit;
  }
  char text[32];
  const int decimals = unit == 0 || value >= 99.95 ? 0 : value >= 9.995 ? 1 : 2;
  std::snprintf(text, sizeof(text), "%.*f %s", decimals, value, kUnits[unit]);
  return text;
}

}  // namespace sluice
