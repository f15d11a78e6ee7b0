// SPDX-License-Identifier: Apache-2.0
// The factor of a CholeskyQR pass from the matrix [W; D], W the scaled Gram matrix and D diagonal:
// the row operations that turn W = L L^T into L turn D into D L^-T. Panel by panel of kSide
// columns: the panel, then what is right of it.
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/orthonormalize.h"
#include "kernels/cuda/rows.cuh"

namespace rankwise::cuda {
namespace {

constexpr int kSide = 64;  // rows and columns of a tile
constexpr int kThreads = 256;
constexpr int kPitch = kSide + 1;  // of a tile in shared memory
// A thread of `factor_panel` holds every second column of its row.
constexpr int kHeld = kSide / 2;
static_assert(kThreads == 4 * kSide);

// W above D (2 rank, rank). Tiles of W are named by their row and column; those of D too, with rows
// counted from its beginning.
struct Matrix {
  float* w;
  int64_t rank;

  __device__ float* tile(bool of_d, int row, int column) const {
    return w + ((of_d ? rank : 0) + int64_t{row} * kSide) * rank + int64_t{column} * kSide;
  }
  // Rows or columns of tile `i` inside the matrix.
  __device__ int inside(int i) const {
    return static_cast<int>(min(int64_t{kSide}, rank - int64_t{i} * kSide));
  }
};

// Behind the edge of the matrix: zeros, or ones on the diagonal of the tile.
__device__ void load_tile(float (*to)[kPitch], const float* from, int64_t stride, int rows,
                          int columns, bool ones) {
  for (int i = threadIdx.x; i < kSide * kSide; i += kThreads) {
    const int row = i / kSide, column = i % kSide;
    const bool inside = row < rows && column < columns;
    to[row][column] = inside ? from[row * stride + column] : (ones && row == column ? 1.0f : 0.0f);
  }
}

// The step of a panel touches as many rows of tiles as W has: those of D up to the panel, as behind
// it D is zero there, and those of W behind the panel.
__device__ bool is_of_d(int block_row, int panel) { return block_row <= panel; }

__global__ void __launch_bounds__(kThreads) scale_gram(Matrix x, const float* gram, float shift) {
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i >= x.rank * x.rank) return;
  const int64_t row = i / x.rank, column = i % x.rank;
  const float d = 1.0f / sqrtf(gram[row * (x.rank + 1)]);
  const float other = 1.0f / sqrtf(gram[column * (x.rank + 1)]);
  const float product = 0.5f * (gram[i] + gram[column * x.rank + row]);
  x.w[i] = row == column ? 1.0f + shift : product * d * other;
  x.w[x.rank * x.rank + i] = row == column ? d : 0.0f;
}

// Takes the lengths of a panel's vectors and its lowest pivot; by one thread block. `diagonal`:
// roots of the pivots as used; `d`: the panel's tile of D as it was.
__device__ void note_panel(float* lengths, const float* pivots, const float* diagonal,
                           const float* d, const Matrix& x, int panel, bool first) {
  const int count = x.inside(panel);
  float* own = lengths + int64_t{panel} * kSide;
  for (int j = threadIdx.x; j < count; j += kThreads) {
    const float length = diagonal[j] / d[j];
    own[j] = first ? length : own[j] * length;
  }
  if (threadIdx.x != 0) return;
  float lowest = panel == 0 ? INFINITY : lengths[x.rank];
  for (int j = 0; j < count; ++j) {
    lowest = isnan(pivots[j]) || isnan(d[j]) ? -1.0f : fminf(lowest, pivots[j]);
  }
  lengths[x.rank] = lowest;
}

// Block b: the tile of row b in the panel's columns becomes itself times L^-T of the panel's tile
// of W, which every block factorises for itself beside its own tile and leaves in memory as it is.
__global__ void __launch_bounds__(kThreads)
    factor_panel(Matrix x, float* lengths, int panel, float floor, bool first) {
  __shared__ float tile[2 * kSide][kPitch];
  __shared__ float column[2][2 * kSide];
  // Its first half, even rows before odd ones: what a thread needs lies together.
  __shared__ Pack<float, 4> factors[2][2][kHeld / 4];
  __shared__ float pivots[kSide], diagonal[kSide], d[kSide];
  const int block_row = static_cast<int>(blockIdx.x);
  const bool of_d = is_of_d(block_row, panel);
  float* own = x.tile(of_d, block_row, panel);
  const int columns = x.inside(panel), rows = x.inside(block_row);
  load_tile(tile, x.tile(false, panel, panel), x.rank, columns, columns, true);
  load_tile(tile + kSide, own, x.rank, rows, columns, false);
  __syncthreads();
  const int row = threadIdx.x % (2 * kSide), odd = threadIdx.x / (2 * kSide);
  if (threadIdx.x < kSide) d[threadIdx.x] = tile[kSide + threadIdx.x][threadIdx.x];
  float held[kHeld];
#pragma unroll
  for (int q = 0; q < kHeld; ++q) held[q] = tile[row][2 * q + odd];
#pragma unroll
  for (int j = 0; j < kSide; ++j) {
    // Two buffers by turns: one barrier per column keeps readers and writers apart.
    float* now = column[j % 2];
    if (odd == j % 2) {
      now[row] = held[j / 2];
      if (row < kSide) factors[j % 2][row % 2][row / 8].v[row / 2 % 4] = held[j / 2];
    }
    __syncthreads();
    const float pivot = now[j];
    const float used = fmaxf(pivot, floor), inverse = rsqrtf(used);
    const float value = now[row] * inverse;
    if (odd == j % 2) held[j / 2] = value;
    if (threadIdx.x == 0) {
      pivots[j] = pivot;
      diagonal[j] = used * inverse;
    }
    const float factor = value * inverse;
#pragma unroll
    for (int pack = j / 8; pack < kHeld / 4; ++pack) {
      const Pack<float, 4> others = factors[j % 2][odd][pack];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int q = 4 * pack + i;
        if (2 * q + odd > j) held[q] -= factor * others.v[i];
      }
    }
  }
#pragma unroll
  for (int q = 0; q < kHeld; ++q) tile[row][2 * q + odd] = held[q];
  __syncthreads();
  for (int i = threadIdx.x; i < kSide * kSide; i += kThreads) {
    const int r = i / kSide, c = i % kSide;
    if (r < rows && c < columns) own[r * x.rank + c] = tile[kSide + r][c];
  }
  if (block_row == panel) note_panel(lengths, pivots, diagonal, d, x, panel, first);
}

