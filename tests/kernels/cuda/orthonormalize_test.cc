// SPDX-License-Identifier: Apache-2.0
#include "kernels/orthonormalize.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "tests/kernels/gradients_of_known_spectrum.h"
#include "tests/support/device_memory.h"

namespace rankwise {
namespace {

using testing::Backends;
using testing::captured_energy;
using testing::expect_identical;
using testing::expect_near;
using testing::expect_orthonormal;
using testing::kActivationTypes;
using testing::kGpu;
using testing::kSides;
using testing::shape_of_basis;
using testing::with_singular_values;

struct Rig : Backends {
  Tensor failed = memory.poisoned({1}), gpu_failed = device.poisoned(DType::kF32, {1});

  bool has_failed() { return *device.to_host(gpu_failed, memory).data<float>() != 0.0f; }
  Tensor random_basis(const Shape& gradient, BasisSide side, int64_t rank) {
    const Tensor basis = memory.normal(shape_of_basis(gradient, side, rank));
    orthonormalize(basis, side, failed, {}, cpu);
    return basis;
  }
  void iterate(const Tensor& basis, BasisSide side, const Tensor& g,
               const SubspaceOptions& options) {
    subspace_iteration(basis, side, gpu_failed, g, options, gpu);
  }
};

// basis basis^T, or for rows basis^T basis.
Tensor projector(const Tensor& basis, BasisSide side, Rig& rig) {
  const bool left = side == BasisSide::kLeft;
  const int64_t length = basis.dim(left ? 0 : 1);
  const Tensor out = rig.memory.poisoned({length, length});
  matmul(out, basis, basis, {.transpose_a = !left, .transpose_b = left}, rig.cpu);
  return out;
}

// The last two have more tiles of a factor than there are thread blocks.
TEST(CudaOrthonormalize, AgreesWithTheCpuAndRepeats) {
  RW_REQUIRE_GPU();
  for (const BasisSide side : kSides) {
    for (const auto& [length, rank] : {std::pair{1, 1},
                                       {172, 1},
                                       {172, 17},
                                       {300, 63},
                                       {300, 64},
                                       {300, 65},
                                       {400, 128},
                                       {700, 130},
                                       {900, 321},
                                       {1100, 520}}) {
      Rig rig;
      const Tensor y = rig.memory.normal(
          side == BasisSide::kLeft ? Shape{length, rank} : Shape{rank, length}, 1e-5f);
      const Tensor gpu_y = rig.device.copy_of(y), again = rig.device.copy_of(y);
      orthonormalize(y, side, rig.failed, {}, rig.cpu);
      for (const Tensor& x : {gpu_y, again}) {
        orthonormalize(x, side, rig.gpu_failed, {}, rig.gpu);
      }
      EXPECT_FALSE(rig.has_failed());
      const Tensor found = rig.device.to_host(gpu_y, rig.memory);
      expect_orthonormal(found, side, 1e-5);
      expect_near(found, y, 1e-4);
      expect_identical(rig.device.to_host(again, rig.memory), found);
      Stream measuring(kGpu, Stream::Mode::kMeasure);
      orthonormalize(gpu_y, side, rig.gpu_failed, {}, measuring);
      EXPECT_EQ(measuring.scratch_peak_bytes(), rig.gpu.scratch_peak_bytes());
    }
  }
}

TEST(CudaOrthonormalize, SurvivesAHighCondition) {
  RW_REQUIRE_GPU();
  Rig rig;
  const Tensor y = with_singular_values(
      {900, 140}, [](int64_t i) { return std::pow(0.92, i); }, rig.memory);
  const Tensor gpu_y = rig.device.copy_of(y);
  orthonormalize(gpu_y, BasisSide::kLeft, rig.gpu_failed, {}, rig.gpu);
  EXPECT_FALSE(rig.has_failed());
  expect_orthonormal(rig.device.to_host(gpu_y, rig.memory), BasisSide::kLeft, 1e-5);
}

TEST(CudaOrthonormalize, DependentZeroOrNonFiniteVectorsAreRefusedAndStay) {
  RW_REQUIRE_GPU();
  for (const int64_t rank : {2, 70}) {
    Rig rig;
    const Tensor repeated = rig.memory.normal({200, rank}), zeros = rig.memory.zeros({200, rank});
    const Tensor one_zero = rig.memory.normal({200, rank}), nan = rig.memory.normal({200, rank});
    const Tensor infinite = rig.memory.normal({200, rank});
    for (int64_t i = 0; i < 200; ++i) {
      float* row = repeated.data<float>() + i * rank;
      row[rank - 1] = -2.0f * row[0];
      one_zero.data<float>()[i * rank] = 0.0f;
    }
    nan.data<float>()[100 * rank] = std::numeric_limits<float>::quiet_NaN();
    infinite.data<float>()[100 * rank + 1] = std::numeric_limits<float>::infinity();
    for (const Tensor& y : {repeated, zeros, one_zero, nan, infinite}) {
      const Tensor gpu_y = rig.device.copy_of(y);
      orthonormalize(gpu_y, BasisSide::kLeft, rig.gpu_failed, {}, rig.gpu);
      EXPECT_TRUE(rig.has_failed());
      expect_identical(rig.device.to_host(gpu_y, rig.memory), y);
    }
  }
}

TEST(CudaSubspaceIteration, AgreesWithTheCpu) {
  RW_REQUIRE_GPU();
  for (const BasisSide side : kSides) {
    for (const DType type : kActivationTypes) {
      for (const auto& [shape, rank] : {std::pair{Shape{43, 172}, 17},
                                        {Shape{320, 200}, 5},
                                        {Shape{200, 320}, 72},
                                        {Shape{512, 768}, 128}}) {
        for (const bool rotate : {false, true}) {
          Rig rig;
          // A gap behind the wanted values makes the subspace, and not only its energy, well
          // determined.
          const auto value = [rank](int64_t i) {
            return (i < rank ? 1.0 : 1e-3) / std::sqrt(static_cast<double>(i + 1));
          };
          const auto g = rig.pair(with_singular_values(shape, value, rig.memory), type);
          const Tensor basis = rig.random_basis(shape, side, rank);
          const Tensor gpu_basis = rig.device.copy_of(basis);
          const SubspaceOptions options = {.iterations = 3, .rotate = rotate};
          subspace_iteration(basis, side, rig.failed, g.host, options, rig.cpu);
          rig.iterate(gpu_basis, side, g.gpu, options);
          EXPECT_FALSE(rig.has_failed());
          const Tensor found = rig.device.to_host(gpu_basis, rig.memory);
          expect_orthonormal(found, side, 1e-5);
          expect_near(projector(found, side, rig), projector(basis, side, rig),
                      type == DType::kF32 ? 1e-4 : 1e-2);
          const double most = captured_energy(basis, side, g.host);
          EXPECT_NEAR(captured_energy(found, side, g.host), most, 1e-3 * most);
          Stream measuring(kGpu, Stream::Mode::kMeasure);
          subspace_iteration(gpu_basis, side, rig.gpu_failed, g.gpu, options, measuring);
          EXPECT_EQ(measuring.scratch_peak_bytes(), rig.gpu.scratch_peak_bytes());
        }
      }
    }
  }
}

// With fewer passes, of which the products are split; the old basis is far from the new one.
TEST(CudaSubspaceIteration, InBf16HardSpectraGiveTheEnergyOfTheExactBasis) {
  RW_REQUIRE_GPU();
  constexpr int64_t kRank = 96;
  const Shape shape{384, 640};
  for (const BasisSide side : kSides) {
    for (const double power : {0.5, 1.0, 2.0}) {
      for (const auto& [outlier, scale] :
           {std::pair{1.0, 1.0}, {1e3, 1.0}, {1.0, 1e-8}, {1.0, 1e5}}) {
        SCOPED_TRACE(fmt::format("power {}, outlier {}, scale {}", power, outlier, scale));
        Rig rig;
        const auto value = [&](int64_t i) {
          return scale * (i == 0 ? outlier : std::pow(static_cast<double>(i + 1), -power));
        };
        const Tensor g = with_singular_values(shape, value, rig.memory);
        const Tensor basis = rig.random_basis(shape, side, kRank);
        const Tensor gpu_basis = rig.device.copy_of(basis);
        rig.iterate(gpu_basis, side, rig.device.copy_of(g, DType::kBF16), {.iterations = 4});
        EXPECT_FALSE(rig.has_failed());
        const Tensor found = rig.device.to_host(gpu_basis, rig.memory);
        expect_orthonormal(found, side, 4e-5);
        subspace_iteration(basis, side, rig.failed, g, {.iterations = 4}, rig.cpu);
        EXPECT_GE(captured_energy(found, side, g), 0.999 * captured_energy(basis, side, g));
      }
    }
  }
}

// As of a gradient to which one position or feature gives nearly everything: rounding to BF16 puts
// nothing into the other rows, so two iterations without a pass over R would lose them.
TEST(CudaSubspaceIteration, InBf16OneRowMayExceedAllOthers) {
  RW_REQUIRE_GPU();
  for (const BasisSide side : kSides) {
    Rig rig;
    Tensor g = rig.memory.normal({512, 384});
    for (int64_t i = 0; i < 384; ++i) g.data<float>()[7 * 384 + i] *= 3162.0f;
    if (side == BasisSide::kRight) g = transposed(g, rig.memory);
    const Tensor gpu_basis = rig.device.copy_of(rig.random_basis(g.shape(), side, 128));
    rig.iterate(gpu_basis, side, rig.device.copy_of(g, DType::kBF16), {.iterations = 4});
    EXPECT_FALSE(rig.has_failed());
    expect_orthonormal(rig.device.to_host(gpu_basis, rig.memory), side, 4e-5);
  }
}

TEST(CudaSubspaceIteration, InBf16SumsOverOneRankChangeOnlyRounding) {
  RW_REQUIRE_GPU();
  const RankSum one = [](const Tensor& x) { EXPECT_EQ(x.dtype(), DType::kF32); };
  const SubspaceSums of_basis{.projected = one, .sketch_gram = one, .failed = one};
  const SubspaceSums of_other{.sketch = one, .projected_gram = one, .failed = one};
  for (const BasisSide side : kSides) {
    for (const SubspaceSums& sums : {of_basis, of_other}) {
      Rig rig;
      const auto value = [](int64_t i) {
        return (i < 72 ? 1.0 : 1e-3) / std::sqrt(static_cast<double>(i + 1));
      };
      const Tensor host = with_singular_values({200, 320}, value, rig.memory);
      const Tensor g = rig.device.copy_of(host, DType::kBF16);
      const Tensor basis = rig.random_basis(host.shape(), side, 72);
      const Tensor alone = rig.device.copy_of(basis), summed = rig.device.copy_of(basis);
      rig.iterate(alone, side, g, {.iterations = 4});
      rig.iterate(summed, side, g, {.iterations = 4, .sums = sums});
      EXPECT_FALSE(rig.has_failed());
      expect_near(projector(rig.device.to_host(summed, rig.memory), side, rig),
                  projector(rig.device.to_host(alone, rig.memory), side, rig), 1e-2);
    }
  }
}

TEST(CudaSubspaceIteration, DependentZeroOrNonFiniteGradientsKeepTheOldBasis) {
  RW_REQUIRE_GPU();
  for (const BasisSide side : kSides) {
    Rig rig;
    const auto rank_of_5 = [](int64_t i) { return i < 5 ? std::pow(0.7, i) : 0.0; };
    const Tensor dependent = with_singular_values({160, 145}, rank_of_5, rig.memory);
    const Tensor zeros = rig.memory.zeros({160, 145}), nan = rig.memory.normal({160, 145});
    nan.data<float>()[1000] = std::numeric_limits<float>::quiet_NaN();
    for (const Tensor& host : {dependent, zeros, nan}) {
      for (const bool rotate : {false, true}) {
        const Tensor basis = rig.random_basis(host.shape(), side, 6);
        const Tensor gpu_basis = rig.device.copy_of(basis), g = rig.device.copy_of(host);
        rig.iterate(gpu_basis, side, g, {.iterations = 2, .rotate = rotate});
        EXPECT_TRUE(rig.has_failed());
        expect_identical(rig.device.to_host(gpu_basis, rig.memory), basis);
        exact_basis(gpu_basis, side, rig.gpu_failed, g, rig.gpu);
        EXPECT_TRUE(rig.has_failed());
        expect_identical(rig.device.to_host(gpu_basis, rig.memory), basis);
      }
    }
  }
}

TEST(CudaExactBasis, IsThatOfTheCpu) {
  RW_REQUIRE_GPU();
  for (const BasisSide side : kSides) {
    Rig rig;
    const Tensor g = rig.memory.normal({43, 72});
    const Tensor basis = rig.memory.poisoned(shape_of_basis(g.shape(), side, 5));
    const Tensor gpu_basis = rig.device.poisoned(DType::kF32, basis.shape());
    exact_basis(basis, side, rig.failed, g, rig.cpu);
    exact_basis(gpu_basis, side, rig.gpu_failed, rig.device.copy_of(g), rig.gpu);
    EXPECT_FALSE(rig.has_failed());
    expect_identical(rig.device.to_host(gpu_basis, rig.memory), basis);
  }
}

}  // namespace
}  // namespace rankwise
