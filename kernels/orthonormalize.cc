// SPDX-License-Identifier: Apache-2.0
#include "kernels/orthonormalize.h"

#include <algorithm>
#include <cmath>
#include <string_view>
#include <utility>
#include <vector>

#include "kernels/check.h"
#include "kernels/cholesky_qr.h"
#include "kernels/elementwise.h"
#include "kernels/svd.h"
#include "runtime/transfer.h"

namespace rankwise {
namespace {

BasisSide opposite(BasisSide side) {
  return side == BasisSide::kLeft ? BasisSide::kRight : BasisSide::kLeft;
}
int64_t rank_of(const Tensor& vectors, BasisSide side) {
  return vectors.dim(side == BasisSide::kLeft ? 1 : 0);
}

void add_up(const RankSum& sum, const Tensor& x) {
  if (sum) sum(x);
}

bool all_finite(const std::vector<float>& values) {
  return std::ranges::all_of(values, [](float value) { return std::isfinite(value); });
}

// A decomposition on the host: u (m, k), s (k), vt (k, n).
struct HostSvd {
  std::vector<float> u, s, vt;

  HostSvd(std::vector<float>& values, int64_t m, int64_t n) {
    const int64_t k = std::min(m, n);
    const auto tensor = [](std::vector<float>& memory, const Shape& shape) {
      memory.resize(static_cast<size_t>(shape.numel()));
      return Tensor(memory.data(), DType::kF32, shape);
    };
    Stream host;
    svd(tensor(u, {m, k}), tensor(s, {k}), tensor(vt, {k, n}), tensor(values, {m, n}), host);
  }
};

// Negates vector values[0], values[stride], ... when its largest element is negative.
void fix_sign(float* values, int64_t count, int64_t stride) {
  float largest = 0.0f;
  for (int64_t i = 0; i < count; ++i) {
    if (std::abs(values[i * stride]) > std::abs(largest)) largest = values[i * stride];
  }
  if (largest >= 0.0f) return;
  for (int64_t i = 0; i < count; ++i) values[i * stride] = -values[i * stride];
}

// factor = the singular vectors behind gram; false, and nothing done, when it is not finite.
bool find_rotation(const Tensor& factor, const Tensor& gram, Stream& stream) {
  const int64_t rank = gram.dim(0);
  std::vector<float> values(static_cast<size_t>(rank * rank));
  download(values.data(), gram, stream);
  if (!all_finite(values)) return false;
  HostSvd found(values, rank, rank);
  for (int64_t i = 0; i < rank; ++i) fix_sign(found.u.data() + i, rank, rank);
  upload(factor, found.u.data(), stream);
  return true;
}

// Returns the number of vectors. Without `sum` they are whole, and not more than they can be.
int64_t check_vectors(std::string_view op, const Tensor& vectors, BasisSide side,
                      const RankSum& sum) {
  RW_ASSERT(vectors.defined() && vectors.rank() == 2, "{}: vectors {}", op,
            to_string(vectors.shape()));
  check::f32(op, "vectors", vectors, vectors.shape());
  const int64_t rank = rank_of(vectors, side), length = rank_of(vectors, opposite(side));
  RW_ASSERT(rank > 0 && (sum || rank <= length), "{}: {} vectors of {} elements", op, rank, length);
  return rank;
}

// Returns the shape of the projected gradient.
Shape check_basis(std::string_view op, const Tensor& basis, BasisSide side, const Tensor& failed,
                  const Tensor& g, const SubspaceSums& sums) {
  check::f32(op, "failed", failed, {1});
  RW_ASSERT(g.defined() && g.rank() == 2, "{}: g {}", op, to_string(g.shape()));
  check::contiguous(op, "g", g);
  const bool left = side == BasisSide::kLeft;
  const int64_t rank = check_vectors(op, basis, side, sums.sketch_gram);
  check::shape(op, "basis", basis, left ? Shape{g.dim(0), rank} : Shape{rank, g.dim(1)});
  const int64_t other = g.dim(left ? 1 : 0);
  RW_ASSERT(sums.projected_gram || rank <= other, "{}: rank {} of {}", op, rank,
            to_string(g.shape()));
  return left ? Shape{rank, other} : Shape{other, rank};
}

// Of R of BF16 gradients: where it has no pass, the next Gram matrix is of the fourth power of
// singular values. In the range of F32 for gradients of norm 1e-8 to 1e5, as they are rounded.
constexpr float kScaleOfR = 0x1p24f;

// Scratch of CholeskyQr, then from kVectors on two F32 tensors each for vectors and for R, which
// with gradients in BF16 has one only where it is `wide`.
constexpr size_t kVectors = CholeskyQr::kItems;
ScratchProducts items_of(int64_t rank, DType type, const Shape& vectors, const Shape& projected,
                         bool wide, Stream& stream) {
  const DType f32 = DType::kF32;
  const bool narrow = type != f32;
  const int64_t most = narrow ? std::max(vectors.numel(), projected.numel()) : 0;
  const int64_t square = narrow ? rank * rank : 0;
  return ScratchProducts({{f32, {rank, rank}},
                          {f32, {2 * rank, rank}},
                          {f32, {rank + 1}},
                          {type, {most}},
                          {type, {most}},
                          {type, {square}},
                          {type, {square}},
                          {f32, vectors},
                          {f32, vectors},
                          {f32, wide || !narrow ? projected : Shape{0}},
                          {f32, narrow ? Shape{0} : projected}},
                         stream);
}

}  // namespace

void orthonormalize(const Tensor& y, BasisSide side, const Tensor& failed, const RankSum& sum_gram,
                    Stream& stream) {
  constexpr std::string_view kOp = "orthonormalize";
  check::f32(kOp, "failed", failed, {1});
  const int64_t rank = check_vectors(kOp, y, side, sum_gram);
  const ScratchProducts items = items_of(rank, DType::kF32, y.shape(), {0}, false, stream);
  if (stream.measuring()) return;
  CholeskyQr passes(items, rank, DType::kF32, stream);
  const Tensor result = passes.run(3, y, {items[kVectors], items[kVectors + 1]}, side, sum_gram);
  passes.finish(y, result, failed, {});
}

void subspace_iteration(const Tensor& basis, BasisSide side, const Tensor& failed, const Tensor& g,
                        const SubspaceOptions& options, Stream& stream) {
  constexpr std::string_view kOp = "subspace_iteration";
  const SubspaceSums& sums = options.sums;
  const Shape projected = check_basis(kOp, basis, side, failed, g, sums);
  const DType type = g.dtype();
  const bool narrow = type == DType::kBF16;
  RW_ASSERT(type == DType::kF32 || (narrow && stream.is_cuda()), "{}: g is {}", kOp, name_of(type));
  RW_ASSERT(options.iterations > 0, "{}: {} iterations", kOp, options.iterations);
  const int64_t rank = rank_of(basis, side);
  const bool wide = options.rotate || sums.projected;
  const ScratchProducts items = items_of(rank, type, basis.shape(), projected, wide, stream);
  if (stream.measuring()) return;
  const Tensor y = items[kVectors], spare_y = items[kVectors + 1], wide_r = items[kVectors + 2];
  const Tensor spare_r = items[kVectors + 3];
  CholeskyQr passes(items, rank, type, stream);
  // With BF16 what is multiplied and what is made of it are by turns in kHigh, where an F32 factor
  // is rounded to, and kLow.
  const auto made_of = [&](const Tensor& x, const Shape& shape) {
    const bool in_low = x.raw() == items[CholeskyQr::kLow].raw();
    return passes.in_item(in_low ? CholeskyQr::kHigh : CholeskyQr::kLow, shape);
  };
  const auto multiply = [&](const Tensor& to, const Tensor& f32, const Tensor& factor, BasisSide of,
                            const RankSum& sum) {
    const Tensor& product = sum ? f32 : to;
    passes.times(product, factor, g, of, narrow && of == side ? kScaleOfR : 1.0f);
    add_up(sum, product);
    if (product.dtype() != to.dtype()) cast(to, product, stream);
  };
  Tensor current = basis;
  for (int i = 0; i < options.iterations; ++i) {
    const bool last = i + 1 == options.iterations;
    Tensor rows = narrow ? made_of(current, projected) : wide_r;
    multiply(rows, wide_r, current, side, sums.projected);
    if (!narrow) {
      rows = passes.run(2, rows, {spare_r, rows}, opposite(side), sums.projected_gram);
    } else if (i + 3 >= options.iterations) {
      const Tensor r = std::exchange(rows, made_of(rows, projected));
      passes.run_pass(rows, r, opposite(side), true, sums.projected_gram);
    }
    if (narrow && !last) {
      const Tensor rough = made_of(rows, y.shape());
      multiply(rough, y, rows, opposite(side), sums.sketch);
      current = made_of(rough, y.shape());
      passes.run_pass(current, rough, side, true, sums.sketch_gram);
    } else {
      multiply(y, y, rows, opposite(side), sums.sketch);
      current = passes.run(2, y, {spare_y, y}, side, sums.sketch_gram);
    }
  }
  if (options.rotate) {
    multiply(wide_r, wide_r, current, side, sums.projected);
    passes.find_gram(wide_r, opposite(side), sums.projected_gram);
    if (find_rotation(passes.factor(), passes.gram(), stream)) {
      passes.combine(spare_y, current, side);
      current = spare_y;
    }
  }
  passes.finish(basis, current, failed, sums.failed);
}

void exact_basis(const Tensor& basis, BasisSide side, const Tensor& failed, const Tensor& g,
                 Stream& stream) {
  check_basis("exact_basis", basis, side, failed, g, {});
  check::dtype("exact_basis", "g", g, DType::kF32);
  if (stream.measuring()) return;
  const int64_t out = g.dim(0), in = g.dim(1), k = std::min(out, in), rank = rank_of(basis, side);
  std::vector<float> values(static_cast<size_t>(g.numel()));
  download(values.data(), g, stream);
  float failure = 1.0f;
  if (all_finite(values)) {
    HostSvd found(values, out, in);
    if (found.s[static_cast<size_t>(rank) - 1] > kShortest * found.s[0]) failure = 0.0f;
    const bool left = side == BasisSide::kLeft;
    auto& vectors = left ? found.u : found.vt;
    for (int64_t i = 0; i < rank; ++i) {
      left ? fix_sign(vectors.data() + i, out, k) : fix_sign(vectors.data() + i * in, in, 1);
    }
    if (left) {  // the first columns, closed up
      for (int64_t i = 0; i < out; ++i) {
        std::copy_n(vectors.data() + i * k, rank, vectors.data() + i * rank);
      }
    }
    if (failure == 0.0f) upload(basis, vectors.data(), stream);
  }
  upload(failed, &failure, stream);
}

}  // namespace rankwise