// Tile (b, j) -= tile (b, panel) times the transpose of W's tile (j, panel), for the tiles j behind
// the panel; of W only those on and below the diagonal. 4 x 4 elements per thread.
__global__ void __launch_bounds__(kThreads) update_right_of(Matrix x, int panel) {
  constexpr int kSub = 4, kAcross = kSide / kSub;
  __shared__ float left[kSide][kPitch], right[kSide][kPitch];
  const int block_row = static_cast<int>(blockIdx.y);
  const int block_column = panel + 1 + static_cast<int>(blockIdx.x);
  const bool of_d = is_of_d(block_row, panel);
  if (!of_d && block_row < block_column) return;
  const int rows = x.inside(block_row), columns = x.inside(block_column);
  load_tile(left, x.tile(of_d, block_row, panel), x.rank, rows, kSide, false);
  load_tile(right, x.tile(false, block_column, panel), x.rank, columns, kSide, false);
  __syncthreads();
  const int tx = threadIdx.x % kAcross, ty = threadIdx.x / kAcross;
  float sum[kSub][kSub] = {};
#pragma unroll 8
  for (int k = 0; k < kSide; ++k) {
#pragma unroll
    for (int a = 0; a < kSub; ++a) {
#pragma unroll
      for (int b = 0; b < kSub; ++b) {
        sum[a][b] += left[ty + a * kAcross][k] * right[tx + b * kAcross][k];
      }
    }
  }
  float* own = x.tile(of_d, block_row, block_column);
  for (int a = 0; a < kSub; ++a) {
    for (int b = 0; b < kSub; ++b) {
      const int r = ty + a * kAcross, c = tx + b * kAcross;
      if (r < rows && c < columns) own[r * x.rank + c] -= sum[a][b];
    }
  }
}

