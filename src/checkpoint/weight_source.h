#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "checkpoint/checkpoint.h"
#include "device/buffer.h"
#include "device/tensor.h"
#include "quant/block_scaled.h"

namespace sluice {

// Where a model's weights come from, by name. Immutable: any number of threads may read, so that a
// large tensor is loaded in pieces by several.
class WeightSource {
 public:
  virtual ~WeightSource() = default;

  virtual bool Has(const std::string& name) const = 0;
  // Throw Error(kDataLoss) when there is no such tensor.
  virtual DType dtype(const std::string& name) const = 0;
  virtual Shape shape(const std::string& name) const = 0;
  virtual std::vector<std::string> names() const = 0;  // sorted
  // Where the weights come from, for messages.
  virtual std::string origin() const = 0;

  // Copies the tensor to `target`, converting between f32, bf16 and f16. `target` is contiguous and
  // of shape `expected`. Throws Error(kDataLoss) when the tensor is missing, of another shape, or
  // cannot be read.
  void Read(const std::string& name, const Shape& expected, TensorView target) const;

  // As Read, for rows [begin, begin + target.dim(0)) of the first dimension only. `expected` is the
  // whole tensor's shape; target's other dimensions equal its.
  void ReadRows(const std::string& name, const Shape& expected, int64_t begin,
                TensorView target) const;

 private:
  // Copies elements [first, first + target.NumElements()). The name is there and the range lies
  // inside the tensor.
  virtual void CopyElements(const std::string& name, int64_t first, TensorView target) const = 0;
};

// The tensors of an open checkpoint, which it shares. With `block_scaled`, a tensor NAME stored in
// that format is read de-quantised; its scales NAME_scale_inv are part of it and not listed.
class CheckpointSource : public WeightSource {
 public:
  // Throws Error(kDataLoss) for a tensor of the format whose scales are missing or of another shape
  // or type.
  explicit CheckpointSource(std::shared_ptr<const Checkpoint> checkpoint,
                            std::optional<BlockScaledFormat> block_scaled = std::nullopt);
  bool Has(const std::string& name) const override;
  DType dtype(const std::string& name) const override;
  Shape shape(const std::string& name) const override;
  std::vector<std::string> names() const override;
  std::string origin() const override;

 private:
  void CopyElements(const std::string& name, int64_t first, TensorView target) const override;

  bool IsBlockScaled(const std::string& name) const;
  void CheckScales(const std::string& name) const;
  Tensor ReadScales(const std::string& name) const;

  std::shared_ptr<const Checkpoint> checkpoint_;
  std::optional<BlockScaledFormat> block_scaled_;
};

// Random weights for a given list of tensors: an element depends only on the seed, the tensor's
// name and the element's index, so that it is the same whichever thread or rank reads it. Matrices
// have mean 0 and standard deviation 0.02; vectors named as norms 1 and 0.1; other vectors (biases)
// 0 and 0.002. The distribution is triangular: the sum of two bytes of a counter-based hash, which
// costs about as much as writing the result.
class DummySource : public WeightSource {
 public:
  struct Listed {
    std::string name;
    Shape shape;
  };
  // `dtype` is what the tensors say they are stored in; it does not round what is read.
  DummySource(const std::vector<Listed>& tensors, DType dtype, uint64_t seed);
  bool Has(const std::string& name) const override;
  DType dtype(const std::string& name) const override;
  Shape shape(const std::string& name) const override;
  std::vector<std::string> names() const override;
  std::string origin() const override;

 private:
  void CopyElements(const std::string& name, int64_t first, TensorView target) const override;

  std::unordered_map<std::string, Shape> shapes_;
  DType dtype_;
  uint64_t seed_;
};

}  // namespace sluice
