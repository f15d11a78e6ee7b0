// SPDX-License-Identifier: Apache-2.0
#include "kernels/attention.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

#include "kernels/cuda/attention.h"
#include "tests/kernels/cuda/attention_case.h"

namespace rankwise {
namespace {

using testing::AttentionCase;
using testing::AttentionTensors;
using testing::device_tensors;
using testing::DeviceMemory;
using testing::expect_gradients_near;
using testing::expect_identical;
using testing::expect_near;
using testing::GuardedMemory;
using testing::host_tensors;
using testing::kGpu;
using testing::tolerance_of;

// (H, T) from the order that the backend keeps.
Tensor in_order(const Tensor& log_sum_exp, int64_t length, GuardedMemory& memory) {
  const int64_t heads = log_sum_exp.dim(0);
  const int64_t tokens = log_sum_exp.dim(1);
  const Tensor out = memory.poisoned(log_sum_exp.shape());
  for (int64_t h = 0; h < heads; ++h) {
    for (int64_t t = 0; t < tokens; ++t) {
      const int64_t from =
          length > 0 ? (t / length * heads + h) * length + t % length : t * heads + h;
      out.data<float>()[h * tokens + t] = log_sum_exp.data<float>()[from];
    }
  }
  return out;
}

class CudaAttention : public ::testing::TestWithParam<AttentionCase> {};

TEST_P(CudaAttention, AgreesWithTheCpu) {
  RW_REQUIRE_GPU();
  const AttentionCase& c = GetParam();
  GuardedMemory memory(7);
  const AttentionTensors host = host_tensors(c, memory);
  Stream cpu;
  host.forward(cpu);
  host.backward(cpu);
  Stream gpu(kGpu);
  DeviceMemory device(gpu);
  const AttentionTensors on_gpu = device_tensors(host, c, device);
  on_gpu.forward(gpu);
  expect_near(device.to_host(on_gpu.y, memory), host.y, tolerance_of(c));
  const Tensor sums = in_order(device.to_host(on_gpu.log_sum_exp, memory),
                               cuda::log_sum_exp_length(on_gpu.inputs()), memory);
  expect_near(sums, host.log_sum_exp, tolerance_of(c));
  on_gpu.backward(gpu);
  expect_gradients_near(on_gpu, host, tolerance_of(c), device, memory);
}

INSTANTIATE_TEST_SUITE_P(
    Cases, CudaAttention,
    ::testing::Values(
        AttentionCase{"one_token", {1}, {}, 2, 2, 8},
        AttentionCase{"three_tokens", {3}, {}, 4, 2, 24},
        AttentionCase{"odd_length", {65}, {}, 2, 1, 128},
        AttentionCase{"several_tiles", {300}, {}, 2, 2, 64},
        AttentionCase{"odd_dim", {33}, {}, 2, 1, 7}, AttentionCase{"dim_80", {70}, {}, 4, 2, 80},
        AttentionCase{"dim_256", {70, 3}, {}, 4, 2, 256},
        AttentionCase{"documents", {5, 1, 40, 129}, {}, 4, 2, 64, 0, DType::kF32, 4},
        AttentionCase{"scalar_access", {5, 1, 40}, {}, 4, 2, 24, 0, DType::kF32, 3},
        AttentionCase{"all_heads_share_one", {33}, {}, 8, 1, 64},
        AttentionCase{"group_of_three", {50, 7}, {}, 6, 2, 64, 11},
        AttentionCase{"window", {150}, {}, 2, 1, 64, 20},
        AttentionCase{"window_of_one", {70}, {}, 2, 1, 8, 1},
        AttentionCase{"window_wider_than_text", {40}, {}, 2, 1, 24, 1000},
        AttentionCase{"window_over_documents", {90, 1, 160}, {}, 4, 4, 128, 37},
        AttentionCase{"decode_one", {1}, {333}, 4, 1, 64},
        AttentionCase{"decode_window", {2}, {200}, 4, 2, 24, 50},
        AttentionCase{"decode_batch", {1, 1, 0, 3}, {17, 1, 4, 100}, 4, 2, 128},
        AttentionCase{"chunk_after_cache_window", {70}, {300}, 2, 1, 64, 90},
        AttentionCase{"uniform_f32", {128, 128}, {}, 4, 2, 64},
        AttentionCase{"bf16_small", {3, 1, 20}, {}, 4, 2, 24, 0, DType::kBF16, 3},
        AttentionCase{"bf16_decode", {1, 2}, {17, 100}, 8, 1, 128, 0, DType::kBF16, 8},
        AttentionCase{"bf16_dim_8", {65}, {}, 2, 1, 8, 9, DType::kBF16},
        AttentionCase{"bf16_one_token", {1}, {}, 4, 2, 64, 0, DType::kBF16},
        AttentionCase{"bf16_tokens_of_one", {1, 1, 1}, {}, 4, 2, 64, 0, DType::kBF16},
        AttentionCase{
            "bf16_many_documents", std::vector<int32_t>(37, 5), {}, 4, 4, 64, 0, DType::kBF16},
        AttentionCase{"bf16_uniform", {256, 256}, {}, 4, 2, 128, 0, DType::kBF16, 8},
        AttentionCase{"bf16_ragged", {100, 1, 37, 301}, {}, 8, 2, 128, 0, DType::kBF16, 16},
        AttentionCase{"bf16_ragged_window", {100, 1, 260}, {}, 4, 1, 64, 33, DType::kBF16, 8},
        AttentionCase{"bf16_ragged_same_heads", {500, 129}, {}, 2, 2, 64, 0, DType::kBF16, 8},
        AttentionCase{"bf16_dim_256", {130, 20}, {}, 2, 1, 256, 0, DType::kBF16},
        AttentionCase{"bf16_deterministic", {100, 90}, {}, 4, 2, 64, 0, DType::kBF16, 8, true}),
    [](const auto& instance) { return instance.param.name; });

// Query heads per kv head that are no power of two.
std::vector<AttentionCase> uneven_groups() {
  std::vector<AttentionCase> cases;
  for (const DType dtype : testing::kActivationTypes) {
    for (const int64_t group : {5, 6, 7}) {
      for (const int64_t dim : {64, 128}) {
        cases.push_back({fmt::format("{}_groups_of_{}_dim_{}", name_of(dtype), group, dim),
                         {70, 1, 133},
                         {},
                         2 * group,
                         2,
                         dim,
                         0,
                         dtype,
                         8});
      }
    }
  }
  return cases;
}

INSTANTIATE_TEST_SUITE_P(UnevenGroups, CudaAttention, ::testing::ValuesIn(uneven_groups()),
                         [](const auto& instance) { return instance.param.name; });

void expect_same_bits_twice(const AttentionCase& c) {
  GuardedMemory memory(13);
  const AttentionTensors host = host_tensors(c, memory);
  Stream gpu(kGpu);
  DeviceMemory device(gpu);
  const AttentionTensors once = device_tensors(host, c, device);
  const AttentionTensors again = device_tensors(host, c, device);
  for (const AttentionTensors* t : {&once, &again}) {
    t->forward(gpu);
    t->backward(gpu);
  }
  const auto expect_same = [&](const Tensor& a, const Tensor& b) {
    expect_identical(device.to_host(a, memory), device.to_host(b, memory));
  };
  expect_same(once.y, again.y);
  expect_same(once.dq, again.dq);
  expect_same(once.dk, again.dk);
  expect_same(once.dv, again.dv);
}

TEST(CudaAttentionDeterminism, UniformDocumentsGiveTheSameBits) {
  RW_REQUIRE_GPU();
  expect_same_bits_twice({"", {512, 512}, {}, 8, 2, 128, 0, DType::kBF16, 0, true});
}

TEST(CudaAttentionDeterminism, PackedDocumentsGiveTheSameBits) {
  RW_REQUIRE_GPU();
  expect_same_bits_twice({"", {700, 33, 1}, {}, 8, 2, 128, 0, DType::kBF16, 8, true});
}

TEST(CudaAttentionDeterminism, TiledKernelsGiveTheSameBits) {
  RW_REQUIRE_GPU();
  expect_same_bits_twice({"", {300, 33, 1}, {}, 8, 2, 64});
}

// q, k and v are neighbouring columns of one matrix, and so are their gradients.
TEST(CudaAttentionPacked, LeavesNeighbouringColumnsAlone) {
  RW_REQUIRE_GPU();
  const AttentionCase c{"", {120, 1, 90}, {}, 4, 2, 64, 0, DType::kBF16};
  GuardedMemory memory(17);
  const AttentionTensors host = host_tensors(c, memory);
  Stream cpu;
  host.forward(cpu);
  host.backward(cpu);
  const int64_t tokens = host.q.dim(0);
  const int64_t of_keys = c.kv_heads * c.dim;
  const int64_t of_queries = c.heads * c.dim;
  const int64_t width = 2 * of_keys + of_queries;
  const Tensor wide = memory.poisoned({tokens, width});
  const auto columns_of = [&](const Tensor& matrix, int index) {
    const int64_t begin = index * of_keys;
    const int64_t heads = index == 2 ? c.heads : c.kv_heads;
    return matrix.columns(begin, begin + heads * c.dim).reshaped({tokens, heads, c.dim});
  };
  const Tensor parts[] = {host.v, host.k, host.q};
  for (int index = 0; index < 3; ++index) {
    const int64_t row = parts[index].numel() / tokens;
    for (int64_t t = 0; t < tokens; ++t) {
      std::copy_n(parts[index].data<float>() + t * row, row,
                  wide.data<float>() + t * width + index * of_keys);
    }
  }
  Stream gpu(kGpu);
  DeviceMemory device(gpu);
  AttentionTensors on_gpu = device_tensors(host, c, device);
  const Tensor vkq = device.copy_of(wide, c.dtype, 16);
  const Tensor dvkq = device.poisoned(c.dtype, {tokens, width}, 16);
  on_gpu.v = columns_of(vkq, 0);
  on_gpu.k = columns_of(vkq, 1);
  on_gpu.q = columns_of(vkq, 2);
  on_gpu.dv = columns_of(dvkq, 0);
  on_gpu.dk = columns_of(dvkq, 1);
  on_gpu.dq = columns_of(dvkq, 2);
  on_gpu.forward(gpu);
  on_gpu.backward(gpu);
  expect_near(device.to_host(on_gpu.y, memory), host.y, tolerance_of(c));
  expect_gradients_near(on_gpu, host, tolerance_of(c), device, memory);
}

}  // namespace
}  // namespace rankwise
