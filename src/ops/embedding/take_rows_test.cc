#include "ops/embedding/take_rows.h"

#include <cmath>

#include "ops/common/test_support.h"

namespace sluice::ops {
namespace {

class TakeRowsTest : public OpTest {};

Tensor RowNumbers(std::initializer_list<int32_t> values) {
  Tensor rows = HostTensor(DType::kI32, {static_cast<int64_t>(values.size())});
  std::copy(values.begin(), values.end(), rows.data<int32_t>());
  return rows;
}

TEST_P(TakeRowsTest, CopiesRowsOfAWiderTensor) {
  std::mt19937 random(1);
  const Tensor wide = RandomTensor({50, 1100}, random);
  for (const int64_t width : {1, 37, 1029}) {
    const int64_t strides[] = {1100, 1};
    const ConstTensorView x(wide.data<float>() + 3, DType::kF32, {50, width}, strides);
    for (const int64_t count : {0, 1, 2, 7, 8, 64, 300}) {
      Tensor rows = HostTensor(DType::kI32, {count});
      for (int64_t i = 0; i < count; ++i) {
        rows.data<int32_t>()[i] = static_cast<int32_t>(random() % 50);
      }
      Guarded out(DType::kF32, {count, width});
      TakeRows(x, rows, out, context());
      out.ExpectGuardsIntact();
      for (int64_t i = 0; i < count; ++i) {
        ExpectSameBits(out.data<float>() + i * width,
                       x.data<float>() + rows.data<int32_t>()[i] * 1100, width);
      }
    }
  }
}

TEST_P(TakeRowsTest, RefusesRowsThatAreNotThere) {
  std::mt19937 random(2);
  const Tensor x = RandomTensor({10, 4}, random);
  for (const int32_t row : {-1, 10}) {
    const Tensor rows = RowNumbers({2, row});
    Guarded out(DType::kF32, {2, 4});
    if (context().OnCuda()) {
      TakeRows(x, rows, out, context());
      ExpectSameBits(out.data<float>(), x.data<float>() + 2 * 4, 4);
      for (int i = 4; i < 8; ++i) EXPECT_TRUE(std::isnan(out.data<float>()[i])) << i;
    } else {
      EXPECT_THROW(TakeRows(x, rows, out, context()), InternalError) << row;
    }
  }
}

SLUICE_INSTANTIATE_OP_TEST(TakeRowsTest);

}  // namespace
}  // namespace sluice::ops
