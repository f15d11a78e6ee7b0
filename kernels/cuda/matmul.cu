// SPDX-License-Identifier: Apache-2.0
#include <cstddef>

#include "kernels/cuda/dequantize.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/matmul.h"
#include "kernels/cuda/matmul_algorithms.h"

namespace rankwise::cuda {
namespace {

// d = a op(w) + beta * d, the weight dense where it lies or expanded to the type of `a`, its rows
// padded so that they begin aligned.
void weight_product(const Tensor& d, const Tensor& a, const Weight& w, const MatmulParams& params,
                    Stream& stream) {
  if (is_dense(w, a.dtype())) return cuda::matmul(d, a, std::get<Tensor>(w), params, stream);
  const int64_t rows = shape_of(w).dim(0), columns = shape_of(w).dim(1);
  const int64_t stride = ceil_div(columns, 64) * 64;
  const auto weight_bytes = static_cast<size_t>(rows * stride * bits_of(a.dtype()) / 8);
  void* workspace = stream.scratch(kMatmulWorkspaceBytes + weight_bytes);
  if (stream.measuring()) return;
  void* memory = static_cast<std::byte*>(workspace) + kMatmulWorkspaceBytes;
  expand_weight(memory, a.dtype(), stride, w, stream);
  const Tensor wide(memory, a.dtype(), {rows, stride}, a.device());
  product(d, a, wide.columns(0, columns), params, d, workspace, stream);
}

}  // namespace

bool is_dense(const Weight& weight, DType type) {
  return !is_quantized(weight) && std::get<Tensor>(weight).dtype() == type;
}

MatmulCall matmul_call(const Tensor& d, const Tensor& a, const Tensor& b,
                       const MatmulParams& params, const Tensor& c) {
  MatmulCall call = {.m = d.dim(0),
                     .n = d.dim(1),
                     .k = a.dim(params.transpose_a ? 0 : 1),
                     .input = a.dtype(),
                     .output = d.dtype(),
                     .transpose_a = params.transpose_a,
                     .transpose_b = params.transpose_b,
                     .alpha = params.alpha,
                     .beta = params.beta,
                     .tuned = params.tuned,
                     .a = a.raw(),
                     .b = b.raw(),
                     .c = c.raw(),
                     .d = d.raw(),
                     .a_stride = a.row_stride(),
                     .b_stride = b.row_stride(),
                     .c_stride = c.row_stride(),
                     .d_stride = d.row_stride()};
  RW_ASSERT(b.dtype() == a.dtype() && c.dtype() == d.dtype() && c.shape() == d.shape() &&
                a.dim(params.transpose_a ? 1 : 0) == call.m &&
                b.dim(params.transpose_b ? 1 : 0) == call.k &&
                b.dim(params.transpose_b ? 0 : 1) == call.n,
            "{} x {} to {}", to_string(a.shape()), to_string(b.shape()), to_string(d.shape()));
  if (call.beta == 0.0f) {
    call.c = call.d;
    call.c_stride = call.d_stride;
  }
  return call;
}

void product(const Tensor& d, const Tensor& a, const Tensor& b, const MatmulParams& params,
             const Tensor& c, void* workspace, Stream& stream) {
  const MatmulCall call = matmul_call(d, a, b, params, c);
  if (call.m == 0 || call.n == 0) return;
  if (call.k == 0 || !stream.state<MatmulAlgorithms>().run(call, workspace, stream)) {
    tiled_matmul(call, stream);
  }
}

void matmul(const Tensor& c, const Tensor& a, const Tensor& b, const MatmulParams& params,
            Stream& stream) {
  void* workspace = stream.scratch(kMatmulWorkspaceBytes);
  if (!stream.measuring()) product(c, a, b, params, c, workspace, stream);
}

void linear(const Tensor& y, const Tensor& x, const Weight& w, float beta, Stream& stream) {
  weight_product(y, x, w, {.transpose_b = true, .beta = beta}, stream);
}

void linear_backward_input(const Tensor& dx, const Tensor& dy, const Weight& w, float beta,
                           Stream& stream) {
  weight_product(dx, dy, w, {.beta = beta}, stream);
}

void set_matmul_tuning(Stream& stream, bool enabled) {
  stream.state<MatmulAlgorithms>().set_tuning(enabled);
}

}  // namespace rankwise::cuda
