// SPDX-License-Identifier: Apache-2.0
#include "kernels/rms_norm.h"

#include "kernels/check.h"
#include "kernels/cpu/rms_norm.h"
#include "kernels/cuda/rms_norm.h"
#include "kernels/dispatch.h"

namespace rankwise {

void rms_norm(const Tensor& y, const Tensor& inv_rms, const Tensor& x, const Tensor& weight,
              float eps, Stream& stream) {
  RW_ASSERT(x.rank() == 2, "rms_norm: x is {}", to_string(x.shape()));
  check::activation("rms_norm", "x", x, x.shape());
  check::activation("rms_norm", "y", y, x.shape(), x);
  check::f32("rms_norm", "inv_rms", inv_rms, {x.dim(0)});
  check::f32("rms_norm", "weight", weight, {x.dim(1)});
  if (stream.measuring()) return;
  if constexpr (kHasCuda) {
    if (stream.is_cuda()) return cuda::rms_norm(y, inv_rms, x, weight, eps, stream);
  }
  cpu::rms_norm(y, inv_rms, x, weight, eps);
}

void rms_norm_backward(const Tensor& dx, const Tensor& dweight, const Tensor& dy, const Tensor& x,
                       const Tensor& weight, const Tensor& inv_rms, bool accumulate,
                       Stream& stream) {
  RW_ASSERT(x.rank() == 2, "rms_norm_backward: x is {}", to_string(x.shape()));
  check::activation("rms_norm_backward", "x", x, x.shape());
  check::activation("rms_norm_backward", "dx", dx, x.shape(), x);
  check::activation("rms_norm_backward", "dy", dy, x.shape(), x);
  check::f32("rms_norm_backward", "weight", weight, {x.dim(1)});
  check::f32("rms_norm_backward", "inv_rms", inv_rms, {x.dim(0)});
  if (dweight.defined()) check::f32("rms_norm_backward", "dweight", dweight, {x.dim(1)});
  if constexpr (kHasCuda) {  // takes scratch memory: also when measuring
    if (stream.is_cuda()) {
      return cuda::rms_norm_backward(dx, dweight, dy, x, weight, inv_rms, accumulate, stream);
    }
  }
  if (stream.measuring()) return;
  cpu::rms_norm_backward(dx, dweight, dy, x, weight, inv_rms, accumulate, stream);
}

}  // namespace rankwise
