// SPDX-License-Identifier: Apache-2.0
// Kernel test harness: random tensors between guard zones, finite differences, comparison with a
// reference computed in double.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <new>
#include <span>
#include <string>
#include <vector>

#include "runtime/rng.h"
#include "runtime/tensor.h"

namespace rankwise::testing {

// Owns CPU tensors for one test. Every tensor lies between two guard zones: a write outside it
// fails the test when the memory is destroyed, a read outside it meets NaN.
class GuardedMemory {
 public:
  explicit GuardedMemory(uint64_t seed = 1) : seed_(seed) {}
  GuardedMemory(const GuardedMemory&) = delete;
  GuardedMemory& operator=(const GuardedMemory&) = delete;
  ~GuardedMemory() { expect_guards_intact(); }

  // Filled with NaN (all bits set): an output that is not written completely is noticed.
  Tensor poisoned(DType dtype, const Shape& shape) {
    const int64_t bytes = (shape.numel() * bits_of(dtype) + 7) / 8;
    blocks_.push_back(
        Block{Bytes(new (std::align_val_t{kAlignment}) uint8_t[bytes + 2 * kGuard]), bytes});
    uint8_t* begin = blocks_.back().memory.get();
    std::memset(begin, kPoison, static_cast<size_t>(bytes + 2 * kGuard));
    return Tensor(begin + kGuard, dtype, shape);
  }
  Tensor poisoned(const Shape& shape) { return poisoned(DType::kF32, shape); }

  Tensor zeros(DType dtype, const Shape& shape) {
    Tensor out = poisoned(dtype, shape);
    std::memset(out.raw(), 0, static_cast<size_t>(out.bytes()));
    return out;
  }
  Tensor zeros(const Shape& shape) { return zeros(DType::kF32, shape); }

  // Values differ from call to call, and are the same in every run.
  Tensor uniform(const Shape& shape, float low = -1.0f, float high = 1.0f) {
    Tensor out = poisoned(shape);
    Rng(seed_, "kernel_harness", draws_++).fill_uniform(elements(out), low, high);
    return out;
  }
  Tensor normal(const Shape& shape, float stddev = 1.0f) {
    Tensor out = poisoned(shape);
    Rng(seed_, "kernel_harness", draws_++).fill_normal(elements(out), 0.0f, stddev);
    return out;
  }
  template <class T>
  Tensor of(const Shape& shape, const std::vector<T>& values) {
    Tensor out = poisoned(dtype_of<T>(), shape);
    EXPECT_EQ(static_cast<size_t>(shape.numel()), values.size());
    std::copy(values.begin(), values.end(), out.data<T>());
    return out;
  }
  Tensor copy_of(const Tensor& x) {  // contiguous tensors only
    Tensor out = poisoned(x.dtype(), x.shape());
    std::memcpy(out.raw(), x.raw(), static_cast<size_t>(x.bytes()));
    return out;
  }

  void expect_guards_intact() const {
    for (const Block& block : blocks_) {
      const uint8_t* begin = block.memory.get();
      const auto intact = [](uint8_t byte) { return byte == kPoison; };
      EXPECT_TRUE(std::all_of(begin, begin + kGuard, intact)) << "write before a tensor";
      const uint8_t* end = begin + kGuard + block.bytes;
      EXPECT_TRUE(std::all_of(end, end + kGuard, intact)) << "write behind a tensor";
    }
  }

  static std::span<float> elements(const Tensor& x) {
    return {x.data<float>(), static_cast<size_t>(x.numel())};
  }

 private:
  static constexpr int64_t kGuard = 512;  // bytes, a multiple of the alignment
  static constexpr size_t kAlignment = 64;
  static constexpr uint8_t kPoison = 0xff;

  struct AlignedDelete {
    void operator()(uint8_t* memory) const {
      ::operator delete[](memory, std::align_val_t{kAlignment});
    }
  };
  using Bytes = std::unique_ptr<uint8_t[], AlignedDelete>;
  struct Block {
    Bytes memory;
    int64_t bytes;
  };

  uint64_t seed_;
  uint64_t draws_ = 0;
  std::vector<Block> blocks_;
};

// |actual - expected| <= absolute + relative * |expected| everywhere; the first violation is told.
inline void expect_close(const Tensor& actual, std::span<const double> expected, double absolute,
                         double relative) {
  ASSERT_EQ(static_cast<size_t>(actual.numel()), expected.size());
  for (int64_t i = 0; i < actual.numel(); ++i) {
    const double a = actual.data<float>()[i];
    const double e = expected[static_cast<size_t>(i)];
    ASSERT_TRUE(std::abs(a - e) <= absolute + relative * std::abs(e))
        << "element " << i << " of " << to_string(actual.shape()) << ": " << a << ", expected "
        << e;
  }
}

inline void expect_identical(const Tensor& actual, const Tensor& expected) {
  ASSERT_EQ(actual.bytes(), expected.bytes());
  EXPECT_EQ(0, std::memcmp(actual.raw(), expected.raw(), static_cast<size_t>(actual.bytes())))
      << "not bit-identical";
}

// sum_i weights[i] * y[i] in double: turns an operation into the scalar function whose gradient
// with respect to y is `weights`.
inline double weighted_sum(const Tensor& y, const Tensor& weights) {
  double sum = 0.0;
  for (int64_t i = 0; i < y.numel(); ++i) {
    sum += static_cast<double>(y.data<float>()[i]) * weights.data<float>()[i];
  }
  return sum;
}

struct FiniteDifferenceOptions {
  float step = 1e-2f;       // fp32 operations: truncation and rounding balance near here
  double tolerance = 2e-3;  // relative to the larger of 1 and the largest gradient tested
  int64_t samples = 48;     // elements tested, spread evenly
};

// Compares `gradient` with central differences of `scalar` under changes of x, which is restored.
// `scalar` runs the forward operation again and returns a weighted sum of its output.
inline void expect_gradient(const Tensor& x, const Tensor& gradient,
                            const std::function<double()>& scalar,
                            const FiniteDifferenceOptions& options = {}) {
  ASSERT_EQ(x.numel(), gradient.numel());
  const int64_t samples = std::min(options.samples, x.numel());
  std::vector<double> numeric(static_cast<size_t>(samples));
  std::vector<int64_t> index(static_cast<size_t>(samples));
  double largest = 1.0;
  for (int64_t s = 0; s < samples; ++s) {
    const int64_t i = samples == 1 ? 0 : s * (x.numel() - 1) / (samples - 1);
    float& element = x.data<float>()[i];
    const float saved = element;
    const float above = saved + options.step;
    const float below = saved - options.step;
    element = above;
    const double high = scalar();
    element = below;
    const double low = scalar();
    element = saved;
    index[static_cast<size_t>(s)] = i;
    numeric[static_cast<size_t>(s)] = (high - low) / (static_cast<double>(above) - below);
    largest = std::max(largest, std::abs(numeric[static_cast<size_t>(s)]));
  }
  for (size_t s = 0; s < numeric.size(); ++s) {
    const double analytic = gradient.data<float>()[index[s]];
    EXPECT_TRUE(std::abs(analytic - numeric[s]) <= options.tolerance * largest)
        << "element " << index[s] << " of " << to_string(x.shape()) << ": gradient " << analytic
        << ", finite difference " << numeric[s];
  }
}

}  // namespace rankwise::testing
