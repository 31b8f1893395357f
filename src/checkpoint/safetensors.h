#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "device/tensor.h"

namespace sluice {

// One tensor as a safetensors header lists it.
struct SafetensorsEntry {
  std::string name;
  DType dtype = DType::kF32;
  Shape shape;
  uint64_t begin = 0;  // bytes from the start of the data section
  uint64_t end = 0;    // one past the last byte
};

// The header of one safetensors file (https://github.com/huggingface/safetensors, "Format"): 8
// bytes of little-endian length, that many bytes of JSON, then the tensors' bytes without gaps.
// Holds views of the caller's bytes, which must outlive it; the bytes need no alignment.
class SafetensorsFile {
 public:
  // Checks the whole header, so that every entry's bytes lie inside `bytes`, once. `file` is named
  // in errors. Throws Error: kDataLoss for a damaged file, kUnsupported for an element type or rank
  // that no code here reads.
  static SafetensorsFile Parse(std::span<const std::byte> bytes, const std::string& file);

  // In the order of their bytes.
  const std::vector<SafetensorsEntry>& entries() const { return entries_; }
  ConstTensorView View(const SafetensorsEntry& entry) const;

 private:
  std::span<const std::byte> data_;
  std::vector<SafetensorsEntry> entries_;
};

}  // namespace sluice
