// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/thin_matmul.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <type_traits>
#include <utility>

#include "kernels/cpu/block_product.h"
#include "kernels/cpu/vector_math.h"
#include "kernels/cpu/work_split.h"

namespace rankwise::cpu {
namespace {

// Dot products held in registers side by side: together their sums are one vector.
constexpr int64_t kDotRows = 2;
constexpr int64_t kDotColumns = kLanes / kDotRows;
// Rows of C updated together, and rank-1 terms added at a time: their factors fill the registers.
constexpr int64_t kUpdateRows = 3;
constexpr int64_t kUpdateDepth = 8;
// The long dimension of the thin matrix is taken in blocks that stay in L1.
constexpr int64_t kBlock = 512;
// Shorter long dimensions leave the library no slower: a tile's beginning and end weigh more.
constexpr int64_t kLong = 128;

template <int64_t kCount>
using Rows = std::array<const float*, kCount>;

// A block of the thin matrix: rows of `length`, whole vectors.
struct ThinBlock {
  const float* data;
  int64_t stride;
  int64_t begin;
  int64_t length;
};

// Element (r, i) of the thin matrix, r < count <= 8, is data[r * stride + i], or
// data[i * stride + r] when `as_columns`. Calls tile(rows, block) for each block and each group of
// kRows of m rows. The last group repeats row m - 1: a tile reads its part of C before it writes
// it.
template <int64_t kRows, class Tile>
void for_each_tile(const GemmOperand& thin, bool as_columns, int64_t count, int64_t length,
                   int64_t m, const Tile& tile) {
  alignas(64) float transposed[8 * kBlock];
  for (int64_t begin = 0; begin < length; begin += kBlock) {
    ThinBlock block = {thin.data + begin, thin.stride, begin, std::min(kBlock, length - begin)};
    const auto transpose = [&](auto rows) {
      for (int64_t i = 0; i < block.length; ++i) {
        const float* from = thin.data + (begin + i) * thin.stride;
        for (int64_t r = 0; r < rows; ++r) transposed[r * kBlock + i] = from[r];
      }
      block = {transposed, kBlock, begin, block.length};
    };
    if (as_columns && count == 8) {
      transpose(std::integral_constant<int64_t, 8>());
    } else if (as_columns) {
      transpose(count);
    }
#pragma omp parallel for schedule(static) if (m * block.length >= kParallelElements) \
    firstprivate(tile, block)
    for (int64_t row = 0; row < m; row += kRows) {
      std::array<int64_t, kRows> rows;
      for (int64_t i = 0; i < kRows; ++i) rows[i] = std::min(row + i, m - 1);
      tile(rows, block);
    }
  }
}

template <int64_t kHalf, int... lane>
FloatVector fold(FloatVector a, FloatVector b, std::integer_sequence<int, lane...>) {
  const FloatVector kept = __builtin_shufflevector(a, b, (lane & kHalf ? lane + kLanes : lane)...);
  const FloatVector crossed =
      __builtin_shufflevector(a, b, (lane & kHalf ? lane - kHalf + kLanes : lane + kHalf)...);
  return kept + crossed;
}

// Lane i of the result is the sum of vectors[i], i in [0, kLanes).
template <int64_t kHalf = kLanes / 2>
FloatVector sums_of(FloatVector* vectors) {
#pragma GCC unroll 8
  for (int64_t i = 0; i < kHalf; ++i) {
    vectors[i] =
        fold<kHalf>(vectors[i], vectors[i + kHalf], std::make_integer_sequence<int, kLanes>());
  }
  if constexpr (kHalf > 1) return sums_of<kHalf / 2>(vectors);
  return vectors[0];
}

// Lane i * kDotColumns + j: x[i] times a[j], `depth` long.
[[gnu::always_inline]] inline FloatVector dot_products(Rows<kDotRows> x, Rows<kDotColumns> a,
                                                       int64_t depth) {
  FloatVector sum[kLanes] = {};
  for (int64_t k = 0; k < depth; k += kLanes) {
    FloatVector left[kDotRows];
#pragma GCC unroll 2
    for (int64_t i = 0; i < kDotRows; ++i) left[i] = load_vector(x[i] + k);
#pragma GCC unroll 8
    for (int64_t j = 0; j < kDotColumns; ++j) {
      const FloatVector right = held_in_register(load_vector(a[j] + k));
#pragma GCC unroll 2
      for (int64_t i = 0; i < kDotRows; ++i) sum[i * kDotColumns + j] += left[i] * right;
    }
  }
  return sums_of(sum);
}

// n <= kDotColumns: vectors run along k.
void dot_gemm(float* c, int64_t c_stride, const GemmOperand& a, const GemmOperand& b,
              const GemmShape& shape, float alpha, float beta) {
  const auto tile = [=](const auto& rows, const ThinBlock& block) __attribute__((always_inline)) {
    Rows<kDotRows> x;
    Rows<kDotColumns> thin;
    for (int64_t i = 0; i < kDotRows; ++i) x[i] = a.data + rows[i] * a.stride + block.begin;
    for (int64_t j = 0; j < kDotColumns; ++j) {
      thin[j] = block.data + std::min(j, shape.n - 1) * block.stride;
    }
    FloatVector sums = alpha * dot_products(x, thin, block.length);
    const float kept = block.begin == 0 ? beta : 1.0f;
    const auto put = [&](auto columns) {
      const size_t bytes = static_cast<size_t>(columns) * sizeof(float);
      float values[kLanes] = {};
      if (kept != 0.0f) {
        for (int64_t i = 0; i < kDotRows; ++i) {
          std::memcpy(values + i * kDotColumns, c + rows[i] * c_stride, bytes);
        }
        sums += kept * load_vector(values);
      }
      store_vector(values, sums);
      for (int64_t i = 0; i < kDotRows; ++i) {
        std::memcpy(c + rows[i] * c_stride, values + i * kDotColumns, bytes);
      }
    };
    if (shape.n == kDotColumns) {
      put(std::integral_constant<int64_t, kDotColumns>());
    } else {
      put(shape.n);
    }
  };
  for_each_tile<kDotRows>(b, !b.transposed, shape.n, shape.k, shape.m, tile);
}

// k == kUpdateDepth: vectors run along n; C is read (kAdd) and written once.
template <bool kAdd>
void update_gemm(float* c, int64_t c_stride, const GemmOperand& a, const GemmOperand& b,
                 const GemmShape& shape, float alpha) {
  const auto tile = [=](const auto& rows, const ThinBlock& block) __attribute__((always_inline)) {
    float* out[kUpdateRows];
    FloatVector factor[kUpdateRows][kUpdateDepth];
#pragma GCC unroll 4
    for (int64_t i = 0; i < kUpdateRows; ++i) {
      out[i] = c + rows[i] * c_stride + block.begin;
#pragma GCC unroll 8
      for (int64_t k = 0; k < kUpdateDepth; ++k) {
        factor[i][k] = held_in_register(broadcast(alpha * a.data[rows[i] * a.stride + k]));
      }
    }
    const auto [thin, stride, begin, length] = block;
    for (int64_t j = 0; j < length; j += kLanes) {
      FloatVector sum[kUpdateRows] = {};
#pragma GCC unroll 4
      for (int64_t i = 0; kAdd && i < kUpdateRows; ++i) sum[i] = load_vector(out[i] + j);
#pragma GCC unroll 8
      for (int64_t k = 0; k < kUpdateDepth; ++k) {
        const FloatVector row = held_in_register(load_vector(thin + k * stride + j));
#pragma GCC unroll 4
        for (int64_t i = 0; i < kUpdateRows; ++i) sum[i] += factor[i][k] * row;
      }
#pragma GCC unroll 4
      for (int64_t i = 0; i < kUpdateRows; ++i) store_vector(out[i] + j, sum[i]);
    }
  };
  for_each_tile<kUpdateRows>(b, b.transposed, kUpdateDepth, shape.n, shape.m, tile);
}

// A^T B of A (k, m) and B (k, n), n <= kLanes whole row tiles, m whole vectors: formed the other
// way round, so that vectors run along m.
void transposed_gemm(float* c, int64_t c_stride, const GemmOperand& a, const GemmOperand& b,
                     const GemmShape& shape, float alpha, float beta) {
  constexpr int64_t kRows = 128;  // of C at a time: their sums stay in L1
#pragma omp parallel for schedule(static) if (shape.m * shape.k >= kParallelElements)
  for (int64_t begin = 0; begin < shape.m; begin += kRows) {
    float sums[kLanes * kRows];
    const int64_t rows = std::min(kRows, shape.m - begin);
    multiply({sums, kRows}, {b.data, 1, b.stride}, {a.data + begin, kLanes, a.stride},
             {shape.n, rows, shape.k});
    for (int64_t i = 0; i < rows; ++i) {
      float* row = c + (begin + i) * c_stride;
      for (int64_t j = 0; j < shape.n; ++j) {
        row[j] = alpha * sums[j * kRows + i] + (beta == 0.0f ? 0.0f : beta * row[j]);
      }
    }
  }
}

}  // namespace

bool thin_gemm(float* c, int64_t c_stride, const GemmOperand& a, const GemmOperand& b,
               const GemmShape& shape, float alpha, float beta) {
  const auto [m, n, k] = shape;
  const bool update = k == kUpdateDepth && n >= kLong && n % kLanes == 0;
  if (a.transposed && !b.transposed && k >= 2 * kLong && m % kLanes == 0 && n <= kLanes &&
      n % kRowTile == 0) {
    transposed_gemm(c, c_stride, a, b, shape, alpha, beta);
  } else if (a.transposed || m < kLong) {
    return false;
  } else if (0 < n && n <= kDotColumns && k >= kLong && k % kLanes == 0) {
    dot_gemm(c, c_stride, a, b, shape, alpha, beta);
  } else if (update && beta == 0.0f) {
    update_gemm<false>(c, c_stride, a, b, shape, alpha);
  } else if (update && beta == 1.0f) {
    update_gemm<true>(c, c_stride, a, b, shape, alpha);
  } else {
    return false;
  }
  return true;
}

}  // namespace rankwise::cpu
