// SPDX-License-Identifier: Apache-2.0
// How an operation's work is split over threads. Sums are formed over fixed chunks and then in
// chunk order, so that no result depends on the thread count.
#pragma once

#include <algorithm>
#include <cstdint>

namespace rankwise::cpu {

// Below this many elements a parallel region costs more than it saves.
inline constexpr int64_t kParallelElements = 32768;

// Equal chunks of [0, total): at least `smallest` items each, at most kMaxChunks of them.
struct FixedChunks {
  static constexpr int64_t kMaxChunks = 64;

  FixedChunks(int64_t total_items, int64_t smallest)
      : total(total_items),
        size(std::max(smallest, (total_items + kMaxChunks - 1) / kMaxChunks)),
        count((total_items + size - 1) / size) {}

  int64_t begin(int64_t chunk) const { return chunk * size; }
  int64_t end(int64_t chunk) const { return std::min(total, (chunk + 1) * size); }

  int64_t total;
  int64_t size;
  int64_t count;
};

// out (columns) += the rows of partial (count, columns), in order.
inline void add_rows(float* out, const float* partial, int64_t count, int64_t columns) {
  for (int64_t row = 0; row < count; ++row) {
#pragma omp simd
    for (int64_t c = 0; c < columns; ++c) out[c] += partial[row * columns + c];
  }
}

}  // namespace rankwise::cpu
