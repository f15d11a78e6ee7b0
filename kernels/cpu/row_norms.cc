// SPDX-License-Identifier: Apache-2.0
// In tiles of rows: T = 2 s W A^T + s^2 B Q, then ||V_i||^2 = base + sum_k T_ik B_ik.
#include "kernels/cpu/row_norms.h"

#include <algorithm>
#include <cmath>

#include "kernels/cpu/matmul.h"
#include "kernels/cpu/quantize.h"
#include "kernels/cpu/work_split.h"

namespace rankwise::cpu {
namespace {

constexpr int64_t kTileRows = 256;  // decoded, they stay in cache

double dot(const float* a, const float* b, int64_t count) {
  double sum = 0.0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < count; ++i) sum += static_cast<double>(a[i]) * b[i];
  return sum;
}

// Elements of scratch that for_each_tile needs.
int64_t tile_elements(const Weight& w) {
  const Shape& shape = shape_of(w);
  return is_quantized(w) ? std::min(kTileRows, shape.dim(0)) * shape.dim(1) : 0;
}

// Calls f(rows, begin, end) with the rows [begin, end) of W, decoded into `tile` where W is NF4.
template <class F>
void for_each_tile(const Weight& w, float* tile, const F& f) {
  const int64_t out = shape_of(w).dim(0), in = shape_of(w).dim(1);
  for (int64_t begin = 0; begin < out; begin += kTileRows) {
    const int64_t end = std::min(begin + kTileRows, out);
    if (const auto* quantized = std::get_if<QuantizedTensor>(&w)) {
      dequantize_rows(tile, *quantized, begin, end);
      f(Tensor(tile, DType::kF32, {end - begin, in}), begin, end);
    } else {
      f(std::get<Tensor>(w).rows(begin, end), begin, end);
    }
  }
}

float* floats_of_scratch(int64_t count, Stream& stream) {
  return static_cast<float*>(stream.scratch(static_cast<size_t>(count) * sizeof(float)));
}

}  // namespace

void base_row_squares(const Tensor& squares, const Weight& w, Stream& stream) {
  float* tile = floats_of_scratch(tile_elements(w), stream);
  auto* to = squares.data<float>();
  for_each_tile(w, tile, [&](const Tensor& rows, int64_t begin, int64_t end) {
    const auto* from = rows.data<float>();
    const int64_t in = rows.dim(1), stride = rows.row_stride();
#pragma omp parallel for schedule(static) if ((end - begin) * in > kParallelElements)
    for (int64_t i = begin; i < end; ++i) {
      const float* row = from + (i - begin) * stride;
      to[i] = static_cast<float>(dot(row, row, in));
    }
  });
}

void row_squares(const RowSquares& matrix, Stream& stream) {
  const auto& [squares, base, layer, m, c] = matrix;
  const int64_t rank = layer.rank();
  const int64_t elements = tile_elements(*layer.weight),
                rows_at_once = std::min(kTileRows, layer.out());
  float* tile = floats_of_scratch(elements + (rows_at_once + rank) * rank, stream);
  const Tensor q(tile + elements, DType::kF32, {rank, rank});
  const Tensor terms(tile + elements + q.numel(), DType::kF32, {rows_at_once, rank});
  const float s = layer.scale;
  cpu::matmul(q, layer.a, layer.a, {.transpose_b = true});
  for_each_tile(*layer.weight, tile, [&](const Tensor& rows, int64_t begin, int64_t end) {
    const Tensor t = terms.rows(0, end - begin), b = layer.b.rows(begin, end);
    cpu::matmul(t, rows, layer.a, {.transpose_b = true, .alpha = 2.0f * s});
    cpu::matmul(t, b, q, {.alpha = s * s, .beta = 1.0f});
    for (int64_t i = 0; i < end - begin; ++i) {
      const double change = dot(t.data<float>() + i * rank, b.data<float>() + i * rank, rank);
      const double square = base.data<float>()[begin + i] + change;
      squares.data<float>()[begin + i] = static_cast<float>(square < 0.0 ? 0.0 : square);
    }
  });
  if (c.defined()) magnitude_factors(c, m, squares);
}

void square_roots(const Tensor& norms, const Tensor& squares) {
  for (int64_t i = 0; i < norms.numel(); ++i) {
    norms.data<float>()[i] = std::sqrt(squares.data<float>()[i]);
  }
}

void magnitude_factors(const Tensor& c, const Tensor& m, const Tensor& squares) {
  for (int64_t i = 0; i < c.numel(); ++i) {
    const float square = squares.data<float>()[i];
    c.data<float>()[i] = square == 0.0f ? 0.0f : m.data<float>()[i] / std::sqrt(square);
  }
}

void set_row_norms(const Tensor& w, const Tensor& m) {
  const int64_t in = w.dim(1);
  auto* first = w.data<float>();
  const auto* norms = m.data<float>();
#pragma omp parallel for schedule(static) if (w.numel() > kParallelElements)
  for (int64_t i = 0; i < w.dim(0); ++i) {
    float* row = first + i * in;
    const double square = dot(row, row, in);
    if (square == 0.0) continue;
    const auto factor = static_cast<float>(norms[i] / std::sqrt(square));
    for (int64_t c = 0; c < in; ++c) row[c] *= factor;
  }
}

}  // namespace rankwise::cpu
