#include "device/tensor.h"

#include <gtest/gtest.h>

#include <vector>

#include "device/buffer.h"

namespace sluice {
namespace {

TEST(Tensor, ViewsIndexSliceAndReshape) {
  Tensor tensor(DType::kF32, {2, 3, 4});
  for (int i = 0; i < 24; ++i) tensor.data<float>()[i] = static_cast<float>(i);
  const TensorView view = tensor;
  EXPECT_EQ(view.ToString(), "f32[2, 3, 4]");
  EXPECT_EQ(view[1][2].data<float>()[3], 23.0f);
  EXPECT_EQ(view.Slice(1, 2).dim(0), 1);
  EXPECT_EQ(view.Slice(1, 2).data<float>()[0], 12.0f);
  EXPECT_EQ(view.Reshape({6, 4})[5].data<float>()[0], 20.0f);
  EXPECT_THROW(view.data<int32_t>(), InternalError);
  EXPECT_THROW(view[2], InternalError);
}

TEST(Tensor, StridedViewsAreNotContiguous) {
  std::vector<float> values(12);
  const std::vector<int64_t> strides = {6, 1};
  const TensorView view(values.data(), DType::kF32, {2, 3}, strides);
  EXPECT_FALSE(view.IsContiguous());
  EXPECT_THROW(view.Reshape({6}), InternalError);
  EXPECT_EQ(view[1].raw(), values.data() + 6);
}

TEST(Arena, ScopesGiveMemoryBack) {
  Arena arena;
  const TensorView first = arena.Allocate(DType::kF32, {100});
  void* inner = nullptr;
  {
    Arena::Scope scope(arena);
    inner = arena.Allocate(DType::kBF16, {7}).raw();
    EXPECT_EQ(reinterpret_cast<uintptr_t>(inner) % 64, 0u);
    arena.Allocate(DType::kF32, {1 << 20});  // opens another block
  }
  EXPECT_EQ(arena.Allocate(DType::kI32, {1}).raw(), inner);
  EXPECT_NE(first.raw(), inner);
  const size_t capacity = arena.CapacityBytes();
  {
    Arena::Scope scope(arena);
    arena.Allocate(DType::kF32, {1 << 20});
  }
  EXPECT_EQ(arena.CapacityBytes(), capacity);
}

}  // namespace
}  // namespace sluice
