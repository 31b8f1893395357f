#pragma once

#include <array>
#include <cstdint>
#include <initializer_list>
#include <span>
#include <string>
#include <type_traits>

#include "base/check.h"
#include "device/dtype.h"

namespace sluice {

inline constexpr int kMaxRank = 5;

// Sizes of a tensor's dimensions, outermost first. A dimension may be 0.
class Shape {
 public:
  Shape() = default;
  Shape(std::initializer_list<int64_t> dims)
      : Shape(std::span<const int64_t>(dims.begin(), dims.size())) {}
  explicit Shape(std::span<const int64_t> dims) : rank_(static_cast<int>(dims.size())) {
    SLUICE_CHECK_LE(rank_, kMaxRank);
    for (int i = 0; i < rank_; ++i) dims_[i] = dims[i];
  }

  int rank() const { return rank_; }
  int64_t operator[](int i) const { return dims_[i]; }
  int64_t& operator[](int i) { return dims_[i]; }
  int64_t NumElements() const {
    int64_t count = 1;
    for (int i = 0; i < rank_; ++i) count *= dims_[i];
    return count;
  }
  std::string ToString() const;  // "[2, 40, 512]"
  bool operator==(const Shape& other) const = default;

 private:
  std::array<int64_t, kMaxRank> dims_{};  // zeros behind rank_
  int rank_ = 0;
};

std::ostream& operator<<(std::ostream& out, const Shape& shape);

// A non-owning view of elements in memory: pointer, element type, shape and strides (in elements).
// Copies freely; whoever made the memory keeps it alive. `Void` is `void` or `const void`.
template <class Void>
class BasicTensorView {
 public:
  static constexpr bool kIsConst = std::is_const_v<Void>;
  template <class T>
  using Element = std::conditional_t<kIsConst, const T, T>;

  BasicTensorView() = default;

  // A contiguous view, last dimension fastest.
  BasicTensorView(Void* data, DType dtype, const Shape& shape)
      : data_(data), dtype_(dtype), shape_(shape) {
    int64_t stride = 1;
    for (int i = shape.rank() - 1; i >= 0; --i) {
      strides_[i] = stride;
      stride *= shape[i];
    }
  }

  BasicTensorView(Void* data, DType dtype, const Shape& shape, std::span<const int64_t> strides)
      : data_(data), dtype_(dtype), shape_(shape) {
    SLUICE_CHECK_EQ(static_cast<int>(strides.size()), shape.rank());
    for (int i = 0; i < shape.rank(); ++i) strides_[i] = strides[i];
  }

  // A view of one writable tensor may be passed where a read-only one is asked for.
  template <class V = Void, std::enable_if_t<std::is_const_v<V>, int> = 0>
  BasicTensorView(const BasicTensorView<void>& other)  // NOLINT(google-explicit-constructor)
      : data_(other.raw()), dtype_(other.dtype()), shape_(other.shape()) {
    for (int i = 0; i < other.rank(); ++i) strides_[i] = other.stride(i);
  }

  Void* raw() const { return data_; }
  DType dtype() const { return dtype_; }
  const Shape& shape() const { return shape_; }
  int rank() const { return shape_.rank(); }
  int64_t dim(int i) const { return shape_[i]; }
  int64_t stride(int i) const { return strides_[i]; }
  int64_t NumElements() const { return shape_.NumElements(); }
  int64_t NumBytes() const { return NumElements() * static_cast<int64_t>(SizeOf(dtype_)); }
  bool empty() const { return data_ == nullptr; }
  bool IsContiguous() const;

  // The elements as T; the dtype must be T's.
  template <class T>
  Element<T>* data() const {
    SLUICE_CHECK_EQ(dtype_, DTypeTraits<T>::kDType);
    return static_cast<Element<T>*>(data_);
  }

  // The view of index `i` of the first dimension.
  BasicTensorView operator[](int64_t i) const;

  // Rows [begin, end) of the first dimension.
  BasicTensorView Slice(int64_t begin, int64_t end) const;

  // The same memory under another shape; the view must be contiguous and the sizes equal.
  BasicTensorView Reshape(const Shape& shape) const;

  std::string ToString() const;  // "bf16[2048, 768]"

 private:
  Void* data_ = nullptr;
  DType dtype_ = DType::kF32;
  Shape shape_;
  std::array<int64_t, kMaxRank> strides_{};
};

using TensorView = BasicTensorView<void>;
using ConstTensorView = BasicTensorView<const void>;

extern template class BasicTensorView<void>;
extern template class BasicTensorView<const void>;

}  // namespace sluice
