// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/swiglu.h"

#include "kernels/cpu/vector_math.h"
#include "kernels/cpu/work_split.h"

namespace rankwise::cpu {
namespace {

template <bool with_inner>
void differentiate(const Tensor& dgate, const Tensor& dup, float* inner, const Tensor& dy,
                   const Tensor& gate, const Tensor& up) {
  const int64_t count = gate.numel();
  const float* g = gate.data<float>();
  const float* u = up.data<float>();
  const float* d = dy.data<float>();
  float* out_gate = dgate.data<float>();
  float* out_up = dup.data<float>();
  // Every element is read before its place is written: the outputs may be the inputs.
#pragma omp parallel for simd schedule(static) if (parallel : count >= kParallelElements)
  for (int64_t i = 0; i < count; ++i) {
    const float x = g[i];
    const float sigmoid = vector_sigmoid(x);
    const float from_up = d[i] * u[i];
    const float from_gate = d[i] * x;
    if constexpr (with_inner) inner[i] = x * sigmoid * u[i];
    // silu'(x) = sigmoid + x * sigmoid * (1 - sigmoid)
    out_gate[i] = from_up * sigmoid * (1.0f + x * (1.0f - sigmoid));
    out_up[i] = from_gate * sigmoid;
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

void swiglu_backward(const Tensor& dgate, const Tensor& dup, const Tensor& inner, const Tensor& dy,
                     const Tensor& gate, const Tensor& up) {
  if (inner.defined()) {
    differentiate<true>(dgate, dup, inner.data<float>(), dy, gate, up);
  } else {
    differentiate<false>(dgate, dup, nullptr, dy, gate, up);
  }
}

}  // namespace rankwise::cpu
