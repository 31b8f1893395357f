#pragma once

#include <array>
#include <cstdint>

namespace sluice {

// Philox4x32-10 of Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (SC 2011): 128
// random bits that depend on nothing but counter and key.
std::array<uint32_t, 4> Philox4x32(std::array<uint32_t, 4> counter, std::array<uint32_t, 2> key);

// 64 random bits: the `draw`-th that belong to the token of index `token` in the stream of `seed`.
uint64_t RandomBitsAt(uint64_t seed, uint64_t token, uint32_t draw);

// Their upper 53 as a number in [0, 1).
double UniformAt(uint64_t seed, uint64_t token, uint32_t draw);

// A seed for stream number `stream` that has nothing in common with its neighbours' or with `seed`.
uint64_t MixSeed(uint64_t seed, uint64_t stream);

}  // namespace sluice
