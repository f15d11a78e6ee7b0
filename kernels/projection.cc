// SPDX-License-Identifier: Apache-2.0
#include "kernels/projection.h"

#include <algorithm>
#include <string_view>

#include "kernels/check.h"
#include "kernels/cuda/projection.h"
#include "kernels/scratch_products.h"

namespace rankwise {
namespace {

// `operand` decides the type of the products; `weight` is the shape (out, in).
void check_arguments(std::string_view op, const Tensor& projected, const Tensor& operand,
                     const Shape& weight, const Projection& projection, const Stream& stream) {
  const auto& [left, right] = projection;
  RW_ASSERT(left.defined() || right.defined(), "{}: no factor", op);
  RW_ASSERT(operand.dtype() == DType::kF32 || (operand.dtype() == DType::kBF16 && stream.is_cuda()),
            "{}: {}", op, name_of(operand.dtype()));
  if (left.defined()) check::f32(op, "left", left, {weight.dim(0), left.dim(1)});
  if (right.defined()) check::f32(op, "right", right, {right.dim(0), weight.dim(1)});
  check::f32(op, "projected", projected, projection.projected(weight));
}

void check_rank_2(std::string_view op, const Tensor& x) {
  RW_ASSERT(x.defined() && x.rank() == 2, "{}: {}", op, to_string(x.shape()));
}

constexpr MatmulParams kTransposeA = {.transpose_a = true};
constexpr MatmulParams kTransposeB = {.transpose_b = true};

// With both factors, whether left is the cheaper one to multiply with first when a matrix (rows,
// columns) becomes (to_rows, to_columns).
bool rows_first(int64_t rows, int64_t columns, int64_t to_rows, int64_t to_columns) {
  return columns * to_rows * (rows + to_columns) <= rows * to_columns * (columns + to_rows);
}

// Rows of a weight whose update, in fp32, stays in the cache of a device between the product that
// writes it and the kernel that reads it, in whole tiles of the product.
Shape block_of(const Shape& weight) {
  constexpr int64_t kElements = 4 << 20, kTile = 128;
  const int64_t columns = std::max<int64_t>(1, weight.dim(1));
  const int64_t tiles = std::max<int64_t>(1, (kElements / columns + kTile / 2) / kTile);
  return {std::min(weight.dim(0), tiles * kTile), weight.dim(1)};
}

}  // namespace

void project(const Tensor& r, const Tensor& g, const Projection& projection, Stream& stream) {
  constexpr std::string_view kOp = "project";
  check_rank_2(kOp, g);
  check_arguments(kOp, r, g, g.shape(), projection, stream);
  const bool both = projection.left.defined() && projection.right.defined();
  const bool left_first = both && rows_first(g.dim(0), g.dim(1), r.dim(0), r.dim(1));
  const DType type = g.dtype();
  const Shape between = left_first ? Shape{r.dim(0), g.dim(1)} : Shape{g.dim(0), r.dim(1)};
  const ScratchProducts products({ScratchProducts::copy_of(projection.left, type),
                                  ScratchProducts::copy_of(projection.right, type),
                                  {type, both ? between : Shape{0}}},
                                 stream);
  if (stream.measuring()) return;
  const Tensor left = products.in_type(type, projection.left, 0);
  const Tensor right = products.in_type(type, projection.right, 1);
  if (!right.defined()) return products.multiply(r, left, g, kTransposeA);
  if (!left.defined()) return products.multiply(r, g, right, kTransposeB);
  if (left_first) {
    products.multiply(products[2], left, g, kTransposeA);
    products.multiply(r, products[2], right, kTransposeB);
  } else {
    products.multiply(products[2], g, right, kTransposeB);
    products.multiply(r, left, products[2], kTransposeA);
  }
}

void projected_backward_weight(const Tensor& r, const Tensor& dy, const Tensor& x,
                               const Projection& projection, Stream& stream) {
  constexpr std::string_view kOp = "projected_backward_weight";
  check_rank_2(kOp, dy);
  check_rank_2(kOp, x);
  check::dtype(kOp, "x", x, dy.dtype());
  check::shape(kOp, "x", x, {dy.dim(0), x.dim(1)});
  check_arguments(kOp, r, dy, {dy.dim(1), x.dim(1)}, projection, stream);
  const DType type = dy.dtype();
  const auto narrow = [&](const Tensor& factor, int64_t rank) {
    return ScratchProducts::Item{type, factor.defined() ? Shape{dy.dim(0), rank} : Shape{0}};
  };
  const ScratchProducts products(
      {ScratchProducts::copy_of(projection.left, type),
       ScratchProducts::copy_of(projection.right, type), narrow(projection.left, r.dim(0)),
       narrow(projection.right, r.dim(1))},
      stream);
  if (stream.measuring()) return;
  const Tensor left = products.in_type(type, projection.left, 0);
  const Tensor right = products.in_type(type, projection.right, 1);
  if (left.defined()) products.multiply(products[2], dy, left);
  if (right.defined()) products.multiply(products[3], x, right, kTransposeB);
  products.multiply(r, left.defined() ? products[2] : dy, right.defined() ? products[3] : x,
                    {.transpose_a = true, .beta = 1.0f});
}

void add_back_projection(const Tensor& w, const Tensor& n, const Projection& projection,
                         const WeightChange& change, Stream& stream) {
  constexpr std::string_view kOp = "add_back_projection";
  check_rank_2(kOp, w);
  check_arguments(kOp, n, w, w.shape(), projection, stream);
  const DType type = w.dtype();
  const bool rounds = type == DType::kBF16;
  RW_ASSERT(!rounds || (change.rng != nullptr && change.place.width >= w.dim(1)),
            "{}: no random bits for BF16, or no place", kOp);
  const bool both = projection.left.defined() && projection.right.defined();
  const bool left_first = both && rows_first(n.dim(0), n.dim(1), w.dim(0), w.dim(1));
  const Shape between = left_first ? Shape{w.dim(0), n.dim(1)} : Shape{n.dim(0), w.dim(1)};
  const ScratchProducts products({ScratchProducts::copy_of(projection.left, type),
                                  ScratchProducts::copy_of(projection.right, type),
                                  ScratchProducts::copy_of(n, type),
                                  {type, both ? between : Shape{0}},
                                  {DType::kF32, rounds ? block_of(w.shape()) : Shape{0}}},
                                 stream);
  if (stream.measuring()) return;
  const Tensor left = products.in_type(type, projection.left, 0);
  const Tensor right = products.in_type(type, projection.right, 1);
  const Tensor inner = products.in_type(type, n, 2);
  Tensor a = left.defined() ? left : inner, b = right.defined() ? right : inner;
  if (both) {
    left_first ? products.multiply(products[3], left, inner, {.tuned = false})
               : products.multiply(products[3], inner, right, {.tuned = false});
    (left_first ? a : b) = products[3];
  }
  const MatmulParams last{
      .alpha = change.alpha, .beta = rounds ? 0.0f : change.keep, .tuned = false};
  if (!rounds) return products.multiply(w, a, b, last);
  if constexpr (kHasCuda) {
    const Tensor& block = products[4];
    MaskPlace place = change.place;
    for (int64_t begin = 0; begin < w.dim(0); begin += block.dim(0)) {
      const int64_t end = std::min(begin + block.dim(0), w.dim(0));
      const Tensor added = block.rows(0, end - begin);
      products.multiply(added, a.rows(begin, end), b, last);
      cuda::add_rounded_stochastically(w.rows(begin, end), added, change.keep, *change.rng, place,
                                       stream);
      place.first += static_cast<uint64_t>(block.dim(0) * place.width);
    }
  }
}

}  // namespace rankwise
