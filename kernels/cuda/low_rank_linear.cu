// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cstddef>

#include "kernels/cuda/low_rank_linear.h"
#include "kernels/cuda/low_rank_linear_terms.h"
#include "kernels/cuda/matmul.h"

namespace rankwise::cuda {
namespace {

// Scratch of one operation: the workspace of the products, then the matrix of the group.
struct GroupScratch {
  void* workspace;
  Tensor matrix;  // (out + rank, stride)
};

GroupScratch group_scratch(const Group& group, DType type, Stream& stream) {
  const Shape shape = {group.out + group.rank, group.stride()};
  const auto bytes = static_cast<size_t>(shape.numel() * bits_of(type) / 8);
  auto* memory = static_cast<std::byte*>(stream.scratch(kMatmulWorkspaceBytes + bytes));
  if (stream.measuring()) return {};
  return {memory, Tensor(memory + kMatmulWorkspaceBytes, type, shape, stream.device())};
}

// Every product can read the weights where they lie, and there is nothing to add to them or to
// multiply their rows with.
bool needs_no_matrix(const Group& group, std::span<const LowRankLinear> layers, DType type) {
  return group.rank == 0 && std::ranges::all_of(layers, [&](const LowRankLinear& layer) {
           return is_dense(*layer.weight, type) && !layer.c.defined();
         });
}

// The matrix of which `left` and `right` are neighbouring columns; undefined when they are not.
Tensor join(const Tensor& left, const Tensor& right) {
  if (!left.defined() || !right.defined()) return {};
  const int64_t columns = left.dim(1) + right.dim(1);
  const auto* end =
      static_cast<const std::byte*>(left.raw()) + left.dim(1) * bits_of(left.dtype()) / 8;
  if (right.raw() != end || right.row_stride() != left.row_stride() ||
      left.row_stride() < columns) {
    return {};
  }
  const Tensor wide(left.raw(), left.dtype(), {left.dim(0), left.row_stride()}, left.device());
  return wide.columns(0, columns);
}

// The same for the tensors of a group, those of layers of rank 0 left out.
Tensor join_all(std::span<const Tensor> parts, const Group& group, const int64_t* begin) {
  Tensor whole;
  for (int i = 0; i < group.layers; ++i) {
    if (begin[i] == begin[i + 1]) continue;
    whole = begin[i] == 0 ? parts[i] : join(whole, parts[i]);
  }
  return whole;
}

// The narrow tensors of the ranks as one matrix, with the columns behind it that make up group.rank
// when they all lie in the rows of `left` right behind its columns and there is room.
Tensor join_ranks(const Tensor& left, std::span<const Tensor> parts, const Group& group) {
  const Tensor narrow = join_all(parts, group, group.rank_begin);
  const Tensor both = join(left, narrow);
  if (!both.defined() || left.dim(1) + group.rank > both.row_stride()) return narrow;
  const Tensor wide(left.raw(), left.dtype(), {left.dim(0), both.row_stride()}, left.device());
  return wide.columns(left.dim(1), left.dim(1) + group.rank);
}

// f(tensor, begin, end) once for all columns of the group, or once for each layer.
template <class F>
void for_columns(const Tensor& whole, std::span<const Tensor> parts, const Group& group,
                 const int64_t* begin, F&& f) {
  if (whole.defined()) return f(whole, int64_t{0}, whole.dim(1));
  for (int i = 0; i < group.layers; ++i) {
    if (begin[i] < begin[i + 1]) f(parts[i], begin[i], begin[i + 1]);
  }
}

// Rows of the outputs and columns of the ranks of a layer, the first rank being at `column`.
Tensor b_block(const Tensor& matrix, const Group& group, int layer, int64_t column) {
  return matrix.rows(group.out_begin[layer], group.out_begin[layer + 1])
      .columns(column + group.rank_begin[layer], column + group.rank_begin[layer + 1]);
}

}  // namespace

void low_rank_linear(std::span<const Tensor> ys, std::span<const Tensor> downs, const Tensor& x,
                     std::span<const LowRankLinear> layers, const Tensor& addend, Stream& stream) {
  const Group group = group_of(layers);
  const MatmulParams params = {.transpose_b = true, .beta = addend.defined() ? 1.0f : 0.0f};
  const auto times = [&](const Tensor& y, const Tensor& input, const Tensor& w, void* workspace) {
    product(y, input, w, params, addend.defined() ? addend : y, workspace, stream);
  };
  if (needs_no_matrix(group, layers, x.dtype())) {
    void* workspace = stream.scratch(kMatmulWorkspaceBytes);
    if (stream.measuring()) return;
    for (size_t i = 0; i < layers.size(); ++i) {
      times(ys[i], x, std::get<Tensor>(*layers[i].weight), workspace);
    }
    return;
  }
  const auto [workspace, matrix] = group_scratch(group, x.dtype(), stream);
  if (stream.measuring()) return;
  expand_weights(matrix, group, layers, stream);
  expand_terms(matrix, group, layers, stream);
  const Tensor down = join_ranks(x, downs, group);
  for_columns(down, downs, group, group.rank_begin,
              [&](const Tensor& columns, int64_t begin, int64_t end) {
                const Tensor a = matrix.rows(group.out + begin, group.out + end);
                product(columns, x, a.columns(0, group.in), {.transpose_b = true}, columns,
                        workspace, stream);
              });
  if (layers[0].weight == nullptr) {
    for (int i = 0; i < group.layers; ++i) {
      times(ys[i], downs[i], b_block(matrix, group, i, group.in), workspace);
    }
    return;
  }
  const Tensor joined = group.rank > 0 ? join(x, down) : x;
  const Tensor& input = joined.defined() ? joined : x;
  for_columns(join_all(ys, group, group.out_begin), ys, group, group.out_begin,
              [&](const Tensor& columns, int64_t begin, int64_t end) {
                times(columns, input, matrix.rows(begin, end).columns(0, input.dim(1)), workspace);
              });
  if (joined.defined()) return;
  for (int i = 0; i < group.layers; ++i) {
    if (layers[i].rank() == 0) continue;
    product(ys[i], downs[i], b_block(matrix, group, i, group.in),
            {.transpose_b = true, .beta = 1.0f}, ys[i], workspace, stream);
  }
}

void low_rank_linear_backward_input(const Tensor& dx, std::span<const Tensor> ddowns,
                                    std::span<const Tensor> dys,
                                    std::span<const LowRankLinear> layers, float beta,
                                    Stream& stream) {
  const Group group = group_of(layers);
  const DType type = dys[0].dtype();
  if (!dx.defined() && group.rank == 0) return;
  const auto add_product = [&](const Tensor& dy, const Tensor& w, void* workspace) {
    product(dx, dy, w, {.beta = beta}, dx, workspace, stream);
    beta = 1.0f;
  };
  if (needs_no_matrix(group, layers, type)) {
    void* workspace = stream.scratch(kMatmulWorkspaceBytes);
    if (stream.measuring()) return;
    for (size_t i = 0; i < layers.size(); ++i) {
      add_product(dys[i], std::get<Tensor>(*layers[i].weight), workspace);
    }
    return;
  }
  const auto [workspace, matrix] = group_scratch(group, type, stream);
  if (stream.measuring()) return;
  expand_terms(matrix, group, layers, stream);
  const Tensor dy = join_all(dys, group, group.out_begin);
  const Tensor ddown = join_ranks(dy, ddowns, group);
  if (dy.defined() && ddown.defined()) {
    const Tensor b = matrix.rows(0, group.out).columns(group.in, group.in + ddown.dim(1));
    product(ddown, dy, b, {}, ddown, workspace, stream);
  } else {
    for (int i = 0; i < group.layers; ++i) {
      if (layers[i].rank() == 0) continue;
      product(ddowns[i], dys[i], b_block(matrix, group, i, group.in), {}, ddowns[i], workspace,
              stream);
    }
  }
  if (!dx.defined()) return;
  expand_weights(matrix, group, layers, stream);
  const Tensor left = matrix.columns(0, group.in);  // [W; A]
  if (layers[0].weight != nullptr) {
    const Tensor joined = group.rank > 0 ? join(dy, ddown) : dy;
    if (joined.defined()) return add_product(joined, left.rows(0, joined.dim(1)), workspace);
    for_columns(dy, dys, group, group.out_begin,
                [&](const Tensor& columns, int64_t begin, int64_t end) {
                  add_product(columns, left.rows(begin, end), workspace);
                });
  }
  for_columns(ddown, ddowns, group, group.rank_begin,
              [&](const Tensor& columns, int64_t begin, int64_t end) {
                add_product(columns, left.rows(group.out + begin, group.out + end), workspace);
              });
}

void low_rank_linear_backward_weight(std::span<const LowRankGradients> gradients,
                                     std::span<const Tensor> ddowns, std::span<const Tensor> dys,
                                     std::span<const Tensor> downs, const Tensor& x,
                                     std::span<const LowRankLinear> layers, Stream& stream) {
  const Group group = group_of(layers);
  if (group.rank == 0) return;
  // Sums pass through scratch, where rows are aligned: those of gradients need not be.
  const int64_t elements = group.rank * (group.in + group.out);
  auto* workspace = static_cast<std::byte*>(
      stream.scratch(kMatmulWorkspaceBytes + static_cast<size_t>(elements) * sizeof(float)));
  if (stream.measuring()) return;
  auto* sums = reinterpret_cast<float*>(workspace + kMatmulWorkspaceBytes);
  const Tensor a_sums(sums, DType::kF32, {group.rank, group.in}, stream.device());
  const Tensor b_sums(sums + a_sums.numel(), DType::kF32, {group.out, group.rank}, stream.device());
  const auto sum = [&](const Tensor& to, const Tensor& left, const Tensor& right) {
    product(to, left, right, {.transpose_a = true}, to, workspace, stream);
  };
  const Tensor dy = join_all(dys, group, group.out_begin);
  for_columns(join_ranks(dy, ddowns, group), ddowns, group, group.rank_begin,
              [&](const Tensor& columns, int64_t begin, int64_t end) {
                sum(a_sums.rows(begin, end), columns, x);
              });
  const Tensor down = join_ranks(x, downs, group);
  if (dy.defined() && down.defined()) {
    sum(b_sums.columns(0, down.dim(1)), dy, down);
  } else {
    for (int i = 0; i < group.layers; ++i) {
      if (layers[i].rank() == 0) continue;
      sum(b_block(b_sums, group, i, 0), dys[i], downs[i]);
    }
  }
  add_gradients(gradients, a_sums, b_sums, group, layers, stream);
}

void add_low_rank_product(const Tensor& w, const LowRankLinear& layer, Stream& stream) {
  const Group group = group_of({&layer, 1});
  const auto [workspace, matrix] = group_scratch(group, DType::kF32, stream);
  if (stream.measuring()) return;
  expand_terms(matrix, group, {&layer, 1}, stream);
  const Tensor a = matrix.rows(group.out, group.out + layer.rank()).columns(0, group.in);
  product(w, b_block(matrix, group, 0, group.in), a, {.beta = 1.0f}, w, workspace, stream);
}

}  // namespace rankwise::cuda
