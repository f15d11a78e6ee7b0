// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/adamw.h"

#include <cmath>

#include "kernels/cpu/work_split.h"

namespace rankwise::cpu {

void adamw(const Tensor& p, const Tensor& m, const Tensor& v, const Tensor& g, float gradient_scale,
           const AdamWParams& params) {
  // Scalars in double, as in the reference; elements in fp32.
  const double steps = static_cast<double>(params.step);
  const double correction1 = 1.0 - std::pow(params.beta1, steps);
  const double correction2 = 1.0 - std::pow(params.beta2, steps);
  const float keep = static_cast<float>(1.0 - params.lr * params.weight_decay);
  const float step_size = static_cast<float>(params.lr / correction1);
  const float inv_root2 = static_cast<float>(1.0 / std::sqrt(correction2));
  const float beta1 = static_cast<float>(params.beta1);
  const float beta2 = static_cast<float>(params.beta2);
  const float fresh1 = static_cast<float>(1.0 - params.beta1);
  const float fresh2 = static_cast<float>(1.0 - params.beta2);
  const float eps = static_cast<float>(params.eps);

  const int64_t count = p.numel();
  float* weight = p.data<float>();
  float* first = m.data<float>();
  float* second = v.data<float>();
  const float* gradient = g.data<float>();
#pragma omp parallel for simd schedule(static) if (parallel : count >= kParallelElements)
  for (int64_t i = 0; i < count; ++i) {
    const float grad = gradient[i] * gradient_scale;
    const float mean = beta1 * first[i] + fresh1 * grad;
    const float square = beta2 * second[i] + fresh2 * grad * grad;
    first[i] = mean;
    second[i] = square;
    weight[i] = weight[i] * keep - step_size * mean / (std::sqrt(square) * inv_root2 + eps);
  }
}

}  // namespace rankwise::cpu
