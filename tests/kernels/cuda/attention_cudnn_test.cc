// SPDX-License-Identifier: Apache-2.0
#include "kernels/cuda/attention_cudnn.h"

#include <gtest/gtest.h>

#include <optional>

#include "kernels/cuda/attention.h"
#include "tests/kernels/cuda/attention_case.h"

namespace rankwise {
namespace {

using testing::AttentionCase;
using testing::AttentionTensors;
using testing::device_tensors;
using testing::DeviceMemory;
using testing::expect_gradients_near;
using testing::expect_near;
using testing::GuardedMemory;
using testing::host_tensors;
using testing::kGpu;

// Problems that cuDNN takes.
class CudnnAttention : public ::testing::TestWithParam<AttentionCase> {
 protected:
  void SetUp() override {
    RW_REQUIRE_GPU();
    if (!kHasCudnn) GTEST_SKIP() << "built without cuDNN";
    // Older devices have no backward pass over packed documents.
    if (gpu_properties(0).compute_major < 9) GTEST_SKIP() << "needs compute capability 9.0";
  }
};

// Also across passes: one backend's log_sum_exp serves the other.
TEST_P(CudnnAttention, AgreesWithTheTiledKernels) {
  const AttentionCase& c = GetParam();
  GuardedMemory memory(11);
  const AttentionTensors host = host_tensors(c, memory);
  Stream gpu(kGpu);
  DeviceMemory device(gpu);
  const AttentionTensors tiled = device_tensors(host, c, device);
  const AttentionTensors cudnn = device_tensors(host, c, device);
  cuda::tiled_attention(tiled.y, tiled.log_sum_exp, tiled.inputs(), gpu);
  cudnn.forward(gpu);
  EXPECT_STREQ("cudnn", cuda::attention_backend(gpu));
  expect_near(device.to_host(cudnn.y, memory), device.to_host(tiled.y, memory), 2e-2);
  expect_near(device.to_host(cudnn.log_sum_exp, memory), device.to_host(tiled.log_sum_exp, memory),
              1e-3);

  const auto gradients_on_host = [&](const AttentionTensors& t) {
    AttentionTensors out = t;
    out.dq = device.to_host(t.dq, memory);
    out.dk = device.to_host(t.dk, memory);
    out.dv = device.to_host(t.dv, memory);
    return out;
  };
  cuda::tiled_attention_backward(tiled.gradients(), tiled.outputs(), tiled.inputs(), gpu);
  const AttentionTensors expected = gradients_on_host(tiled);
  cudnn.backward(gpu);
  EXPECT_STREQ("cudnn", cuda::attention_backend(gpu));
  expect_gradients_near(cudnn, expected, 2e-2, device, memory);
  tiled.backward(gpu);
  expect_gradients_near(tiled, expected, 2e-2, device, memory);
  cuda::tiled_attention_backward(cudnn.gradients(), cudnn.outputs(), cudnn.inputs(), gpu);
  expect_gradients_near(cudnn, expected, 2e-2, device, memory);
}

INSTANTIATE_TEST_SUITE_P(
    Cases, CudnnAttention,
    ::testing::Values(
        AttentionCase{"uniform", {256, 256}, {}, 4, 2, 128, 0, DType::kBF16},
        AttentionCase{"uniform_strided", {128, 128, 128}, {}, 4, 4, 64, 0, DType::kBF16, 8},
        AttentionCase{"uniform_window", {512}, {}, 8, 1, 64, 100, DType::kBF16, 8},
        AttentionCase{"uniform_deterministic", {512}, {}, 4, 2, 128, 0, DType::kBF16, 0, true},
        AttentionCase{"one_document", {333}, {}, 4, 2, 128, 0, DType::kBF16},
        AttentionCase{"ragged", {100, 1, 37, 512}, {}, 4, 2, 128, 0, DType::kBF16},
        AttentionCase{"ragged_strided", {200, 3, 129}, {}, 8, 2, 64, 0, DType::kBF16, 8},
        AttentionCase{"ragged_same_heads", {200, 3, 129}, {}, 4, 4, 64, 0, DType::kBF16, 8},
        AttentionCase{"ragged_window", {300, 40}, {}, 4, 1, 128, 64, DType::kBF16, 8},
        AttentionCase{"ragged_deterministic", {300, 40, 1}, {}, 4, 2, 64, 0, DType::kBF16, 8, true},
        AttentionCase{"ragged_dim_80", {150, 40}, {}, 4, 2, 80, 0, DType::kBF16}),
    [](const auto& instance) { return instance.param.name; });

// What needs no device.
Tensor measured(const Shape& shape, DType dtype = DType::kBF16) {
  return Tensor(nullptr, dtype, shape, kGpu);
}

TEST(CudaAttentionMeasuring, NotesTheScratchOfTheBackwardPass) {
  const Tensor q = measured({1024, 8, 64});
  const Tensor k = measured({1024, 2, 64});
  const Tensor sums = measured({8, 1024}, DType::kF32);
  const Tensor offsets = measured({4}, DType::kI32);
  const AttentionParams params{.scale = 1.0f, .longest_query = 600, .longest_key = 600};
  Stream stream(kGpu, Stream::Mode::kMeasure);
  attention_backward(q, k, k, q, q, k, k, q, sums, offsets, offsets, params, stream);
  EXPECT_GE(stream.scratch_peak_bytes(), 8u * 1024u * sizeof(float));
}

std::optional<cuda::AttentionPlanKey> plan_of(int64_t tokens, int64_t documents, int64_t longest,
                                              int64_t dim = 64, DType dtype = DType::kBF16) {
  const Tensor q = measured({tokens, 4, dim}, dtype);
  const Tensor offsets = measured({documents + 1}, DType::kI32);
  const AttentionParams params{.scale = 1.0f, .longest_query = longest, .longest_key = longest};
  return cuda::attention_plan_key(q, measured({4, tokens}, DType::kF32),
                                  {q, q, q, offsets, offsets, params});
}

TEST(CudaAttentionPlan, ServesManyPackedShapesByOnePlan) {
  const auto plan = plan_of(3900, 9, 1900);
  ASSERT_TRUE(plan.has_value());
  EXPECT_TRUE(plan->ragged);
  EXPECT_EQ(16, plan->batch);
  EXPECT_EQ(2048, plan->length);
  EXPECT_EQ(4096, plan->tokens);
  EXPECT_TRUE(plan == plan_of(4000, 13, 2000));
  EXPECT_FALSE(plan == plan_of(4000, 17, 2000));
}

TEST(CudaAttentionPlan, KeepsUniformDocumentsDense) {
  const auto plan = plan_of(1024, 4, 256);
  ASSERT_TRUE(plan.has_value());
  EXPECT_FALSE(plan->ragged);
  EXPECT_EQ(4, plan->batch);
  EXPECT_EQ(256, plan->length);
}

TEST(CudaAttentionPlan, LeavesOtherProblemsToTheTiledKernels) {
  EXPECT_FALSE(plan_of(1024, 4, 256, 24).has_value());
  EXPECT_FALSE(plan_of(1024, 4, 256, 256).has_value());
  EXPECT_FALSE(plan_of(1024, 4, 256, 64, DType::kF32).has_value());
}

}  // namespace
}  // namespace rankwise
