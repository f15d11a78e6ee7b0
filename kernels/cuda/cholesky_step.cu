// SPDX-License-Identifier: Apache-2.0
// The factor of a CholeskyQR pass from the matrix [W; D], W the scaled Gram matrix and D diagonal:
// the row operations that turn W = L L^T into L turn D into D L^-T. One launch: thread blocks take
// tiles of kSide x kSide from left to right and wait for what they need of those before.
#include <algorithm>

#include "kernels/cuda/cholesky_tasks.cuh"
#include "kernels/cuda/orthonormalize.h"
#include "kernels/cuda/rows.cuh"

namespace rankwise::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kPitch = kSide + 4;  // of a tile in shared memory: rows of packs, in different banks
constexpr int kPerThread = kSide * kSide / kThreads;
// What keeps up with the chain of the diagonal's tiles; the other multiprocessors have other work.
constexpr int kBlocks = 32;
// A thread of a product has every kAcross-th row and column of a tile.
constexpr int kSub = 4, kAcross = kSide / kSub;
static_assert(kThreads == kAcross * kAcross);
// Columns that warps factorise without barriers, each beside that many rows of its own.
constexpr int kStrip = 16;
static_assert(kThreads / 32 * kStrip == 2 * kSide);

using SharedTile = float (*)[kPitch];

// The elements of a tile by threads.
template <int unrolled = kPerThread, class F>
__device__ void for_elements(F&& f) {
#pragma unroll unrolled
  for (int n = 0; n < kPerThread; ++n) {
    const int i = n * kThreads + threadIdx.x;
    f(n, i / kSide, i % kSide);
  }
}

// The thread's elements of a tile in memory; behind the edge of the matrix zeros, or ones on the
// diagonal of the tile.
__device__ void fetch(float (&to)[kPerThread], const Matrix& x, const Task& task) {
  const float* from = x.tile(task);
  const int rows = x.inside(task.row), columns = x.inside(task.column);
  const bool ones = task.is_sum();
  for_elements([&](int n, int row, int column) {
    const bool inside = row < rows && column < columns;
    to[n] = inside ? __ldcg(from + row * x.rank + column) : (ones && row == column ? 1.0f : 0.0f);
  });
}

__device__ void put(SharedTile to, const float (&from)[kPerThread]) {
  for_elements([&](int n, int row, int column) { to[row][column] = from[n]; });
}

// The part inside the matrix.
__device__ void store(const Matrix& x, const Task& task, const SharedTile from) {
  float* to = x.tile(task);
  const int rows = x.inside(task.row), columns = x.inside(task.column);
  for_elements<4>([&](int, int row, int column) {
    if (row < rows && column < columns) to[row * x.rank + column] = from[row][column];
  });
}

// The tile of W before anything was subtracted, with ones as fetch() has them, or of D. Has a
// barrier.
__device__ void make(SharedTile to, const Task& task, const Matrix& x) {
  __shared__ float d[2][kSide];
  const int64_t first_row = int64_t{task.row} * kSide, first_column = int64_t{task.column} * kSide;
  if (threadIdx.x < 2 * kSide) {
    const int place = threadIdx.x % kSide, of_column = threadIdx.x / kSide;
    const int64_t j = (of_column ? first_column : first_row) + place;
    d[of_column][place] = j < x.rank ? 1.0f / sqrtf(x.gram[j * (x.rank + 1)]) : 0.0f;
  }
  __syncthreads();
  for_elements<4>([&](int, int r, int c) {
    const int64_t row = first_row + r, column = first_column + c;
    const bool inside = row < x.rank && column < x.rank;
    float value = 0.0f;
    if (row == column) {
      value = task.of_d ? d[0][r] : (inside ? 1.0f + x.shift : 1.0f);
    } else if (!task.of_d && inside) {
      const float both = x.gram[row * x.rank + column] + x.gram[column * x.rank + row];
      value = 0.5f * both * d[0][r] * d[1][c];
    }
    to[r][c] = value;
  });
}

