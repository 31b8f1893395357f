#pragma once

// The vector of the tier that this file is compiled for. The build sets SLUICE_CPU_TIER to 0
// (portable), 1 (AVX2) or 2 (AVX-512); SLUICE_TIER is the tier's namespace.
#ifndef SLUICE_CPU_TIER
#define SLUICE_CPU_TIER 0
#endif

#if SLUICE_CPU_TIER == 2
#include "ops/common/cpu/vec_avx512.h"
#define SLUICE_TIER avx512
#elif SLUICE_CPU_TIER == 1
#include "ops/common/cpu/vec_avx2.h"
#define SLUICE_TIER avx2
#else
#include "ops/common/cpu/vec_portable.h"
#define SLUICE_TIER portable
#endif
