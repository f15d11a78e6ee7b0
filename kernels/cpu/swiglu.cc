// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/swiglu.h"

#include "kernels/cpu/column_dots.h"
#include "kernels/cpu/vector_math.h"

namespace rankwise::cpu {
namespace {

struct Operands {
  float *dgate, *dup, *inner;
  const float *dy, *gate, *up;
};

// Elements [begin, end), of which `begin` belongs to the first column of both dots. Every element
// is read before its place is written: the outputs may be the inputs.
template <bool with_inner, bool with_dots>
void differentiate(const Operands& operands, int64_t begin, int64_t end,
                   const TileDots& gate_dots = {}, const TileDots& up_dots = {}) {
  const auto [dgate, dup, inner, dy, gate, up] = operands;
  const auto [gate_sums, gate_bias] = gate_dots;
  const auto [up_sums, up_bias] = up_dots;
#pragma omp simd
  for (int64_t i = begin; i < end; ++i) {
    const float x = gate[i];
    const float y = up[i];
    const float sigmoid = vector_sigmoid(x);
    const float from_up = dy[i] * y;
    const float from_gate = dy[i] * x;
    if constexpr (with_inner) inner[i] = x * sigmoid * y;
    // silu'(x) = sigmoid + x * sigmoid * (1 - sigmoid)
    const float dx = from_up * sigmoid * (1.0f + x * (1.0f - sigmoid));
    const float dy_up = from_gate * sigmoid;
    dgate[i] = dx;
    dup[i] = dy_up;
    if constexpr (with_dots) {
      const int64_t c = i - begin;
      gate_sums[c] += dx * (x - gate_bias[c]);
      up_sums[c] += dy_up * (y - up_bias[c]);
    }
  }
}

template <bool with_inner>
void differentiate_all(const SwigluGradients& to, const Operands& operands, const Shape& shape,
                       Stream& stream) {
  const int64_t width = shape.dim(1), count = shape.numel();
  if (to.gate_dots.defined() || to.up_dots.defined()) {
    sum_over_rows<2>({&to.gate_dots, &to.up_dots}, shape.dim(0), width, 1, stream,
                     [&](int64_t row, int64_t begin, int64_t end, const auto& dots) {
                       differentiate<with_inner, true>(operands, row * width + begin,
                                                       row * width + end, dots[0].from(begin),
                                                       dots[1].from(begin));
                     });
    return;
  }
  constexpr int64_t kPiece = 4096;
#pragma omp parallel for schedule(static) if (count >= kParallelElements)
  for (int64_t begin = 0; begin < count; begin += kPiece) {
    differentiate<with_inner, false>(operands, begin, std::min(count, begin + kPiece));
  }
}

}  // namespace

void swiglu(const Tensor& y, const Tensor& gate, const Tensor& up) {
  const int64_t count = gate.numel();
  const float* g = gate.data<float>();
  const float* u = up.data<float>();
  float* out = y.data<float>();
#pragma omp parallel for simd schedule(static) if (parallel : count >= kParallelElements)
  for (int64_t i = 0; i < count; ++i) out[i] = g[i] * vector_sigmoid(g[i]) * u[i];
}

void swiglu_backward(const SwigluGradients& to, const Tensor& dy, const Tensor& gate,
                     const Tensor& up, Stream& stream) {
  const Operands operands{to.dgate.data<float>(), to.dup.data<float>(), to.inner.data<float>(),
                          dy.data<float>(),       gate.data<float>(),   up.data<float>()};
  if (to.inner.defined()) {
    differentiate_all<true>(to, operands, gate.shape(), stream);
  } else {
    differentiate_all<false>(to, operands, gate.shape(), stream);
  }
}

}  // namespace rankwise::cpu
