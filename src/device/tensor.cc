#include "device/tensor.h"

#include <ostream>

namespace sluice {

std::string Shape::ToString() const {
  std::string text = "[";
  for (int i = 0; i < rank_; ++i) {
    if (i > 0) text += ", ";
    text += std::to_string(dims_[i]);
  }
  return text + "]";
}

std::ostream& operator<<(std::ostream& out, const Shape& shape) {
  return out << shape.ToString();
}

template <class Void>
bool BasicTensorView<Void>::IsContiguous() const {
  int64_t expected = 1;
  for (int i = rank() - 1; i >= 0; --i) {
    if (shape_[i] != 1 && strides_[i] != expected) return false;
    expected *= shape_[i];
  }
  return true;
}

template <class Void>
BasicTensorView<Void> BasicTensorView<Void>::operator[](int64_t i) const {
  SLUICE_CHECK_GE(rank(), 1);
  SLUICE_CHECK_GE(i, 0);
  SLUICE_CHECK_LT(i, shape_[0]);
  std::array<int64_t, kMaxRank> dims{};
  for (int d = 1; d < rank(); ++d) dims[d - 1] = shape_[d];
  const auto rest = static_cast<size_t>(rank() - 1);
  auto* base =
      static_cast<Element<char>*>(data_) + i * strides_[0] * static_cast<int64_t>(SizeOf(dtype_));
  return BasicTensorView(base, dtype_, Shape(std::span(dims).first(rest)),
                         std::span(strides_).subspan(1, rest));
}

template <class Void>
BasicTensorView<Void> BasicTensorView<Void>::Slice(int64_t begin, int64_t end) const {
  SLUICE_CHECK_GE(rank(), 1);
  SLUICE_CHECK_GE(begin, 0);
  SLUICE_CHECK_LE(begin, end);
  SLUICE_CHECK_LE(end, shape_[0]);
  BasicTensorView view = *this;
  view.data_ = static_cast<Element<char>*>(data_) +
               begin * strides_[0] * static_cast<int64_t>(SizeOf(dtype_));
  view.shape_[0] = end - begin;
  return view;
}

template <class Void>
BasicTensorView<Void> BasicTensorView<Void>::Reshape(const Shape& shape) const {
  SLUICE_CHECK(IsContiguous());
  SLUICE_CHECK_EQ(shape.NumElements(), NumElements());
  return BasicTensorView(data_, dtype_, shape);
}

template <class Void>
std::string BasicTensorView<Void>::ToString() const {
  return std::string(DTypeName(dtype_)) + shape_.ToString();
}

template class BasicTensorView<void>;
template class BasicTensorView<const void>;

}  // namespace sluice
