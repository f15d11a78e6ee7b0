// SPDX-License-Identifier: Apache-2.0
#include "kernels/svd.h"

#include <algorithm>

#include "kernels/check.h"
#include "kernels/cpu/svd.h"

namespace rankwise {

void svd(const Tensor& u, const Tensor& s, const Tensor& vt, const Tensor& a, Stream& stream) {
  RW_ASSERT(a.rank() == 2 && a.numel() > 0 && !stream.is_cuda(), "svd: a is {}",
            to_string(a.shape()));
  const int64_t k = std::min(a.dim(0), a.dim(1));
  check::f32("svd", "a", a, a.shape());
  check::f32("svd", "u", u, {a.dim(0), k});
  check::f32("svd", "s", s, {k});
  check::f32("svd", "vt", vt, {k, a.dim(1)});
  cpu::svd(u, s, vt, a, stream);
}

}  // namespace rankwise
