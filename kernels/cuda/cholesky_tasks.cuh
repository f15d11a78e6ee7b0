// SPDX-License-Identifier: Apache-2.0
// The matrix of a Cholesky factor by tiles, and the tasks that thread blocks take from each other.
#pragma once

#include <cuda/atomic>

#include "kernels/cuda/launch.cuh"

namespace rankwise::cuda {

constexpr int kSide = 64;  // rows and columns of a tile

using Counter = ::cuda::atomic_ref<int, ::cuda::thread_scope_device>;

// A tile to be computed: of L, below the diagonal of W; on it, of what L's tile is the factor of;
// or of the factor, on and above the diagonal of D, with rows counted from its beginning.
struct Task {
  int row, column;
  bool of_d;

  __device__ bool is_sum() const { return !of_d && row == column; }
};

// W above D (2 rank, rank), zeros at first, and, in W's first rows, of which no tile is kept, what
// the blocks know of each other: the number of tasks taken, and for each whether it is done.
struct Matrix {
  float* w;
  int64_t rank;
  int tiles;
  const float* gram;
  float shift;

  __device__ float* tile(const Task& task) const {
    return w + ((task.of_d ? rank : 0) + int64_t{task.row} * kSide) * rank +
           int64_t{task.column} * kSide;
  }
  // Rows or columns of tile `i` inside the matrix.
  __device__ int inside(int i) const {
    return static_cast<int>(min(int64_t{kSide}, rank - int64_t{i} * kSide));
  }
  // By columns, each from the diagonal of W down and then from the top of D. All that a task waits
  // for has a lower number, so that a block that runs has taken it: however few of the blocks run
  // at a time, none waits for one that does not. The numbers end with the column behind the last.
  __device__ Task task(int number) const {
    const int column = number / (tiles + 1), place = number % (tiles + 1);
    const int of_w = tiles - column;
    const bool of_d = place >= of_w;
    return {of_d ? place - of_w : column + place, column, of_d};
  }
  __device__ Counter taken() const { return Counter(*reinterpret_cast<int*>(w)); }
  __device__ Counter done(const Task& task) const {
    const int place = (task.of_d ? tiles : 0) + task.row - task.column;
    return Counter(reinterpret_cast<int*>(w)[1 + task.column * (tiles + 1) + place]);
  }
  __device__ bool is_done(const Task& task) const {
    return done(task).load(::cuda::memory_order_acquire) != 0;
  }
  __device__ void wait_for(const Task& task) const {
    while (!is_done(task)) __nanosleep(20);
  }
};

}  // namespace rankwise::cuda
