// SPDX-License-Identifier: Apache-2.0
#include "kernels/orthonormalize.h"

#include <algorithm>
#include <cmath>
#include <string_view>
#include <vector>

#include "kernels/check.h"
#include "kernels/cpu/orthonormalize.h"
#include "kernels/cuda/orthonormalize.h"
#include "kernels/scratch_products.h"
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

// The items of scratch that passes need, in this order.
enum PassItem : size_t { kGram, kWork, kLengths, kPassItems };

// Passes of CholeskyQR over one set of vectors after the other, and the products around them.
class Passes {
 public:
  Passes(const ScratchProducts& products, int64_t rank, Stream& stream)
      : products_(products), stream_(stream) {
    // What rounding adds to the Gram matrix of dependent vectors of length 1, with some room.
    step_ = {.work = products[kWork],
             .lengths = products[kLengths],
             .gram = products[kGram],
             .floor = 4.0f * 0x1p-24f * static_cast<float>(rank)};
  }

  // to = factor^T g, or g factor^T when the factor is for the right side.
  void times(const Tensor& to, const Tensor& factor, const Tensor& g, BasisSide side) const {
    if (side == BasisSide::kLeft) {
      products_.multiply(to, factor, g, {.transpose_a = true});
    } else {
      products_.multiply(to, g, factor, {.transpose_b = true});
    }
  }

  // `count` passes; the first one is shifted, so that it survives any condition. They alternate
  // between the tensors, beginning with one that reads x, which may be spare[1].
  Tensor run(int count, const Tensor& x, const std::array<Tensor, 2>& spare, BasisSide side,
             const RankSum& sum_gram) {
    Tensor from = x;
    for (int pass = 0; pass < count; ++pass) {
      gram_of(from, side, sum_gram);
      step_.first = pass == 0;
      step_.shift = step_.first ? step_.floor : 0.0f;
      run_step();
      from = combined(spare[pass % 2], from, step_.factor(), side);
    }
    return from;
  }

  // The vectors of `from` combined by the columns of `factor`.
  Tensor combined(const Tensor& to, const Tensor& from, const Tensor& factor,
                  BasisSide side) const {
    if (side == BasisSide::kLeft) {
      products_.multiply(to, from, factor);
    } else {
      products_.multiply(to, factor, from, {.transpose_a = true});
    }
    return to;
  }

  void gram_of(const Tensor& vectors, BasisSide side, const RankSum& sum_gram) const {
    const bool columns = side == BasisSide::kLeft;
    products_.multiply(step_.gram, vectors, vectors,
                       {.transpose_a = columns, .transpose_b = !columns});
    add_up(sum_gram, step_.gram);
  }

  // The singular vectors behind the Gram matrix in the place of the factor; false, and nothing
  // done, when it is not finite.
  bool find_rotation() const;

  // vectors = result, unless the last run failed.
  void finish(const Tensor& vectors, const Tensor& result, const Tensor& failed,
              const RankSum& sum_failed) const;
  Tensor factor() const { return step_.factor(); }

 private:
  void run_step() const {
    if constexpr (kHasCuda) {
      if (stream_.is_cuda()) return cuda::cholesky_step(step_, stream_);
    }
    cpu::cholesky_step(step_);
  }

  const ScratchProducts& products_;
  Stream& stream_;
  CholeskyStep step_;
};

void Passes::finish(const Tensor& vectors, const Tensor& result, const Tensor& failed,
                    const RankSum& sum_failed) const {
  if constexpr (kHasCuda) {
    if (stream_.is_cuda()) {
      cuda::check_lengths(failed, step_.lengths, stream_);
      add_up(sum_failed, failed);
      return cuda::copy_unless_failed(vectors, result, failed, stream_);
    }
  }
  cpu::check_lengths(failed, step_.lengths);
  add_up(sum_failed, failed);
  cpu::copy_unless_failed(vectors, result, failed);
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

bool Passes::find_rotation() const {
  const int64_t rank = step_.rank();
  std::vector<float> gram(static_cast<size_t>(rank * rank));
  download(gram.data(), step_.gram, stream_);
  if (!all_finite(gram)) return false;
  HostSvd found(gram, rank, rank);
  for (int64_t i = 0; i < rank; ++i) fix_sign(found.u.data() + i, rank, rank);
  upload(step_.factor(), found.u.data(), stream_);
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

}  // namespace

void orthonormalize(const Tensor& y, BasisSide side, const Tensor& failed, const RankSum& sum_gram,
                    Stream& stream) {
  constexpr std::string_view kOp = "orthonormalize";
  check::f32(kOp, "failed", failed, {1});
  const int64_t rank = check_vectors(kOp, y, side, sum_gram);
  const DType f32 = DType::kF32;
  const ScratchProducts products({{f32, {rank, rank}},
                                  {f32, {2 * rank, rank}},
                                  {f32, {rank + 1}},
                                  {f32, y.shape()},
                                  {f32, y.shape()}},
                                 stream);
  if (stream.measuring()) return;
  Passes passes(products, rank, stream);
  const Tensor result =
      passes.run(3, y, {products[kPassItems], products[kPassItems + 1]}, side, sum_gram);
  passes.finish(y, result, failed, {});
}

void subspace_iteration(const Tensor& basis, BasisSide side, const Tensor& failed, const Tensor& g,
                        const SubspaceOptions& options, Stream& stream) {
  constexpr std::string_view kOp = "subspace_iteration";
  const SubspaceSums& sums = options.sums;
  const Shape projected = check_basis(kOp, basis, side, failed, g, sums);
  const DType f32 = DType::kF32, type = g.dtype();
  RW_ASSERT(type == f32 || (type == DType::kBF16 && stream.is_cuda()), "{}: g is {}", kOp,
            name_of(type));
  RW_ASSERT(options.iterations > 0, "{}: {} iterations", kOp, options.iterations);
  const int64_t rank = rank_of(basis, side);
  const ScratchProducts products({{f32, {rank, rank}},
                                  {f32, {2 * rank, rank}},
                                  {f32, {rank + 1}},
                                  {f32, projected},
                                  {f32, projected},
                                  {f32, basis.shape()},
                                  {f32, basis.shape()},
                                  {type, type == f32 ? Shape{0} : basis.shape()},
                                  {type, type == f32 ? Shape{0} : projected}},
                                 stream);
  if (stream.measuring()) return;
  const Tensor r = products[kPassItems], spare_r = products[kPassItems + 1];
  const Tensor y = products[kPassItems + 2], spare_y = products[kPassItems + 3];
  const size_t narrow_basis = kPassItems + 4, narrow_r = kPassItems + 5;
  Passes passes(products, rank, stream);
  const auto project = [&](const Tensor& current) {
    passes.times(r, products.in_type(type, current, narrow_basis), g, side);
    add_up(sums.projected, r);
  };
  Tensor current = basis;
  for (int i = 0; i < options.iterations; ++i) {
    project(current);
    passes.run(2, r, {spare_r, r}, opposite(side), sums.projected_gram);
    passes.times(y, products.in_type(type, r, narrow_r), g, opposite(side));
    add_up(sums.sketch, y);
    current = passes.run(2, y, {spare_y, y}, side, sums.sketch_gram);
  }
  if (options.rotate) {
    project(current);
    passes.gram_of(r, opposite(side), sums.projected_gram);
    if (passes.find_rotation()) {
      current = passes.combined(spare_y, current, passes.factor(), side);
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