// sum -= left right^T, the thread's elements.
__device__ void subtract_product(float (&sum)[kSub][kSub], const SharedTile left,
                                 const SharedTile right) {
  const int tx = threadIdx.x % kAcross, ty = threadIdx.x / kAcross;
#pragma unroll 4
  for (int k = 0; k < kSide; k += 4) {
    Pack<float, 4> rows[kSub], columns[kSub];
#pragma unroll
    for (int a = 0; a < kSub; ++a) {
      rows[a] = load_pack<4>(&left[ty + a * kAcross][k]);
      columns[a] = load_pack<4>(&right[tx + a * kAcross][k]);
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) {
#pragma unroll
      for (int a = 0; a < kSub; ++a) {
#pragma unroll
        for (int b = 0; b < kSub; ++b) sum[a][b] -= rows[a].v[i] * columns[b].v[i];
      }
    }
  }
}

// own = the task's tile of [W; D] less the products of the tiles left of it with those left of the
// diagonal. `other` is room for a tile. Ends with a barrier.
__device__ void sum_up(SharedTile own, SharedTile other, const Task& task, const Matrix& x) {
  const int tx = threadIdx.x % kAcross, ty = threadIdx.x / kAcross;
  float sum[kSub][kSub], left[kPerThread], right[kPerThread];
  const auto each = [&](auto&& visit) {
#pragma unroll
    for (int a = 0; a < kSub; ++a) {
#pragma unroll
      for (int b = 0; b < kSub; ++b) visit(sum[a][b], own[ty + a * kAcross][tx + b * kAcross]);
    }
  };
  make(own, task, x);
  __syncthreads();
  each([](float& mine, float shared) { mine = shared; });
  bool is_fetched = false;
  // (tiles of D below its diagonal are zero)
  for (int k = task.of_d ? task.row : 0; k < task.column; ++k) {
    const auto of_left = [&](int of) { return Task{task.row, of, task.of_d}; };
    const auto of_right = [&](int of) { return Task{task.column, of, false}; };
    const auto fetch_both = [&](int of) {
      fetch(right, x, of_right(of));
      if (!task.is_sum()) fetch(left, x, of_left(of));
    };
    if (!is_fetched) {
      x.wait_for(of_right(k));
      x.wait_for(of_left(k));
      fetch_both(k);
    }
    __syncthreads();
    put(other, right);
    if (!task.is_sum()) put(own, left);
    __syncthreads();
    // What is there already comes while the product is made.
    const int next = k + 1;
    is_fetched = next < task.column && x.is_done(of_right(next)) && x.is_done(of_left(next));
    if (is_fetched) fetch_both(next);
    subtract_product(sum, task.is_sum() ? other : own, other);
  }
  __syncthreads();
  each([](float mine, float& shared) { shared = mine; });
  __syncthreads();
}

// Of a column of tiles: its pivots, the roots of them as used, and the tile of D as it was.
struct Panel {
  float pivots[kSide], diagonal[kSide], d[kSide];
};

// tile[.][first, first + kStrip) -= the products of the columns before with the strip's rows there.
__device__ void subtract_columns_before(SharedTile tile, int first) {
  constexpr int kRows = 2 * kSide / (kThreads / kStrip);
  const int column = first + threadIdx.x % kStrip, row = threadIdx.x / kStrip * kRows;
  float sum[kRows] = {};
  for (int k = 0; k < first; k += 4) {
    const Pack<float, 4> right = load_pack<4>(&tile[column][k]);
#pragma unroll
    for (int a = 0; a < kRows; ++a) {
      const Pack<float, 4> left = load_pack<4>(&tile[row + a][k]);
#pragma unroll
      for (int i = 0; i < 4; ++i) sum[a] += left.v[i] * right.v[i];
    }
  }
#pragma unroll
  for (int a = 0; a < kRows; ++a) tile[row + a][column] -= sum[a];
}

