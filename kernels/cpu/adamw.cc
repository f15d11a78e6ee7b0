// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/adamw.h"

#include <cmath>

#include "kernels/cpu/work_split.h"

namespace rankwise::cpu {
namespace {

template <bool kWithImportance>
void update(const AdamWTensors& tensors, const AdamWFactors& factors) {
  const auto [gradient_scale, keep, step_size, inv_root2, beta1, fresh1, beta2, fresh2, eps,
              sensitivity_beta, sensitivity_fresh, uncertainty_beta, uncertainty_fresh] = factors;
  const int64_t count = tensors.p.numel();
  float* weight = tensors.p.data<float>();
  float* first = tensors.m.data<float>();
  float* second = tensors.v.data<float>();
  const float* gradient = tensors.g.data<float>();
  float* sensitivity = nullptr;
  float* uncertainty = nullptr;
  if constexpr (kWithImportance) {
    sensitivity = tensors.importance.sensitivity.data<float>();
    uncertainty = tensors.importance.uncertainty.data<float>();
  }
#pragma omp parallel for simd schedule(static) if (parallel : count >= kParallelElements)
  for (int64_t i = 0; i < count; ++i) {
    const float grad = gradient[i] * gradient_scale;
    const float mean = beta1 * first[i] + fresh1 * grad;
    const float square = beta2 * second[i] + fresh2 * grad * grad;
    first[i] = mean;
    second[i] = square;
    weight[i] = weight[i] * keep - step_size * mean / (std::sqrt(square) * inv_root2 + eps);
    if constexpr (kWithImportance) {
      const float now = std::abs(weight[i] * grad);
      const float average = sensitivity_beta * sensitivity[i] + sensitivity_fresh * now;
      sensitivity[i] = average;
      uncertainty[i] =
          uncertainty_beta * uncertainty[i] + uncertainty_fresh * std::abs(now - average);
    }
  }
}

}  // namespace

void adamw(const AdamWTensors& tensors, const AdamWFactors& factors) {
  if (tensors.importance.sensitivity.defined()) return update<true>(tensors, factors);
  update<false>(tensors, factors);
}

}  // namespace rankwise::cpu
