#pragma once

namespace sluice {

// Which expert leaves a slot that another one needs.
enum class EvictionPolicy {
  kLru,       // the one whose last use is longest ago
  kLfu,       // the one that its layer's runs used least often; of several, as kLru
  kExpected,  // the one whose next use is expected farthest away
};

}  // namespace sluice
