#include "kv/page_pool.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include "base/error.h"

namespace sluice {
namespace {

KvLayout TwoGroups() {
  return {.page_size = 4,
          .groups = {{.num_layers = 2, .num_kv_heads = 3, .head_dim = 5, .dtype = DType::kF32},
                     {.num_layers = 1, .num_kv_heads = 1, .head_dim = 7, .dtype = DType::kBF16}}};
}

TEST(KvLayout, CountsLayersAndBytes) {
  EXPECT_EQ(TwoGroups().num_layers(), 3);
  EXPECT_EQ(TwoGroups().BytesPerPage(), 2 * 2 * (3 * 4 * 5 * 4) + 2 * (1 * 4 * 7 * 2));
}

TEST(PagePool, GivesEachLayerItsOwnAlignedTensors) {
  const PagePool pool(TwoGroups(), 3);
  std::vector<TensorView> tensors;
  for (int layer = 0; layer < 3; ++layer) {
    tensors.push_back(pool.Keys(layer));
    tensors.push_back(pool.Values(layer));
  }
  EXPECT_EQ(tensors[0].shape(), (Shape{3, 3, 4, 5}));
  EXPECT_EQ(tensors[5].shape(), (Shape{3, 1, 4, 7}));
  EXPECT_EQ(tensors[5].dtype(), DType::kBF16);
  for (size_t i = 0; i < tensors.size(); ++i) {
    EXPECT_EQ(reinterpret_cast<uintptr_t>(tensors[i].raw()) % 64, 0u);
    std::memset(tensors[i].raw(), static_cast<int>(i + 1), tensors[i].NumBytes());
  }
  for (size_t i = 0; i < tensors.size(); ++i) {
    const auto* bytes = static_cast<const uint8_t*>(tensors[i].raw());
    EXPECT_TRUE(std::all_of(bytes, bytes + tensors[i].NumBytes(),
                            [i](uint8_t byte) { return byte == i + 1; }))
        << "tensor " << i << " overlaps another";
  }
}

TEST(PagePool, ALatentLayerHasOneTensor) {
  const KvLayout layout{.page_size = 4,
                        .groups = {{.kind = KvGroup::Kind::kLatent,
                                    .num_layers = 2,
                                    .num_kv_heads = 1,
                                    .head_dim = 9,
                                    .dtype = DType::kBF16},
                                   {.num_layers = 1, .num_kv_heads = 2, .head_dim = 8}}};
  EXPECT_EQ(layout.BytesPerPage(), 2 * (4 * 9 * 2) + 2 * (2 * 4 * 8 * 4));
  const PagePool pool(layout, 3);
  EXPECT_EQ(pool.Latents(1).shape(), (Shape{3, 4, 9}));
  EXPECT_TRUE(pool.Keys(1).empty());
  EXPECT_TRUE(pool.Latents(2).empty());
  const TensorView tensors[] = {pool.Latents(0), pool.Latents(1), pool.Keys(2), pool.Values(2)};
  for (size_t i = 0; i < 4; ++i) {
    EXPECT_EQ(reinterpret_cast<uintptr_t>(tensors[i].raw()) % 64, 0u);
    std::memset(tensors[i].raw(), static_cast<int>(i + 1), tensors[i].NumBytes());
  }
  for (size_t i = 0; i < 4; ++i) {
    const auto* bytes = static_cast<const uint8_t*>(tensors[i].raw());
    EXPECT_TRUE(std::all_of(bytes, bytes + tensors[i].NumBytes(),
                            [i](uint8_t byte) { return byte == i + 1; }))
        << "tensor " << i << " overlaps another";
  }
}

TEST(PagePool, RefusesNoPages) {
  EXPECT_THROW(PagePool(TwoGroups(), 0), InternalError);
}

TEST(CopyPage, CopiesOnePageOfEachTensor) {
  const PagePool from(TwoGroups(), 3);
  const PagePool to(TwoGroups(), 2);
  for (int layer = 0; layer < 3; ++layer) {
    for (const PagePool* pool : {&from, &to}) {
      const int value = pool == &from ? 10 + layer : 1;
      std::memset(pool->Keys(layer).raw(), value, pool->Keys(layer).NumBytes());
      std::memset(pool->Values(layer).raw(), value + 50, pool->Values(layer).NumBytes());
    }
  }
  CopyPage(from, 2, to, 1, nullptr);
  for (int layer = 0; layer < 3; ++layer) {
    const auto bytes_of = [](TensorView view) {
      const auto* bytes = static_cast<const uint8_t*>(view.raw());
      return std::vector<int>(bytes, bytes + view.NumBytes());
    };
    const auto expect = [&](TensorView view, int page, int value) {
      for (const int byte : bytes_of(view.Slice(page, page + 1))) ASSERT_EQ(byte, value);
    };
    expect(to.Keys(layer), 0, 1);
    expect(to.Keys(layer), 1, 10 + layer);
    expect(to.Values(layer), 0, 51);
    expect(to.Values(layer), 1, 60 + layer);
  }
  EXPECT_THROW(CopyPage(from, 3, to, 0, nullptr), InternalError);
  EXPECT_THROW(CopyPage(from, 0, to, 2, nullptr), InternalError);
}

}  // namespace
}  // namespace sluice
