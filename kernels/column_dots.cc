// SPDX-License-Identifier: Apache-2.0
#include "kernels/column_dots.h"

#include "kernels/check.h"
#include "kernels/cpu/column_dots.h"
#include "kernels/cuda/column_dots.h"
#include "kernels/dispatch.h"

namespace rankwise {

void check_column_dots(std::string_view op, const ColumnDots& to, int64_t width) {
  if (!to.defined()) return;
  check::f32(op, "dots", to.dots, {width});
  if (to.bias.defined()) check::f32(op, "bias of dots", to.bias, {width});
  if (to.m.defined()) check::f32(op, "m of dots", to.m, {width});
}

void column_dots(const ColumnDots& to, const Tensor& dy, const Tensor& y, const Tensor& minus,
                 Stream& stream) {
  if (!to.defined()) return;
  RW_ASSERT(dy.rank() == 2, "column_dots: dy is {}", to_string(dy.shape()));
  check::activation("column_dots", "dy", dy, dy.shape());
  check::activation("column_dots", "y", y, dy.shape(), dy);
  if (minus.defined()) check::activation("column_dots", "minus", minus, dy.shape(), dy);
  check_column_dots("column_dots", to, dy.dim(1));
  if constexpr (kHasCuda) {  // takes scratch memory: also when measuring
    if (stream.is_cuda()) return cuda::column_dots(to, dy, y, minus, stream);
  }
  if (stream.measuring()) return;
  cpu::column_dots(to, dy, y, minus, stream);
}

}  // namespace rankwise
