#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "base/check.h"
#include "device/tensor.h"

namespace sluice {

// How one expert's three matrices lie in a slot: gate [ffn, hidden], up [ffn, hidden] right behind
// it (one [2*ffn, hidden] matrix to a kernel), then down [hidden, ffn].
struct ExpertLayout {
  int64_t hidden = 0;
  int64_t ffn = 0;
  DType dtype = DType::kF32;

  int64_t GateUpBytes() const { return 2 * ffn * hidden * static_cast<int64_t>(SizeOf(dtype)); }
  int64_t DownOffset() const { return RoundUp(GateUpBytes()); }
  // A slot's stride: both parts start on a cache line.
  int64_t SlotBytes() const {
    return DownOffset() + RoundUp(hidden * ffn * static_cast<int64_t>(SizeOf(dtype)));
  }

 private:
  static constexpr int64_t RoundUp(int64_t bytes) { return (bytes + 63) / 64 * 64; }
};

// Where an expert's matrices are written when it enters a slot.
struct ExpertSlotView {
  TensorView gate;  // [ffn, hidden]
  TensorView up;    // [ffn, hidden]
  TensorView down;  // [hidden, ffn]
};

// The matrices of a slot at `data`.
inline ExpertSlotView SlotViewOf(const ExpertLayout& layout, std::byte* data) {
  const Shape in{layout.ffn, layout.hidden};
  return {
      .gate = TensorView(data, layout.dtype, in),
      .up = TensorView(data + layout.GateUpBytes() / 2, layout.dtype, in),
      .down = TensorView(data + layout.DownOffset(), layout.dtype, {layout.hidden, layout.ffn})};
}

// Supplies the bytes of experts that are not in a slot, always into host memory. Called from
// several threads at once. What it throws fails the reading of that expert alone.
class ExpertSource {
 public:
  virtual ~ExpertSource() = default;
  virtual void Read(int layer, int expert, const ExpertSlotView& target) const = 0;
};

// The routed experts that a process holds, numbered layer by layer: `index` below.
class ExpertSet {
 public:
  // `layers`, ascending, have `num_experts` each. The source knows expert e as first_expert + e: >0
  // on later expert-parallel ranks.
  ExpertSet(std::vector<int> layers, int num_experts, int first_expert = 0)
      : layers_(std::move(layers)), num_experts_(num_experts), first_expert_(first_expert) {
    SLUICE_CHECK(!layers_.empty());
    SLUICE_CHECK_GE(num_experts_, 1);
    ordinals_.assign(layers_.back() + 1, -1);
    for (size_t i = 0; i < layers_.size(); ++i) ordinals_[layers_[i]] = static_cast<int>(i);
  }

  int size() const { return num_layers() * num_experts_; }
  int num_layers() const { return static_cast<int>(layers_.size()); }
  int num_experts() const { return num_experts_; }

  // Which of the layers it is, in [0, num_layers()).
  int OrdinalOf(int layer) const {
    SLUICE_CHECK(layer >= 0 && layer < static_cast<int>(ordinals_.size()));
    SLUICE_CHECK_GE(ordinals_[layer], 0);
    return ordinals_[layer];
  }
  int32_t IndexOf(int layer, int32_t expert) const {
    SLUICE_CHECK(expert >= 0 && expert < num_experts_);
    return OrdinalOf(layer) * num_experts_ + expert;
  }
  int LayerOf(int32_t index) const { return LayerAt(index / num_experts_); }
  int LayerAt(int ordinal) const { return layers_[ordinal]; }
  // The expert's id as the source has it.
  int SourceExpertOf(int32_t index) const { return first_expert_ + index % num_experts_; }
  // "expert 5 of layer 3", for messages.
  std::string NameOf(int32_t index) const {
    return "expert " + std::to_string(SourceExpertOf(index)) + " of layer " +
           std::to_string(LayerOf(index));
  }

 private:
  std::vector<int> layers_;
  int num_experts_;
  int first_expert_;
  std::vector<int> ordinals_;  // [layer] -> ordinal, -1 for dense layers
};

}  // namespace sluice