__global__ void __launch_bounds__(kThreads)
    check_lengths_kernel(float* failed, const float* lengths, int64_t rank) {
  __shared__ float shared[32];
  float longest = 0.0f;
  for (int64_t j = threadIdx.x; j < rank; j += kThreads) longest = fmaxf(longest, lengths[j]);
  longest = block_reduce(longest, 0.0f, shared, [](float a, float b) { return fmaxf(a, b); });
  // Comparisons that are false for NaN.
  float bad = lengths[rank] >= kLowestPivot ? 0.0f : 1.0f;
  for (int64_t j = threadIdx.x; j < rank; j += kThreads) {
    if (!(lengths[j] > kShortest * longest)) bad = 1.0f;
  }
  bad = block_sum(bad, shared);
  if (threadIdx.x == 0) *failed = bad > 0.0f ? 1.0f : 0.0f;
}

__global__ void __launch_bounds__(kThreads)
    copy_unless_failed_kernel(float* to, const float* from, const float* failed, int64_t count) {
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i < count && *failed == 0.0f) to[i] = from[i];
}

// N elements per thread, at the end one after the other.
template <int N>
__global__ void __launch_bounds__(kThreads)
    split_in_halves_kernel(bf16* high, bf16* low, const float* x, int64_t count) {
  const auto move = [&]<int M>(Constant<M>, int64_t i) {
    const Pack<float, M> values = load_pack<M>(x + i);
    Pack<bf16, M> above, below;
#pragma unroll
    for (int k = 0; k < M; ++k) {
      above.v[k] = __float2bfloat16_rn(values.v[k]);
      below.v[k] = __float2bfloat16_rn(values.v[k] - __bfloat162float(above.v[k]));
    }
    store_pack(high + i, above);
    store_pack(low + i, below);
  };
  const int64_t begin = (int64_t{blockIdx.x} * kThreads + threadIdx.x) * N;
  if (begin + N <= count) return move(Constant<N>(), begin);
  for (int64_t i = begin; i < count; ++i) move(Constant<1>(), i);
}

unsigned blocks_for(int64_t count) { return static_cast<unsigned>(ceil_div(count, kThreads)); }

}  // namespace

void cholesky_step(const CholeskyStep& step, Stream& stream) {
  const int64_t rank = step.rank();
  const int tiles = static_cast<int>(ceil_div(rank, kSide));
  const Matrix x = {step.work.data<float>(), rank};
  auto* lengths = step.lengths.data<float>();
  scale_gram<<<blocks_for(rank * rank), kThreads, 0, native(stream)>>>(x, step.gram.data<float>(),
                                                                       step.shift);
  check_launch("cholesky_step");
  for (int panel = 0; panel < tiles; ++panel) {
    factor_panel<<<static_cast<unsigned>(tiles), kThreads, 0, native(stream)>>>(
        x, lengths, panel, step.floor, step.first);
    check_launch("cholesky_step");
    if (panel + 1 == tiles) break;
    const dim3 grid(static_cast<unsigned>(tiles - panel - 1), static_cast<unsigned>(tiles));
    update_right_of<<<grid, kThreads, 0, native(stream)>>>(x, panel);
    check_launch("cholesky_step");
  }
}

void check_lengths(const Tensor& failed, const Tensor& lengths, Stream& stream) {
  check_lengths_kernel<<<1, kThreads, 0, native(stream)>>>(
      failed.data<float>(), lengths.data<float>(), lengths.numel() - 1);
  check_launch("check_lengths");
}

void split_in_halves(const Tensor& high, const Tensor& low, const Tensor& x, Stream& stream) {
  const bool aligned =
      is_aligned(high.raw(), 8) && is_aligned(low.raw(), 8) && is_aligned(x.raw(), 16);
  with_pack<4>(aligned, [&]<int N>(Constant<N>) {
    split_in_halves_kernel<N><<<blocks_for(ceil_div(x.numel(), N)), kThreads, 0, native(stream)>>>(
        address<bf16>(high), address<bf16>(low), x.data<float>(), x.numel());
  });
  check_launch("split_in_halves");
}

void copy_unless_failed(const Tensor& to, const Tensor& from, const Tensor& failed,
                        Stream& stream) {
  copy_unless_failed_kernel<<<blocks_for(to.numel()), kThreads, 0, native(stream)>>>(
      to.data<float>(), from.data<float>(), failed.data<float>(), to.numel());
  check_launch("copy_unless_failed");
}

}  // namespace rankwise::cuda
