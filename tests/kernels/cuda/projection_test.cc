// SPDX-License-Identifier: Apache-2.0
#include "kernels/projection.h"

#include <gtest/gtest.h>

#include "tests/support/device_memory.h"

namespace rankwise {
namespace {

using testing::Backends;
using testing::expect_near;
using testing::kActivationTypes;
using testing::kGpu;

struct Case {
  int64_t out, in, left, right;  // ranks; 0: no factor
};
constexpr Case kCases[] = {{43, 172, 5, 0},     {172, 43, 0, 17},  {43, 172, 1, 5},
                           {128, 320, 64, 0},   {320, 128, 0, 64}, {320, 136, 32, 64},
                           {136, 1000, 128, 8}, {1, 9, 1, 0}};

struct Rig : Backends {
  Projection host, on_gpu;
  DType type;

  Rig(const Case& c, DType type_of_products) : type(type_of_products) {
    if (c.left > 0) add(host.left, on_gpu.left, {c.out, c.left});
    if (c.right > 0) add(host.right, on_gpu.right, {c.right, c.in});
  }
  // Values that the type of the products holds, so that rounding them changes nothing.
  void add(Tensor& on_host, Tensor& copy, const Shape& shape) {
    on_host = testing::rounded(memory.uniform(shape), type);
    copy = device.copy_of(on_host);
  }
  double tolerance() const { return type == DType::kF32 ? 2e-5 : 1e-2; }
  template <class Operation>
  void expect_same(const Tensor& expected, const Tensor& actual, const Operation& measure) {
    expect_near(device.to_host(actual, memory), expected, tolerance());
    Stream measuring(kGpu, Stream::Mode::kMeasure);
    measure(measuring);
    EXPECT_EQ(measuring.scratch_peak_bytes(), gpu.scratch_peak_bytes());
  }
};

TEST(CudaProjection, OfADenseGradientAgreesWithTheCpu) {
  RW_REQUIRE_GPU();
  for (const DType type : kActivationTypes) {
    for (const Case& c : kCases) {
      for (const int64_t extra : {0, 3}) {
        Rig rig(c, type);
        const auto g = rig.pair(rig.memory.uniform({c.out, c.in}), type, extra);
        const Shape shape = rig.host.projected({c.out, c.in});
        const Tensor r = rig.memory.poisoned(shape);
        const Tensor gpu_r = rig.device.poisoned(DType::kF32, shape);
        project(r, g.host, rig.host, rig.cpu);
        project(gpu_r, g.gpu, rig.on_gpu, rig.gpu);
        rig.expect_same(r, gpu_r,
                        [&](Stream& stream) { project(gpu_r, g.gpu, rig.on_gpu, stream); });
      }
    }
  }
}

TEST(CudaProjection, ByAssociativityAgreesWithTheCpu) {
  RW_REQUIRE_GPU();
  for (const DType type : kActivationTypes) {
    for (const Case& c : kCases) {
      for (const int64_t tokens : {1, 7, 130}) {
        Rig rig(c, type);
        const Tensor r = rig.memory.uniform(rig.host.projected({c.out, c.in}));
        const Tensor gpu_r = rig.device.copy_of(r);
        const int64_t extra = tokens == 7 ? 5 : 0;
        const auto dy = rig.pair(rig.memory.uniform({tokens, c.out}), type, extra);
        const auto x = rig.pair(rig.memory.uniform({tokens, c.in}), type, 2 * extra);
        for (int micro_batch = 0; micro_batch < 2; ++micro_batch) {
          projected_backward_weight(r, dy.host, x.host, rig.host, rig.cpu);
          projected_backward_weight(gpu_r, dy.gpu, x.gpu, rig.on_gpu, rig.gpu);
        }
        rig.expect_same(r, gpu_r, [&](Stream& stream) {
          projected_backward_weight(gpu_r, dy.gpu, x.gpu, rig.on_gpu, stream);
        });
      }
    }
  }
}

}  // namespace
}  // namespace rankwise
