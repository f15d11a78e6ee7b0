// SPDX-License-Identifier: Apache-2.0
// CholeskyQr: passes of CholeskyQR over sets of vectors, and the products around them.
#pragma once

#include <array>

#include "kernels/cholesky_step.h"
#include "kernels/orthonormalize.h"
#include "kernels/scratch_products.h"

namespace rankwise {

// With gradients in BF16 the products are in BF16 too. F32 operands, those of the factors among
// them, are then split in two BF16 tensors whose sum differs from them by less than 2^-16, so that
// what vectors in BF16 hold is lost only in their own rounding.
class CholeskyQr {
 public:
  // The items of scratch that passes need, in this order, before those of the caller, who may use
  // kHigh and kLow too, but not around a pass over F32 vectors.
  enum Item : size_t { kGram, kWork, kLengths, kHigh, kLow, kFactorHigh, kFactorLow, kItems };
  static constexpr float kSplitFloor = 0x1p-15f;

  // `type` of gradients; BF16 only on CUDA. `items`: kHigh and kLow have the size of the largest
  // vectors; both and those of the factor are empty for F32.
  CholeskyQr(const ScratchProducts& items, int64_t rank, DType type, Stream& stream);

  // The item's memory as a tensor.
  Tensor in_item(size_t item, const Shape& shape) const {
    return items_[item].rows(0, shape.numel()).reshaped(shape);
  }
  // to = scale factor^T g, or scale g factor^T when the factor is for the right side. An F32 factor
  // of a BF16 gradient is rounded to kHigh.
  void times(const Tensor& to, const Tensor& factor, const Tensor& g, BasisSide side,
             float scale) const;
  // One pass; the first one over vectors is shifted, so that it survives any condition. With BF16
  // gradients `from` may be BF16, and `to` then either; F32 vectors take twice the products.
  void run_pass(const Tensor& to, const Tensor& from, BasisSide side, bool first,
                const RankSum& sum_gram);
  // `count` passes in F32 that alternate between the tensors, beginning with one that reads x,
  // which may be spare[1].
  Tensor run(int count, const Tensor& x, const std::array<Tensor, 2>& spare, BasisSide side,
             const RankSum& sum_gram);
  // gram() = that of the vectors, in fp32.
  void find_gram(const Tensor& vectors, BasisSide side, const RankSum& sum_gram) const;
  // to = the vectors of `from` combined by the columns of factor(), in fp32.
  void combine(const Tensor& to, const Tensor& from, BasisSide side) const;
  // vectors = result, unless the last run failed.
  void finish(const Tensor& vectors, const Tensor& result, const Tensor& failed,
              const RankSum& sum_failed) const;

  const Tensor& gram() const { return step_.gram; }
  Tensor factor() const { return step_.factor(); }

 private:
  // Together a tensor, in BF16.
  struct Halves {
    Tensor high, low;
  };
  Halves split(const Tensor& x, Item high, Item low) const;
  void multiply_gram(const Tensor& a, const Tensor& b, BasisSide side, float alpha,
                     float beta) const;
  void multiply_combined(const Tensor& to, const Tensor& from, const Tensor& factor, BasisSide side,
                         float beta) const;
  void run_step() const;

  const ScratchProducts& items_;
  DType type_;
  Stream& stream_;
  CholeskyStep step_;
};

}  // namespace rankwise
