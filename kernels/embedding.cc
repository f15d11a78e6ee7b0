// SPDX-License-Identifier: Apache-2.0
#include "kernels/embedding.h"

#include "kernels/check.h"
#include "kernels/cpu/embedding.h"
#include "kernels/cuda/embedding.h"
#include "kernels/dispatch.h"

namespace rankwise {

void embedding(const Tensor& y, const Tensor& ids, const Tensor& table, int64_t first_id,
               Stream& stream) {
  RW_ASSERT(table.rank() == 2, "embedding: table is {}", to_string(table.shape()));
  check::activation("embedding", "table", table, table.shape());
  check::dtype("embedding", "ids", ids, DType::kI32);
  check::contiguous("embedding", "ids", ids);
  check::activation("embedding", "y", y, {ids.numel(), table.dim(1)});
  if (stream.measuring()) return;
  if constexpr (kHasCuda) {
    if (stream.is_cuda()) return cuda::embedding(y, ids, table, first_id, stream);
  }
  cpu::embedding(y, ids, table, first_id);
}

void embedding_backward(const Tensor& dtable, const Tensor& dy, const Tensor& ids, int64_t first_id,
                        Stream& stream) {
  RW_ASSERT(dtable.rank() == 2, "embedding_backward: dtable is {}", to_string(dtable.shape()));
  check::f32("embedding_backward", "dtable", dtable, dtable.shape());
  check::dtype("embedding_backward", "ids", ids, DType::kI32);
  check::contiguous("embedding_backward", "ids", ids);
  check::activation("embedding_backward", "dy", dy, {ids.numel(), dtable.dim(1)});
  if constexpr (kHasCuda) {  // takes scratch memory: also when measuring
    if (stream.is_cuda()) {
      return cuda::embedding_backward(dtable, dy, ids, first_id, stream);
    }
  }
  if (stream.measuring()) return;
  cpu::embedding_backward(dtable, dy, ids, first_id);
}

}  // namespace rankwise
