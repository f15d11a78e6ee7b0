// SPDX-License-Identifier: Apache-2.0
// What orthonormalize adds to products of cuBLASLt, on Gram matrices of the host.
#include "kernels/cholesky_step.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/cpu/orthonormalize.h"
#include "kernels/cuda/orthonormalize.h"
#include "kernels/matmul.h"
#include "tests/support/device_memory.h"

namespace rankwise {
namespace {

using testing::Backends;
using testing::expect_identical;
using testing::expect_near;

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInfinity = std::numeric_limits<float>::infinity();
// Up to three tiles: racecheck takes its time. More are in orthonormalize_test.
constexpr int64_t kRanks[] = {1, 2, 64, 65, 130};

struct Rig : Backends {
  explicit Rig(int64_t vectors) : rank(vectors), y(memory.normal({4 * rank + 100, rank})) {
    for (int64_t i = 0; i < y.numel(); ++i) {
      y.data<float>()[i] *= static_cast<float>(1 + i % rank % 3);
    }
  }

  Tensor gram() {
    const Tensor out = memory.poisoned({rank, rank});
    matmul(out, y, y, {.transpose_a = true}, cpu);
    return out;
  }
  CholeskyStep on_host(const Tensor& of, float shift = 0.0f) {
    return {.work = memory.poisoned({2 * rank, rank}),
            .lengths = memory.poisoned({rank + 1}),
            .gram = of,
            .shift = shift,
            .floor = 4.0f * 0x1p-24f * static_cast<float>(rank)};
  }
  CholeskyStep on_gpu(CholeskyStep step) {
    for (Tensor* x : {&step.work, &step.lengths, &step.gram}) *x = device.copy_of(*x);
    return step;
  }

  bool fails_on_host(const Tensor& lengths) {
    const Tensor failed = memory.poisoned({1});
    cpu::check_lengths(failed, lengths);
    return failed_of(failed);
  }
  bool fails_on_gpu(const Tensor& lengths) {
    const Tensor failed = device.poisoned(DType::kF32, {1});
    cuda::check_lengths(failed, lengths, gpu);
    return failed_of(device.to_host(failed, memory));
  }
  static bool failed_of(const Tensor& failed) {
    const float value = *failed.data<float>();
    EXPECT_TRUE(value == 0.0f || value == 1.0f) << value;
    return value != 0.0f;
  }

