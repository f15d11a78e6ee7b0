// SPDX-License-Identifier: Apache-2.0
#include "kernels/orthogonality.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "tests/support/device_memory.h"

namespace rankwise {
namespace {

using testing::Backends;
using testing::expect_near;
using testing::kGpu;

// (r, n) of each matrix; rows and columns in turn.
using Sizes = std::vector<std::pair<int64_t, int64_t>>;

struct Rig : Backends {
  std::vector<OrthogonalityTerm> terms, on_gpu;
  Tensor sum = memory.of<double>({1}, {0.5});
  Tensor gpu_sum = device.copy_of(sum);

  explicit Rig(const Sizes& sizes) {
    for (const auto& [r, n] : sizes) {
      const bool columns = terms.size() % 2 == 1;
      const Shape shape = columns ? Shape{n, r} : Shape{r, n};
      const Tensor p = memory.uniform(shape), gradient = memory.uniform(shape);
      terms.push_back({p, gradient, columns});
      on_gpu.push_back({device.copy_of(p), device.copy_of(gradient), columns});
    }
  }
  void run() {
    orthogonality(sum, terms, 0.3f, cpu);
    orthogonality(gpu_sum, on_gpu, 0.3f, gpu);
  }
  void expect_same() {
    const double expected = *sum.data<double>();
    EXPECT_NEAR(*device.to_host(gpu_sum, memory).data<double>(), expected, 1e-5 * expected);
    for (size_t i = 0; i < terms.size(); ++i) {
      expect_near(device.to_host(on_gpu[i].gradient, memory), terms[i].gradient, 1e-5);
    }
  }
};

TEST(CudaOrthogonality, AgreesWithTheCpu) {
  RW_REQUIRE_GPU();
  const Sizes lists[] = {
      {{1, 1}, {3, 17}, {12, 64}, {16, 65}, {8, 2048}, {12, 2049}, {16, 5000}, {5, 4}},
      {{17, 100}, {32, 4096}, {8, 63}, {31, 2113}},
      {{64, 11008}, {64, 4096}, {33, 6200}, {48, 1}},
      {{65, 130}, {130, 4100}, {8, 4097}, {128, 2048}},
      Sizes(448, {12, 96}),
  };
  for (const Sizes& sizes : lists) {
    Rig rig(sizes);
    rig.run();
    rig.expect_same();
    Stream measuring(kGpu, Stream::Mode::kMeasure);
    orthogonality(rig.gpu_sum, rig.on_gpu, 0.3f, measuring);
    EXPECT_EQ(measuring.scratch_peak_bytes(), rig.gpu.scratch_peak_bytes());
  }
}

TEST(CudaOrthogonality, OrthonormalMatricesGetNoGradient) {
  RW_REQUIRE_GPU();
  Rig rig({{3, 8}, {3, 8}});
  for (size_t i = 0; i < 2; ++i) {
    auto* p = rig.terms[i].p.data<float>();
    const int64_t next_j = i == 0 ? 8 : 1, next_k = i == 0 ? 1 : 3;
    std::fill_n(p, 24, 0.0f);
    for (int64_t j = 0; j < 3; ++j) p[j * next_j + 2 * j * next_k] = -1.0f;
    upload(rig.on_gpu[i].p, rig.terms[i].p.raw(), rig.gpu);
  }
  rig.run();
  EXPECT_EQ(*rig.sum.data<double>(), 0.5);
  EXPECT_EQ(*rig.device.to_host(rig.gpu_sum, rig.memory).data<double>(), 0.5);
  rig.expect_same();
}

}  // namespace
}  // namespace rankwise
