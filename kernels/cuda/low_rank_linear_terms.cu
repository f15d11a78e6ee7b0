// SPDX-License-Identifier: Apache-2.0
#include "kernels/cuda/dequantize.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/low_rank_linear_terms.h"
#include "kernels/cuda/rows.cuh"

namespace rankwise::cuda {
namespace {

constexpr int kThreads = 256;

// Of the layers: A, B, e and c (null: ones), or the gradients of the first three.
struct Terms {
  Rows<float> a[kMaxLayers] = {};
  float* b[kMaxLayers] = {};
  float* e[kMaxLayers] = {};
  const float* c[kMaxLayers] = {};
  float scale[kMaxLayers] = {};
};

const float* row_factors(const LowRankLinear& layer) {
  return layer.c.defined() ? layer.c.data<float>() : nullptr;
}

Terms terms_of(std::span<const LowRankLinear> layers) {
  Terms terms;
  for (size_t i = 0; i < layers.size(); ++i) {
    if (layers[i].rank() == 0) continue;
    terms.a[i] = rows_of<float>(layers[i].a);
    terms.b[i] = layers[i].b.data<float>();
    if (layers[i].e.defined()) terms.e[i] = layers[i].e.data<float>();
    terms.c[i] = row_factors(layers[i]);
    terms.scale[i] = layers[i].scale;
  }
  return terms;
}

// The layer whose rows [begin[l], begin[l + 1]) contain `row`.
__device__ int layer_at(const int64_t* begin, int64_t row) {
  int layer = 0;
  while (row >= begin[layer + 1]) ++layer;
  return layer;
}

struct PlaceInB {
  int layer;
  int64_t index;        // in B of the layer; -1 where row and column are of different layers
  int64_t row, column;  // of B
};

__device__ PlaceInB place_in_b(const Group& group, int64_t row, int64_t column) {
  const int layer = layer_at(group.out_begin, row);
  const int64_t begin = group.rank_begin[layer], end = group.rank_begin[layer + 1];
  if (column < begin || column >= end) return {layer, -1, 0, 0};
  row -= group.out_begin[layer];
  column -= begin;
  return {layer, row * (end - begin) + column, row, column};
}

// What this element of B is multiplied with: s_l e_l[column] c_l[row].
__device__ float factor(const Terms& terms, const PlaceInB& b) {
  float product = terms.scale[b.layer];
  if (terms.e[b.layer] != nullptr) product *= terms.e[b.layer][b.column];
  if (terms.c[b.layer] != nullptr) product *= terms.c[b.layer][b.row];
  return product;
}

// matrix[out + r][c] = A[r][c]; matrix[o][in + r] = s_l e_l[r] c_l[o] B_l[o][r] where o and r are
// of one layer l, 0 elsewhere. One thread per element: first those of A, then those of B.
template <class T>
__global__ void __launch_bounds__(kThreads)
    expand_terms_kernel(T* matrix, int64_t stride, Group group, Terms terms) {
  int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  const int64_t a_elements = group.rank * group.in;
  if (i < a_elements) {
    const int64_t row = i / group.in, column = i % group.in;
    float value = 0.0f;
    if (row < group.rank_begin[group.layers]) {
      const int layer = layer_at(group.rank_begin, row);
      value = terms.a[layer][row - group.rank_begin[layer]][column];
    }
    matrix[(group.out + row) * stride + column] = from_float<T>(value);
    return;
  }
  i -= a_elements;
  if (i >= group.out * group.rank) return;
  const int64_t row = i / group.rank, column = i % group.rank;
  const PlaceInB b = place_in_b(group, row, column);
  const float value = b.index < 0 ? 0.0f : factor(terms, b) * terms.b[b.layer][b.index];
  matrix[row * stride + group.in + column] = from_float<T>(value);
}

// de_l[r] += s_l sum_o B_l[o][r] c_l[o] b_sums[out_begin[l] + o][column], with a thread block.
__device__ void add_to_e(const float* b_sums, const Group& group, const Terms& terms,
                         const Terms& gradients, int64_t column) {
  __shared__ float shared[32];
  const int layer = layer_at(group.rank_begin, column);
  if (terms.e[layer] == nullptr) return;
  const int64_t rank = group.rank_begin[layer + 1] - group.rank_begin[layer];
  const int64_t out = group.out_begin[layer + 1] - group.out_begin[layer];
  const int64_t own = column - group.rank_begin[layer];
  const float* b = terms.b[layer] + own;
  const float* g = b_sums + group.out_begin[layer] * group.rank + column;
  const float* c = terms.c[layer];
  float sum = 0.0f;
#pragma unroll 4
  for (int64_t o = threadIdx.x; o < out; o += kThreads) {
    const float value = g[o * group.rank];
    sum += b[o * rank] * (c == nullptr ? value : c[o] * value);
  }
  sum = block_sum(sum, shared);
  if (threadIdx.x == 0) gradients.e[layer][own] += terms.scale[layer] * sum;
}

// dA_l[r][i] += a_sums[rank_begin[l] + r][i]; dB_l[o][r] += s_l e_l[r] c_l[o] b_sums[out_begin[l] +
// o][..]. Of b_sums (out, rank) only the blocks of one layer each are used. The first e_blocks
// thread blocks, one per rank or none, add to the de; the threads of the others as above.
__global__ void __launch_bounds__(kThreads)
    add_gradients_kernel(const float* a_sums, const float* b_sums, Group group, Terms terms,
                         Terms gradients, unsigned e_blocks) {
  if (blockIdx.x < e_blocks) return add_to_e(b_sums, group, terms, gradients, blockIdx.x);
  int64_t i = static_cast<int64_t>(blockIdx.x - e_blocks) * kThreads + threadIdx.x;
  const int64_t a_elements = group.rank * group.in;
  if (i < a_elements) {
    const int64_t row = i / group.in, column = i % group.in;
    if (row >= group.rank_begin[group.layers]) return;
    const int layer = layer_at(group.rank_begin, row);
    gradients.a[layer][row - group.rank_begin[layer]][column] += a_sums[i];
    return;
  }
  i -= a_elements;
  if (i >= group.out * group.rank) return;
  const PlaceInB b = place_in_b(group, i / group.rank, i % group.rank);
  if (b.index >= 0) gradients.b[b.layer][b.index] += factor(terms, b) * b_sums[i];
}

unsigned blocks_for_terms(const Group& group) {
  return static_cast<unsigned>(ceil_div(group.rank * (group.in + group.out), kThreads));
}

}  // namespace

Group group_of(std::span<const LowRankLinear> layers) {
  RW_ASSERT(layers.size() <= kMaxLayers, "{} layers", layers.size());
  Group group;
  group.in = layers[0].in();
  for (const LowRankLinear& layer : layers) {
    group.out += layer.out();
    ++group.layers;
    group.out_begin[group.layers] = group.out;
    group.rank_begin[group.layers] = group.rank_begin[group.layers - 1] + layer.rank();
  }
  group.rank = padded_rank(group.rank_begin[group.layers]);
  return group;
}

void expand_terms(const Tensor& matrix, const Group& group, std::span<const LowRankLinear> layers,
                  Stream& stream) {
  if (group.rank == 0) return;
  for_element_type(matrix.dtype(), [&]<class T>(T*) {
    expand_terms_kernel<T><<<blocks_for_terms(group), kThreads, 0, native(stream)>>>(
        address<T>(matrix), matrix.row_stride(), group, terms_of(layers));
  });
  check_launch("low_rank_linear");
}

void expand_weights(const Tensor& matrix, const Group& group, std::span<const LowRankLinear> layers,
                    Stream& stream) {
  for (size_t i = 0; i < layers.size(); ++i) {
    if (layers[i].weight == nullptr) continue;
    const Tensor rows = matrix.rows(group.out_begin[i], group.out_begin[i + 1]);
    expand_weight(rows.raw(), matrix.dtype(), matrix.row_stride(), *layers[i].weight, stream,
                  row_factors(layers[i]));
  }
}

void add_gradients(std::span<const LowRankGradients> gradients, const Tensor& a_sums,
                   const Tensor& b_sums, const Group& group, std::span<const LowRankLinear> layers,
                   Stream& stream) {
  Terms sums;
  unsigned e_blocks = 0;
  for (size_t i = 0; i < layers.size(); ++i) {
    if (layers[i].rank() == 0) continue;
    sums.a[i] = rows_of<float>(gradients[i].da);
    sums.b[i] = gradients[i].db.data<float>();
    if (!layers[i].e.defined()) continue;
    sums.e[i] = gradients[i].de.data<float>();
    e_blocks = static_cast<unsigned>(group.rank_begin[group.layers]);
  }
  add_gradients_kernel<<<e_blocks + blocks_for_terms(group), kThreads, 0, native(stream)>>>(
      a_sums.data<float>(), b_sums.data<float>(), group, terms_of(layers), sums, e_blocks);
  check_launch("low_rank_linear_backward_weight");
}

}  // namespace rankwise::cuda
