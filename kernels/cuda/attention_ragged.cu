// SPDX-License-Identifier: Apache-2.0
// Row 0: length of document i; row 1 + operand: query_offsets[i] * (elements per token of operand).
// Documents behind the last have no tokens.
#include "kernels/cuda/attention_cudnn.h"
#include "kernels/cuda/launch.cuh"

namespace rankwise::cuda {
namespace {

struct TokenStrides {
  int64_t of[kAttentionOperands];
};

__global__ void ragged_rows_kernel(int32_t* rows, int64_t pitch, int64_t batch,
                                   TokenStrides strides, const int32_t* query_offsets,
                                   int64_t documents) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i > batch) return;
  const int64_t begin = query_offsets[i < documents ? i : documents];
  const int64_t end = query_offsets[i < documents ? i + 1 : documents];
  rows[i] = static_cast<int32_t>(end - begin);
  for (int operand = 0; operand < kAttentionOperands; ++operand) {
    rows[(operand + 1) * pitch + i] = static_cast<int32_t>(begin * strides.of[operand]);
  }
}

}  // namespace

void write_ragged_rows(int32_t* rows, const AttentionPlanKey& key, const Tensor& query_offsets,
                       Stream& stream) {
  TokenStrides strides;
  for (int operand = 0; operand < kAttentionOperands; ++operand) {
    strides.of[operand] = key.strides[operand];
  }
  constexpr int kThreads = 128;
  const auto blocks = static_cast<unsigned>(ceil_div(key.batch + 1, kThreads));
  ragged_rows_kernel<<<blocks, kThreads, 0, native(stream)>>>(
      rows, ragged_row_pitch(key), key.batch, strides, query_offsets.data<int32_t>(),
      query_offsets.numel() - 1);
  check_launch("attention");
}

void copy_rows(const Tensor& to, const Tensor& from, Stream& stream) {
  const auto in_bytes = [&](int64_t elements) {
    return static_cast<size_t>(elements * bits_of(to.dtype()) / 8);
  };
  check(cudaMemcpy2DAsync(to.raw(), in_bytes(to.row_stride()), from.raw(),
                          in_bytes(from.row_stride()), in_bytes(to.dim(1) * to.dim(2)),
                          static_cast<size_t>(to.dim(0)), cudaMemcpyDeviceToDevice, native(stream)),
        "attention");
}

}  // namespace rankwise::cuda