  int64_t rank;
  Tensor y;
};

TEST(CudaCholeskyStep, AgreesWithTheCpuAndRepeats) {
  RW_REQUIRE_GPU();
  for (const int64_t rank : kRanks) {
    for (const bool first : {true, false}) {
      for (const float shift : {0.0f, 0.25f}) {
        SCOPED_TRACE(fmt::format("rank {}, first {}, shift {}", rank, first, shift));
        Rig rig(rank);
        CholeskyStep step = rig.on_host(rig.gram(), shift);
        step.first = first;
        // Behind the first pass all of them are read but the lowest pivot.
        if (!first) step.lengths = rig.memory.uniform({rank + 1}, 0.5f, 2.0f);
        const CholeskyStep once = rig.on_gpu(step), again = rig.on_gpu(step);
        cpu::cholesky_step(step);
        cuda::cholesky_step(once, rig.gpu);
        cuda::cholesky_step(again, rig.gpu);
        const Tensor factor = rig.device.to_host(once.factor(), rig.memory);
        const Tensor lengths = rig.device.to_host(once.lengths, rig.memory);
        expect_near(factor, step.factor(), 1e-4);
        expect_near(lengths, step.lengths, 2e-5);
        EXPECT_NEAR(lengths.data<float>()[rank], step.lengths.data<float>()[rank], 2e-5);
        expect_identical(rig.device.to_host(again.factor(), rig.memory), factor);
        expect_identical(rig.device.to_host(again.lengths, rig.memory), lengths);
        EXPECT_FALSE(rig.fails_on_host(step.lengths));
        EXPECT_FALSE(rig.fails_on_gpu(once.lengths));
      }
    }
  }
}

TEST(CudaCholeskyStep, TakesTheSymmetricPart) {
  RW_REQUIRE_GPU();
  for (const int64_t rank : {2, 65, 130}) {
    Rig rig(rank);
    const CholeskyStep symmetric = rig.on_host(rig.gram());
    CholeskyStep other = rig.on_host(rig.memory.copy_of(symmetric.gram));
    for (int64_t i = 0; i < rank; ++i) {
      for (int64_t j = 0; j < i; ++j) {
        other.gram.data<float>()[i * rank + j] += 16.0f;
        other.gram.data<float>()[j * rank + i] -= 16.0f;
      }
    }
    const CholeskyStep expected = rig.on_gpu(symmetric), found = rig.on_gpu(other);
    cuda::cholesky_step(expected, rig.gpu);
    cuda::cholesky_step(found, rig.gpu);
    expect_near(rig.device.to_host(found.factor(), rig.memory),
                rig.device.to_host(expected.factor(), rig.memory), 1e-4);
  }
}

// The vector in the middle, for rank 2 the last one, is the double of the first.
TEST(CudaCholeskyStep, ReplacesThePivotOfADependentVector) {
  RW_REQUIRE_GPU();
  for (const int64_t rank : kRanks) {
    if (rank == 1) continue;
    SCOPED_TRACE(rank);
    Rig rig(rank);
    for (int64_t i = 0; i < rig.y.dim(0); ++i) {
      float* row = rig.y.data<float>() + i * rank;
      row[rank / 2] = 2.0f * row[0];
    }
    const CholeskyStep step = rig.on_host(rig.gram()), on_gpu = rig.on_gpu(step);
    cpu::cholesky_step(step);
    cuda::cholesky_step(on_gpu, rig.gpu);
    const Tensor lengths = rig.device.to_host(on_gpu.lengths, rig.memory);
    // Of the vectors before it; the later ones depend on rounding.
    const auto before = [&](const Tensor& x) {
      return rig.memory.of<float>({rank / 2}, {x.data<float>(), x.data<float>() + rank / 2});
    };
    expect_near(before(lengths), before(step.lengths), 2e-5);
    for (const Tensor& x : {lengths, step.lengths}) {
      EXPECT_LT(std::abs(x.data<float>()[rank]), 1e-4f);
      EXPECT_GT(x.data<float>()[rank / 2], 0.0f);
      EXPECT_LT(x.data<float>()[rank / 2], 2e-2f * x.data<float>()[0]);
    }
    EXPECT_TRUE(rig.fails_on_host(step.lengths));
    EXPECT_TRUE(rig.fails_on_gpu(on_gpu.lengths));
  }
}

TEST(CudaCholeskyStep, ZeroOrNonFiniteVectorsFail) {
  RW_REQUIRE_GPU();
  for (const int64_t rank : kRanks) {
    for (const int64_t vector : {int64_t{0}, rank - 1}) {
      for (const float value : {0.0f, kNan, kInfinity}) {
        for (const float shift : {0.0f, 1e-4f}) {
          SCOPED_TRACE(fmt::format("rank {}, vector {}: {}, shift {}", rank, vector, value, shift));
          Rig rig(rank);
          const Tensor gram = rig.gram();
          for (int64_t i = 0; i < rank; ++i) {
            gram.data<float>()[i * rank + vector] = gram.data<float>()[vector * rank + i] = value;
          }
          const CholeskyStep step = rig.on_host(gram, shift), on_gpu = rig.on_gpu(step);
          cpu::cholesky_step(step);
          cuda::cholesky_step(on_gpu, rig.gpu);
          EXPECT_TRUE(rig.fails_on_host(step.lengths));
          EXPECT_TRUE(rig.fails_on_gpu(on_gpu.lengths));
        }
      }
    }
  }
}

TEST(CudaCheckLengths, JudgesAsTheCpu) {
  RW_REQUIRE_GPU();
  struct Case {
    float value, pivot;
    bool fails;
  };
  constexpr Case kCases[] = {{1.0f, 0.5f, false},    {1.0f, 1.0f, false}, {1.0f, 0.499f, true},
                             {1.0f, -1.0f, true},    {1.0f, kNan, true},  {3e-6f, 1.0f, false},
                             {0.5e-6f, 1.0f, true},  {0.0f, 1.0f, true},  {-1.0f, 1.0f, true},
                             {kNan, 1.0f, true},     {1e7f, 1.0f, true},  {5e5f, 1.0f, false},
                             {kInfinity, 1.0f, true}};
  for (const int64_t count : {2, 256, 300, 1000}) {
    for (const int64_t place : {int64_t{0}, count - 1}) {
      for (const Case& c : kCases) {
        SCOPED_TRACE(fmt::format("{} of {}: {}, pivot {}", place, count, c.value, c.pivot));
        Rig rig(1);
        const Tensor lengths = rig.memory.uniform({count + 1}, 0.9f, 1.1f);
        lengths.data<float>()[place] = c.value;
        lengths.data<float>()[count] = c.pivot;
        EXPECT_EQ(rig.fails_on_host(lengths), c.fails);
        EXPECT_EQ(rig.fails_on_gpu(rig.device.copy_of(lengths)), c.fails);
      }
    }
  }
}

TEST(CudaSplitInHalves, TheSumIsWhatWasSplit) {
  RW_REQUIRE_GPU();
  for (const int64_t count : {1, 4, 255, 1023, 4100}) {
    for (const int64_t offset : {0, 1}) {
      Backends both;
      const Tensor x = both.memory.normal({count + offset}, 1e-3f);
      const Tensor high = both.device.poisoned(DType::kBF16, {count});
      const Tensor low = both.device.poisoned(DType::kBF16, {count});
      const Tensor on_gpu = both.device.copy_of(x).rows(offset, count + offset);
      cuda::split_in_halves(high, low, on_gpu, both.gpu);
      const Tensor above = both.device.to_host(high, both.memory);
      const Tensor below = both.device.to_host(low, both.memory);
      for (int64_t i = 0; i < count; ++i) {
        const float value = x.data<float>()[i + offset];
        const float high_part = above.data<float>()[i], low_part = below.data<float>()[i];
        ASSERT_LE(std::abs(high_part - value), 0x1p-8f * std::abs(value)) << i;
        ASSERT_LE(std::abs(high_part + low_part - value), 0x1p-16f * std::abs(value)) << i;
      }
    }
  }
}

TEST(CudaCopyUnlessFailed, LeavesTheTargetAfterAFailure) {
  RW_REQUIRE_GPU();
  for (const int64_t count : {1, 255, 257, 1000}) {
    for (const float failed : {0.0f, 1.0f, 2.0f}) {  // 2: of two ranks
      Backends both;
      const Tensor to = both.memory.normal({count}), from = both.memory.normal({count});
      const Tensor target = both.device.copy_of(to);
      cuda::copy_unless_failed(target, both.device.copy_of(from),
                               both.device.copy_of(both.memory.of<float>({1}, {failed})), both.gpu);
      expect_identical(both.device.to_host(target, both.memory), failed == 0.0f ? from : to);
    }
  }
}

}  // namespace
}  // namespace rankwise
