// SPDX-License-Identifier: Apache-2.0
#include "kernels/orthogonality.h"

#include "kernels/check.h"
#include "kernels/cpu/orthogonality.h"
#include "kernels/cuda/orthogonality.h"
#include "kernels/dispatch.h"

namespace rankwise {

void orthogonality(const Tensor& sum, std::span<const OrthogonalityTerm> terms, float weight,
                   Stream& stream) {
  check::dtype("orthogonality", "sum", sum, DType::kF64);
  check::shape("orthogonality", "sum", sum, {1});
  for (const OrthogonalityTerm& term : terms) {
    RW_ASSERT(term.p.defined() && term.p.rank() == 2, "orthogonality: p is {}",
              to_string(term.p.shape()));
    check::f32("orthogonality", "p", term.p, term.p.shape());
    check::f32("orthogonality", "gradient", term.gradient, term.p.shape());
  }
  if constexpr (kHasCuda) {  // takes scratch memory: also when measuring
    if (stream.is_cuda()) return cuda::orthogonality(sum, terms, weight, stream);
  }
  if (stream.measuring()) return;
  cpu::orthogonality(sum, terms, weight, stream);
}

}  // namespace rankwise
