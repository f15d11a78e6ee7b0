// SPDX-License-Identifier: Apache-2.0
// CPU backend of column dots, and the order of summation of all operations that form such sums.
#pragma once

#include <algorithm>
#include <array>

#include "kernels/column_dots.h"
#include "kernels/cpu/work_split.h"

namespace rankwise::cpu {

// minus may be undefined.
void column_dots(const ColumnDots& to, const Tensor& dy, const Tensor& y, const Tensor& minus,
                 Stream& stream);

// Sums over the rows of a tile and the bias (zeros where there is none), both from some column on.
struct TileDots {
  float* sums = nullptr;
  const float* bias = nullptr;

  TileDots from(int64_t column) const { return {sums + column, bias + column}; }
};

// Makes the dots that are defined, over (rows, width). add_row(row, begin, end, tile_dots) adds
// the products of columns [begin, end) of a row, whole units of `unit` columns, to the sums, which
// are those from column 0 on; it is called for undefined dots, too.
template <size_t count, class AddRow>
void sum_over_rows(const std::array<const ColumnDots*, count>& to, int64_t rows, int64_t width,
                   int64_t unit, Stream& stream, AddRow&& add_row) {
  constexpr int64_t kTileColumns = 1024;  // whose sums stay in the first-level cache
  const int64_t tile = std::max<int64_t>(1, kTileColumns / unit) * unit;
  const FixedChunks chunks(rows, 32);
  const size_t values = count * static_cast<size_t>(chunks.count * width);
  auto* const partial =
      static_cast<float*>(stream.scratch((values + static_cast<size_t>(width)) * sizeof(float)));
  float* const zeros = partial + values;  // behind partial (count, chunks, width)
  std::fill_n(zeros, width, 0.0f);
#pragma omp parallel for collapse(2) schedule(static) if (rows * width >= kParallelElements)
  for (int64_t chunk = 0; chunk < chunks.count; ++chunk) {
    for (int64_t begin = 0; begin < width; begin += tile) {
      const int64_t end = std::min(width, begin + tile);
      std::array<TileDots, count> dots;
      for (size_t i = 0; i < count; ++i) {
        const auto row = static_cast<int64_t>(i) * chunks.count + chunk;
        const Tensor& bias = to[i]->bias;
        dots[i] = {partial + row * width, bias.defined() ? bias.data<float>() : zeros};
        std::fill(dots[i].sums + begin, dots[i].sums + end, 0.0f);
      }
      for (int64_t row = chunks.begin(chunk); row < chunks.end(chunk); ++row) {
        add_row(row, begin, end, dots);
      }
    }
  }
  for (size_t i = 0; i < count; ++i) {
    if (!to[i]->defined()) continue;
    float* const out = to[i]->dots.template data<float>();
    const bool divides = to[i]->m.defined();
    float* const sums = divides ? zeros : out;
    std::fill_n(sums, width, 0.0f);
    add_rows(sums, partial + static_cast<int64_t>(i) * chunks.count * width, chunks.count, width);
    if (!divides) continue;
    const auto* m = to[i]->m.template data<float>();
    for (int64_t c = 0; c < width; ++c) {
      if (m[c] != 0.0f) out[c] += sums[c] / m[c];
    }
  }
}

}  // namespace rankwise::cpu
