#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "device/buffer.h"
#include "ops/common/op_context.h"

namespace sluice::ops {

// One implementation of every op: the reference, a tier that this machine runs, or its CUDA device.
struct Backend {
  std::string name;
  CpuTier tier;
  bool reference;
  std::optional<CudaDeviceInfo> cuda = {};  // as which device ops choose their kernels
  bool batch_invariant = false;
  bool decoding_first = false;
};

// The reference and every tier up to the machine's own.
std::vector<Backend> CpuBackends();

// Those, and where there is a device "cuda", and "cuda_sm80" and "cuda_sm86": the kernels, and
// their configurations within a block's shared memory, that devices of older architectures get.
// Each of the first two a second time with batch_invariant, and the first with decoding_first.
std::vector<Backend> Backends();

// Those that promise that a row's bits do not depend on its company: the CPU's, and CUDA's with
// batch_invariant.
std::vector<Backend> InvariantBackends();

// A pool, an arena and a context for one backend. On CUDA every op has run when it returns, and
// reads and writes the host's tensors of this file where they are: they are pinned.
class OpRunner {
 public:
  explicit OpRunner(const Backend& backend, int threads = 2);
  OpContext& context() { return context_; }
  Arena& arena() { return arena_; }

 private:
  std::unique_ptr<CudaStream> stream_;
  ThreadPool pool_;
  Arena arena_;
  Arena staging_;
  std::unique_ptr<Inbox> inbox_;
  OpContext context_;
};

// A fixture instantiated over Backends(), over CpuBackends() where a test is of what the CPU alone
// does, or over InvariantBackends().
class OpTest : public ::testing::TestWithParam<Backend> {
 protected:
  OpRunner& runner() { return runner_; }
  OpContext& context() { return runner_.context(); }

 private:
  OpRunner runner_{GetParam()};
};

// A tensor that every backend of this machine can read and write.
Tensor HostTensor(DType dtype, const Shape& shape);

// An output tensor between guard zones, filled with NaN (or -1 for integers) until it is written.
class Guarded {
 public:
  Guarded(DType dtype, const Shape& shape);
  const TensorView& view() const { return view_; }
  operator TensorView() const { return view_; }  // NOLINT(google-explicit-constructor)
  template <class T>
  const T* data() const {
    return view_.data<T>();
  }
  // Fails the test where a guard zone was written.
  void ExpectGuardsIntact() const;

 private:
  Tensor storage_;
  TensorView view_;
};

// Uniform values in [-range, range).
Tensor RandomTensor(const Shape& shape, std::mt19937& random, float range = 1.0f);

// The same values in another float format.
Tensor Convert(const Tensor& values, DType dtype);

// A copy that the host can read, of a tensor that an op left in its context's arena.
Tensor Download(ConstTensorView view, OpContext& context);

// Every element as a double.
std::vector<double> ToDoubles(const Tensor& tensor);

// |got - want| <= tolerance * scale for each element; `scale` has one entry an element, as the
// sum of the magnitudes that were added up.
void ExpectClose(const Guarded& got, std::span<const double> want, std::span<const double> scale,
                 double tolerance);

// Relative to max(|want|, floor).
void ExpectRelative(const Guarded& got, std::span<const double> want, double tolerance,
                    double floor = 1e-30);

// The same bits in `count` f32 or i32 elements.
void ExpectSameBits(const void* a, const void* b, int64_t count);

}  // namespace sluice::ops

#define SLUICE_INSTANTIATE_CPU_OP_TEST(Fixture)                                  \
  INSTANTIATE_TEST_SUITE_P(Backend, Fixture, ::testing::ValuesIn(CpuBackends()), \
                           [](const auto& test) { return test.param.name; })

#define SLUICE_INSTANTIATE_INVARIANT_OP_TEST(Fixture)                                  \
  INSTANTIATE_TEST_SUITE_P(Backend, Fixture, ::testing::ValuesIn(InvariantBackends()), \
                           [](const auto& test) { return test.param.name; })

#define SLUICE_INSTANTIATE_OP_TEST(Fixture)                                   \
  INSTANTIATE_TEST_SUITE_P(Backend, Fixture, ::testing::ValuesIn(Backends()), \
                           [](const auto& test) { return test.param.name; })
