#pragma once

#include "base/machine.h"

// Vectorised code is written once in NAME_cpu.cc and compiled once a tier with that tier's
// instruction set; each object file keeps to a namespace of the tier's name. Between dispatch and
// kernels pass only plain parameter structs: no inline function or template may be compiled in two
// object files of different tiers, or the linker could keep the wrong one.

#if defined(__x86_64__)
#define SLUICE_X86_TIERS 1
#else
#define SLUICE_X86_TIERS 0
#endif

// Declares a function in the namespace of every tier. Use inside namespace sluice::ops.
#define SLUICE_DECLARE_IN_TIERS(...) \
  namespace portable {               \
  __VA_ARGS__;                       \
  }                                  \
  namespace avx2 {                   \
  __VA_ARGS__;                       \
  }                                  \
  namespace avx512 {                 \
  __VA_ARGS__;                       \
  }

// The pointer to `function` of a tier. Use inside namespace sluice::ops.
#if SLUICE_X86_TIERS
#define SLUICE_TIER_FUNCTION(tier, function)                \
  ((tier) == ::sluice::CpuTier::kAvx512 ? &avx512::function \
   : (tier) == ::sluice::CpuTier::kAvx2 ? &avx2::function   \
                                        : &portable::function)
#else
#define SLUICE_TIER_FUNCTION(tier, function) (static_cast<void>(tier), &portable::function)
#endif
