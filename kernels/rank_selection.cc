// SPDX-License-Identifier: Apache-2.0
#include "kernels/rank_selection.h"

#include "kernels/check.h"
#include "kernels/cpu/rank_selection.h"
#include "kernels/cuda/rank_selection.h"
#include "kernels/elementwise.h"

namespace rankwise {
namespace {

void check_importance(const Importance& importance, const Shape& shape) {
  check::f32("triplet_scores", "sensitivity", importance.sensitivity, shape);
  check::f32("triplet_scores", "uncertainty", importance.uncertainty, shape);
}

}  // namespace

void triplet_scores(const Tensor& scores, std::span<const TripletImportance> modules,
                    Stream& stream) {
  int64_t triplets = 0;
  for (const TripletImportance& module : modules) {
    const int64_t rank = module.rank();
    check_importance(module.a, {rank, module.a.sensitivity.dim(1)});
    check_importance(module.b, {module.b.sensitivity.dim(0), rank});
    check_importance(module.e, module.e.sensitivity.shape());
    RW_ASSERT(module.e.sensitivity.numel() == rank, "triplet_scores: e {} rank {}",
              to_string(module.e.sensitivity.shape()), rank);
    triplets += rank;
  }
  check::f32("triplet_scores", "scores", scores, {triplets});
  if constexpr (kHasCuda) {
    if (stream.is_cuda()) return cuda::triplet_scores(scores, modules, stream);
  }
  if (!stream.measuring()) cpu::triplet_scores(scores, modules);
}

void keep_highest(const Tensor& keep, const Tensor& scores, int64_t count, Stream& stream) {
  const int64_t n = scores.numel();
  check::f32("keep_highest", "scores", scores, {n});
  check::dtype("keep_highest", "keep", keep, DType::kU8);
  check::shape("keep_highest", "keep", keep, {n});
  RW_ASSERT(0 <= count && count <= n && n <= INT32_MAX, "keep_highest: {} of {}", count, n);
  if (stream.measuring()) return;
  if (count == 0) return fill(keep, 0.0f, stream);
  if constexpr (kHasCuda) {
    if (stream.is_cuda()) return cuda::keep_highest(keep, scores, count, stream);
  }
  cpu::keep_highest(keep, scores, count);
}

void zero_dropped(std::span<const Tensor> xs, const Tensor& keep, Stream& stream) {
  int64_t elements = 0;
  for (const Tensor& x : xs) {
    check::f32("zero_dropped", "x", x, x.shape());
    elements += x.numel();
  }
  check::dtype("zero_dropped", "keep", keep, DType::kU8);
  check::shape("zero_dropped", "keep", keep, {elements});
  if (stream.measuring()) return;
  if constexpr (kHasCuda) {
    if (stream.is_cuda()) return cuda::zero_dropped(xs, keep, stream);
  }
  cpu::zero_dropped(xs, keep);
}

}  // namespace rankwise
