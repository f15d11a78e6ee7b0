// SPDX-License-Identifier: Apache-2.0
#include "kernels/fingerprint.h"

#include "kernels/check.h"
#include "kernels/cpu/fingerprint.h"
#include "kernels/cuda/fingerprint.h"
#include "kernels/dispatch.h"

namespace rankwise {

void fingerprint(const Tensor& hashes, std::span<const Tensor> xs, Stream& stream) {
  check::dtype("fingerprint", "hashes", hashes, DType::kI64);
  check::shape("fingerprint", "hashes", hashes, {static_cast<int64_t>(xs.size())});
  check::contiguous("fingerprint", "hashes", hashes);
  for (const Tensor& x : xs) {
    check::contiguous("fingerprint", "x", x);
    RW_ASSERT(bits_of(x.dtype()) >= 8, "fingerprint: x is {}", name_of(x.dtype()));
  }
  if (stream.measuring()) return;
  if constexpr (kHasCuda) {
    if (stream.is_cuda()) return cuda::fingerprint(hashes, xs, stream);
  }
  cpu::fingerprint(hashes, xs);
}

}  // namespace rankwise
