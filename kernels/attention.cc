// SPDX-License-Identifier: Apache-2.0
#include "kernels/attention.h"

#include <string_view>

#include "kernels/check.h"
#include "kernels/cpu/attention.h"
#include "kernels/cuda/attention.h"
#include "kernels/dispatch.h"

namespace rankwise {
namespace {

void check_inputs(std::string_view op, const AttentionInputs& in) {
  RW_ASSERT(in.q.rank() == 3 && in.k.rank() == 3, "{}: q is {}, k is {}", op,
            to_string(in.q.shape()), to_string(in.k.shape()));
  const int64_t kv_heads = in.k.dim(1);
  RW_ASSERT(kv_heads > 0 && in.q.dim(1) % kv_heads == 0, "{}: {} query heads, {} kv heads", op,
            in.q.dim(1), kv_heads);
  check::activation(op, "q", in.q, in.q.shape(), in.q);
  check::activation(op, "k", in.k, {in.k.dim(0), kv_heads, in.q.dim(2)}, in.q);
  check::activation(op, "v", in.v, in.k.shape(), in.q);
  check::dtype(op, "query_offsets", in.query_offsets, DType::kI32);
  check::contiguous(op, "query_offsets", in.query_offsets);
  check::dtype(op, "key_offsets", in.key_offsets, DType::kI32);
  check::contiguous(op, "key_offsets", in.key_offsets);
  check::shape(op, "key_offsets", in.key_offsets, in.query_offsets.shape());
  RW_ASSERT(in.query_offsets.numel() >= 1, "{}: query_offsets is empty", op);
}

}  // namespace

void attention(const Tensor& y, const Tensor& log_sum_exp, const Tensor& q, const Tensor& k,
               const Tensor& v, const Tensor& query_offsets, const Tensor& key_offsets,
               const AttentionParams& params, Stream& stream) {
  const AttentionInputs inputs{q, k, v, query_offsets, key_offsets, params};
  check_inputs("attention", inputs);
  check::activation("attention", "y", y, q.shape(), q);
  if (log_sum_exp.defined()) {
    check::f32("attention", "log_sum_exp", log_sum_exp, {q.dim(1), q.dim(0)});
  }
  if constexpr (kHasCuda) {
    if (stream.is_cuda()) return cuda::attention(y, log_sum_exp, inputs, stream);
  }
  if (stream.measuring()) return;
  cpu::attention(y, log_sum_exp, inputs, stream);
}

void attention_backward(const Tensor& dq, const Tensor& dk, const Tensor& dv, const Tensor& dy,
                        const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& y,
                        const Tensor& log_sum_exp, const Tensor& query_offsets,
                        const Tensor& key_offsets, const AttentionParams& params, Stream& stream) {
  const AttentionInputs inputs{q, k, v, query_offsets, key_offsets, params};
  check_inputs("attention_backward", inputs);
  check::activation("attention_backward", "dq", dq, q.shape(), q);
  check::activation("attention_backward", "dk", dk, k.shape(), q);
  check::activation("attention_backward", "dv", dv, k.shape(), q);
  check::activation("attention_backward", "dy", dy, q.shape(), q);
  check::activation("attention_backward", "y", y, q.shape(), q);
  check::f32("attention_backward", "log_sum_exp", log_sum_exp, {q.dim(1), q.dim(0)});
  const AttentionGradients gradients{dq, dk, dv};
  const AttentionOutputs outputs{dy, y, log_sum_exp};
  if constexpr (kHasCuda) {
    if (stream.is_cuda()) return cuda::attention_backward(gradients, outputs, inputs, stream);
  }
  if (stream.measuring()) return;
  cpu::attention_backward(gradients, outputs, inputs, stream);
}

}  // namespace rankwise
