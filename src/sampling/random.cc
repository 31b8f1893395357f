#include "sampling/random.h"

namespace sluice {

namespace {

constexpr int kRounds = 10;
constexpr uint32_t kMultiplier0 = 0xD2511F53;
constexpr uint32_t kMultiplier1 = 0xCD9E8D57;
constexpr uint32_t kWeyl0 = 0x9E3779B9;  // golden ratio
constexpr uint32_t kWeyl1 = 0xBB67AE85;  // sqrt(3) - 1

}  // namespace

std::array<uint32_t, 4> Philox4x32(std::array<uint32_t, 4> counter, std::array<uint32_t, 2> key) {
  for (int round = 0; round < kRounds; ++round) {
    const uint64_t product0 = uint64_t{kMultiplier0} * counter[0];
    const uint64_t product1 = uint64_t{kMultiplier1} * counter[2];
    counter = {static_cast<uint32_t>(product1 >> 32) ^ counter[1] ^ key[0],
               static_cast<uint32_t>(product1),
               static_cast<uint32_t>(product0 >> 32) ^ counter[3] ^ key[1],
               static_cast<uint32_t>(product0)};
    key[0] += kWeyl0;
    key[1] += kWeyl1;
  }
  return counter;
}

uint64_t RandomBitsAt(uint64_t seed, uint64_t token, uint32_t draw) {
  const auto bits =
      Philox4x32({static_cast<uint32_t>(token), static_cast<uint32_t>(token >> 32), draw, 0},
                 {static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)});
  return (uint64_t{bits[0]} << 32) | bits[1];
}

double UniformAt(uint64_t seed, uint64_t token, uint32_t draw) {
  return static_cast<double>(RandomBitsAt(seed, token, draw) >> 11) * 0x1p-53;
}

uint64_t MixSeed(uint64_t seed, uint64_t stream) {
  // The last counter word is 0 in UniformAt and 1 here, so a derived seed is no token's draw.
  const auto bits =
      Philox4x32({static_cast<uint32_t>(stream), static_cast<uint32_t>(stream >> 32), 0, 1},
                 {static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)});
  return (uint64_t{bits[0]} << 32) | bits[1];
}

}  // namespace sluice
