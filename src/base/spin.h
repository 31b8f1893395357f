#pragma once

namespace sluice {

// Threads that wait for each other for microseconds, between the loops of a step and from one layer
// to the next, look again and again before they sleep: long enough to bridge the serial code
// between two loops, short enough that an idle server sleeps.
inline constexpr int kSpinsBeforeSleep = 20'000;

// What is waited for is microseconds of work; past that the thread that does it is not running.
inline constexpr int kSpinsBeforeYield = 2'000;

inline void CpuRelax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

}  // namespace sluice
