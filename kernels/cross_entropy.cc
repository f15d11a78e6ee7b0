// SPDX-License-Identifier: Apache-2.0
#include "kernels/cross_entropy.h"

#include "kernels/check.h"
#include "kernels/cpu/cross_entropy.h"
#include "kernels/dispatch.h"

namespace rankwise {

void cross_entropy(const Tensor& logits, const Tensor& targets, const Tensor& sums,
                   bool write_gradient, Stream& stream) {
  RW_ASSERT(logits.rank() == 2, "cross_entropy: logits is {}", to_string(logits.shape()));
  check::f32("cross_entropy", "logits", logits, logits.shape());
  check::dtype("cross_entropy", "targets", targets, DType::kI32);
  check::shape("cross_entropy", "targets", targets, {logits.dim(0)});
  check::contiguous("cross_entropy", "targets", targets);
  check::dtype("cross_entropy", "sums", sums, DType::kF64);
  check::shape("cross_entropy", "sums", sums, {3});
  if (stream.measuring()) return;
  require_cpu(stream);
  cpu::cross_entropy(logits, targets, sums, write_gradient, stream);
}

}  // namespace rankwise
