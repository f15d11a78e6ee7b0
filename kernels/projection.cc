// SPDX-License-Identifier: Apache-2.0
#include "kernels/projection.h"

#include <string_view>

#include "kernels/check.h"
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
                         float alpha, Stream& stream) {
  constexpr std::string_view kOp = "add_back_projection";
  check_rank_2(kOp, w);
  check_arguments(kOp, n, w, w.shape(), projection, stream);
  const bool both = projection.left.defined() && projection.right.defined();
  const bool left_first = both && rows_first(n.dim(0), n.dim(1), w.dim(0), w.dim(1));
  const DType type = w.dtype();
  const Shape between = left_first ? Shape{w.dim(0), n.dim(1)} : Shape{n.dim(0), w.dim(1)};
  const ScratchProducts products({ScratchProducts::copy_of(projection.left, type),
                                  ScratchProducts::copy_of(projection.right, type),
                                  ScratchProducts::copy_of(n, type),
                                  {type, both ? between : Shape{0}}},
                                 stream);
  if (stream.measuring()) return;
  const Tensor left = products.in_type(type, projection.left, 0);
  const Tensor right = products.in_type(type, projection.right, 1);
  const Tensor inner = products.in_type(type, n, 2);
  const MatmulParams add = {.alpha = alpha, .beta = 1.0f};
  if (!right.defined()) return products.multiply(w, left, inner, add);
  if (!left.defined()) return products.multiply(w, inner, right, add);
  if (left_first) {
    products.multiply(products[3], left, inner);
    products.multiply(w, products[3], right, add);
  } else {
    products.multiply(products[3], inner, right);
    products.multiply(w, left, products[3], add);
  }
}

}  // namespace rankwise
