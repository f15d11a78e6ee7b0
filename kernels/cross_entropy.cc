// SPDX-License-Identifier: Apache-2.0
#include "kernels/cross_entropy.h"

#include "kernels/check.h"
#include "kernels/cpu/cross_entropy.h"
#include "kernels/cuda/cross_entropy.h"
#include "kernels/dispatch.h"

namespace rankwise {

void cross_entropy(const Tensor& logits, const Tensor& targets, const Tensor& sums,
                   bool write_gradient, Stream& stream) {
  RW_ASSERT(logits.rank() == 2, "cross_entropy: logits is {}", to_string(logits.shape()));
  check::activation("cross_entropy", "logits", logits, logits.shape());
  check::dtype("cross_entropy", "targets", targets, DType::kI32);
  check::shape("cross_entropy", "targets", targets, {logits.dim(0)});
  check::contiguous("cross_entropy", "targets", targets);
  check::dtype("cross_entropy", "sums", sums, DType::kF64);
  check::shape("cross_entropy", "sums", sums, {3});
  if constexpr (kHasCuda) {  // takes scratch memory: also when measuring
    if (stream.is_cuda()) {
      return cuda::cross_entropy(logits, targets, sums, write_gradient, stream);
    }
  }
  if (stream.measuring()) return;
  cpu::cross_entropy(logits, targets, sums, write_gradient, stream);
}

}  // namespace rankwise
