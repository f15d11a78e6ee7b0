// SPDX-License-Identifier: Apache-2.0
#include "kernels/cholesky_qr.h"

#include "kernels/cpu/orthonormalize.h"
#include "kernels/cuda/orthonormalize.h"
#include "kernels/elementwise.h"

namespace rankwise {

CholeskyQr::CholeskyQr(const ScratchProducts& items, int64_t rank, DType type, Stream& stream)
    : items_(items), type_(type), stream_(stream) {
  // What rounding adds to the Gram matrix of dependent vectors of length 1, with some room.
  const float floor =
      type == DType::kF32 ? 4.0f * 0x1p-24f * static_cast<float>(rank) : kSplitFloor;
  step_ = {.work = items[kWork], .lengths = items[kLengths], .gram = items[kGram], .floor = floor};
}

void CholeskyQr::times(const Tensor& to, const Tensor& factor, const Tensor& g, BasisSide side,
                       float scale) const {
  Tensor operand = factor;
  if (factor.dtype() != type_) {
    operand = in_item(kHigh, factor.shape());
    cast(operand, factor, stream_);
  }
  if (side == BasisSide::kLeft) {
    items_.multiply(to, operand, g, {.transpose_a = true, .alpha = scale});
  } else {
    items_.multiply(to, g, operand, {.transpose_b = true, .alpha = scale});
  }
}

Tensor CholeskyQr::run(int count, const Tensor& x, const std::array<Tensor, 2>& spare,
                       BasisSide side, const RankSum& sum_gram) {
  Tensor from = x;
  for (int pass = 0; pass < count; ++pass) {
    run_pass(spare[pass % 2], from, side, pass == 0, sum_gram);
    from = spare[pass % 2];
  }
  return from;
}

void CholeskyQr::run_pass(const Tensor& to, const Tensor& from, BasisSide side, bool first,
                          const RankSum& sum_gram) {
  step_.first = first;
  step_.shift = first ? step_.floor : 0.0f;
  const bool splits = from.dtype() != type_;
  const Halves x = splits ? split(from, kHigh, kLow) : Halves{from, {}};
  multiply_gram(x.high, x.high, side, 1.0f, 0.0f);
  if (splits) {
    // Both mixed products at once: the step takes the symmetric part.
    multiply_gram(x.high, x.low, side, 2.0f, 1.0f);
    multiply_gram(x.low, x.low, side, 1.0f, 1.0f);
  }
  if (sum_gram) sum_gram(step_.gram);
  run_step();
  if (type_ == DType::kF32) return combine(to, from, side);
  const Halves f = split(factor(), kFactorHigh, kFactorLow);
  // (the small ones first, as `to` may round)
  multiply_combined(to, x.high, f.low, side, 0.0f);
  if (splits) multiply_combined(to, x.low, f.high, side, 1.0f);
  multiply_combined(to, x.high, f.high, side, 1.0f);
}

CholeskyQr::Halves CholeskyQr::split(const Tensor& x, Item high, Item low) const {
  const Halves halves = {in_item(high, x.shape()), in_item(low, x.shape())};
  if constexpr (kHasCuda) cuda::split_in_halves(halves.high, halves.low, x, stream_);
  return halves;
}

void CholeskyQr::multiply_gram(const Tensor& a, const Tensor& b, BasisSide side, float alpha,
                               float beta) const {
  const bool columns = side == BasisSide::kLeft;
  items_.multiply(step_.gram, a, b,
                  {.transpose_a = columns, .transpose_b = !columns, .alpha = alpha, .beta = beta});
}

void CholeskyQr::multiply_combined(const Tensor& to, const Tensor& from, const Tensor& factor,
                                   BasisSide side, float beta) const {
  if (side == BasisSide::kLeft) {
    items_.multiply(to, from, factor, {.beta = beta});
  } else {
    items_.multiply(to, factor, from, {.transpose_a = true, .beta = beta});
  }
}

void CholeskyQr::find_gram(const Tensor& vectors, BasisSide side, const RankSum& sum_gram) const {
  multiply_gram(vectors, vectors, side, 1.0f, 0.0f);
  if (sum_gram) sum_gram(step_.gram);
}

void CholeskyQr::combine(const Tensor& to, const Tensor& from, BasisSide side) const {
  multiply_combined(to, from, factor(), side, 0.0f);
}

void CholeskyQr::run_step() const {
  if constexpr (kHasCuda) {
    if (stream_.is_cuda()) return cuda::cholesky_step(step_, stream_);
  }
  cpu::cholesky_step(step_);
}

void CholeskyQr::finish(const Tensor& vectors, const Tensor& result, const Tensor& failed,
                        const RankSum& sum_failed) const {
  if constexpr (kHasCuda) {
    if (stream_.is_cuda()) {
      cuda::check_lengths(failed, step_.lengths, stream_);
      if (sum_failed) sum_failed(failed);
      return cuda::copy_unless_failed(vectors, result, failed, stream_);
    }
  }
  cpu::check_lengths(failed, step_.lengths);
  if (sum_failed) sum_failed(failed);
  cpu::copy_unless_failed(vectors, result, failed);
}

}  // namespace rankwise
