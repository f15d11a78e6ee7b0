// SPDX-License-Identifier: Apache-2.0
// The product that stands in for cuBLASLt, by itself: tools that cannot run the library run this.
#include <gtest/gtest.h>

#include "kernels/cuda/matmul_call.h"
#include "kernels/matmul.h"
#include "tests/support/device_memory.h"

namespace rankwise {
namespace {

using testing::Backends;
using testing::expect_near;
using testing::kActivationTypes;

TEST(CudaTiledMatmul, AgreesWithTheCpu) {
  RW_REQUIRE_GPU();
  for (const DType type : kActivationTypes) {
    for (const bool transpose_a : {false, true}) {
      for (const bool transpose_b : {false, true}) {
        Backends test;
        const int64_t m = 45, n = 70, k = 37;
        const Shape a_shape = transpose_a ? Shape{k, m} : Shape{m, k};
        const Shape b_shape = transpose_b ? Shape{n, k} : Shape{k, n};
        const auto a = test.pair(test.memory.uniform(a_shape), type, 3);
        const auto b = test.pair(test.memory.uniform(b_shape), type, 5);
        const auto c = test.pair(test.memory.uniform({m, n}), DType::kF32);
        const MatmulParams params{transpose_a, transpose_b, 0.5f, 2.0f};
        matmul(c.host, a.host, b.host, params, test.cpu);
        cuda::tiled_matmul(cuda::matmul_call(c.gpu, a.gpu, b.gpu, params, c.gpu), test.gpu);
        expect_near(test.device.to_host(c.gpu, test.memory), c.host, 1e-5);
      }
    }
  }
}

}  // namespace
}  // namespace rankwise
