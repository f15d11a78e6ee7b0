// SPDX-License-Identifier: Apache-2.0
#include "kernels/cross_entropy.h"

#include "kernels/check.h"
#include "kernels/cpu/cross_entropy.h"
#include "kernels/cuda/cross_entropy.h"
#include "kernels/dispatch.h"

namespace rankwise {
namespace {

void check_rows(std::string_view op, const Tensor& logits, const Tensor& targets,
                const Tensor& statistics, const Shape& statistics_shape) {
  check::activation(op, "logits", logits, logits.shape());
  check::dtype(op, "targets", targets, DType::kI32);
  check::shape(op, "targets", targets, {logits.dim(0)});
  check::contiguous(op, "targets", targets);
  check::dtype(op, "statistics", statistics, DType::kF64);
  check::shape(op, "statistics", statistics, statistics_shape);
  check::contiguous(op, "statistics", statistics);
}

}  // namespace

void cross_entropy_statistics(const Tensor& statistics, const Tensor& logits, const Tensor& targets,
                              const VocabularySlice& slice, bool write_gradient, Stream& stream) {
  RW_ASSERT(logits.rank() == 2 && logits.dim(1) > 0, "cross_entropy_statistics: logits is {}",
            to_string(logits.shape()));
  check_rows("cross_entropy_statistics", logits, targets, statistics,
             {logits.dim(0), kCrossEntropyStatistics});
  if (stream.measuring()) return;
  if constexpr (kHasCuda) {
    if (stream.is_cuda()) {
      return cuda::cross_entropy_statistics(statistics, logits, targets, slice, stream);
    }
  }
  cpu::cross_entropy_statistics(statistics, logits, targets, slice, write_gradient);
}

void cross_entropy(const Tensor& logits, const Tensor& targets, const Tensor& statistics,
                   const VocabularySlice& slice, const Tensor& sums, bool write_gradient,
                   Stream& stream) {
  RW_ASSERT(logits.rank() == 2 && statistics.rank() == 3, "cross_entropy: logits {}, statistics {}",
            to_string(logits.shape()), to_string(statistics.shape()));
  check_rows("cross_entropy", logits, targets, statistics,
             {statistics.dim(0), logits.dim(0), kCrossEntropyStatistics});
  RW_ASSERT(slice.rank >= 0 && slice.rank < statistics.dim(0), "cross_entropy: rank {} of {}",
            slice.rank, statistics.dim(0));
  check::dtype("cross_entropy", "sums", sums, DType::kF64);
  check::shape("cross_entropy", "sums", sums, {3});
  if constexpr (kHasCuda) {  // takes scratch memory: also when measuring
    if (stream.is_cuda()) {
      return cuda::cross_entropy(logits, targets, statistics, slice, sums, write_gradient, stream);
    }
  }
  if (stream.measuring()) return;
  cpu::cross_entropy(logits, targets, statistics, slice, sums, write_gradient, stream);
}

}  // namespace rankwise