// The second half of `tile` becomes itself times L^-T, the first, L L^T, becomes L on and below its
// diagonal. Ends with a barrier.
__device__ void factorize(SharedTile tile, Panel& panel, float floor) {
  if (threadIdx.x < kSide) panel.d[threadIdx.x] = tile[kSide + threadIdx.x][threadIdx.x];
#pragma unroll 1
  for (int first = 0; first < kSide; first += kStrip) {
    if (first > 0) subtract_columns_before(tile, first);
    __syncthreads();
    // The lower lanes of each warp have the rows of the strip's own square, the upper ones others.
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const bool is_own = lane >= kStrip;
    float* row = tile[is_own ? (warp - 1) * kStrip + lane : first + lane] + first;
    float held[kStrip];
#pragma unroll
    for (int j = 0; j < kStrip; j += 4) {
      const Pack<float, 4> pack = load_pack<4>(row + j);
#pragma unroll
      for (int i = 0; i < 4; ++i) held[j + i] = pack.v[i];
    }
    __syncthreads();
#pragma unroll
    for (int j = 0; j < kStrip; ++j) {
      const float pivot = __shfl_sync(0xffffffffu, held[j], j);
      const float used = fmaxf(pivot, floor), inverse = rsqrtf(used);
      held[j] *= inverse;
#pragma unroll
      for (int q = j + 1; q < kStrip; ++q) {
        held[q] -= held[j] * __shfl_sync(0xffffffffu, held[j], q);
      }
      if (threadIdx.x == 0) {
        panel.pivots[first + j] = pivot;
        panel.diagonal[first + j] = used * inverse;
      }
    }
#pragma unroll
    for (int j = 0; j < kStrip; j += 4) {
      if (is_own) store_pack<4>(row + j, {held[j], held[j + 1], held[j + 2], held[j + 3]});
    }
    __syncthreads();
  }
}

// Takes the lengths of a panel's vectors and its lowest pivot; by one thread block.
__device__ void note(float* lengths, const Panel& panel, const Matrix& x, int column, bool first) {
  const int count = x.inside(column);
  float* own = lengths + int64_t{column} * kSide;
  for (int j = threadIdx.x; j < count; j += kThreads) {
    const float length = panel.diagonal[j] / panel.d[j];
    own[j] = first ? length : own[j] * length;
  }
  if (threadIdx.x != 0) return;
  float lowest = INFINITY;
  if (column > 0) {
    x.wait_for({column - 1, column - 1, true});
    lowest = __ldcg(lengths + x.rank);
  }
  for (int j = 0; j < count; ++j) {
    const bool is_nan = isnan(panel.pivots[j]) || isnan(panel.d[j]);
    lowest = is_nan ? -1.0f : fminf(lowest, panel.pivots[j]);
  }
  lengths[x.rank] = lowest;
}

__global__ void __launch_bounds__(kThreads, 2)
    cholesky(Matrix x, float* lengths, float floor, bool first) {
  __shared__ alignas(16) float tile[2 * kSide][kPitch];
  __shared__ Panel panel;
  __shared__ int number;
  const SharedTile own = tile + kSide;
  while (true) {
    // Without the first sum, which is cheap to make; the counters lie where it would.
    if (threadIdx.x == 0) number = 1 + x.taken().fetch_add(1, ::cuda::memory_order_relaxed);
    __syncthreads();
    const Task task = x.task(number), sum = {task.column, task.column, false};
    if (task.column >= x.tiles) return;
    sum_up(own, tile, task, x);
    if (!task.is_sum()) {
      if (task.column == 0) {
        make(tile, sum, x);
      } else {
        float square[kPerThread];
        x.wait_for(sum);
        fetch(square, x, sum);
        put(tile, square);
      }
      __syncthreads();
      factorize(tile, panel, floor);
      if (task.of_d && task.row == task.column) note(lengths, panel, x, task.column, first);
    }
    store(x, task, own);
    __syncthreads();
    if (threadIdx.x == 0 && x.tiles > 1) x.done(task).store(1, ::cuda::memory_order_release);
  }
}

}  // namespace

void cholesky_step(const CholeskyStep& step, Stream& stream) {
  const int64_t rank = step.rank(), tiles = ceil_div(rank, kSide);
  const Matrix x = {step.work.data<float>(), rank, static_cast<int>(tiles), step.gram.data<float>(),
                    step.shift};
  // The counters, and what is below the diagonal of D.
  const auto bytes = static_cast<size_t>(step.work.bytes());
  check(cudaMemsetAsync(x.w, 0, bytes, native(stream)), "cholesky_step");
  const auto blocks = static_cast<unsigned>(std::min(tiles * tiles, int64_t{kBlocks}));
  cholesky<<<blocks, kThreads, 0, native(stream)>>>(x, step.lengths.data<float>(), step.floor,
                                                    step.first);
  check_launch("cholesky_step");
}

}  // namespace rankwise::cuda
