// SPDX-License-Identifier: Apache-2.0
// Softmax cross-entropy on CUDA, one block per row:
//   loss = log(sum_j e^(x_j - max)) + max - x_target
//   gradient_j = e^(x_j - max) / sum - [j = target]
// One pass finds maximum and sum together (a thread scales its sum whenever its maximum grows);
// after those of all ranks are combined, a second one, backwards because the end of the logits is
// what the cache still holds, writes the gradient.
#include <cfloat>
#include <climits>

#include "kernels/cuda/cross_entropy.h"
#include "kernels/cuda/rows.cuh"

namespace rankwise::cuda {
namespace {

constexpr int kThreads = 512;
constexpr int kUnroll = 4;  // packs that a thread loads at once

// e^x; the rounding of bf16 hides the error of the approximation, and that tiny results become 0.
template <class T>
__device__ float exponential(float x) {
  if constexpr (sizeof(T) == sizeof(float)) {
    return expf(x);
  } else {
    constexpr float kLog2E = 1.44269504f;
    float result;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x * kLog2E));
    return result;
  }
}

// A row of any alignment: `head` single elements, aligned packs, single elements to the end. The
// packs are walked in batches, in each of which a thread owns kUnroll of them.
template <class T>
struct SplitRow {
  static constexpr int kPack = kPackSize<T>;
  static constexpr int kBatch = kThreads * kUnroll;

  __device__ SplitRow(T* row, int count) : data(row), width(count) {
    const auto past = static_cast<int>(reinterpret_cast<uintptr_t>(row) % 16);
    head = min(width, static_cast<int>((16 - past) % 16 / sizeof(T)));
    packs = (width - head) / kPack;
  }
  __device__ int batches() const { return (packs + kBatch - 1) / kBatch; }
  __device__ static int pack_index(int batch, int i) {
    return batch * kBatch + i * kThreads + threadIdx.x;
  }
  // Column of the first element of a pack.
  __device__ int column_of(int pack) const { return head + pack * kPack; }
  // f(column) for the single elements of this thread, in ascending order.
  template <class F>
  __device__ void for_singles(F&& f) const {
    if (threadIdx.x < head) f(threadIdx.x);
    const int column = column_of(packs) + threadIdx.x;
    if (column < width) f(column);
  }

  T* data;
  int width, head, packs;
};

// Of the elements that a thread has seen. The maximum begins at a finite value, so that elements of
// -infinity add 0.
struct RunningSoftmax {
  float maximum = -FLT_MAX;
  float sum = 0.0f;      // of e^(x - maximum)
  int column = INT_MAX;  // lowest with the maximum
};

// N neighbouring elements, the first at `column`.
template <class T, int N>
__device__ void take(RunningSoftmax& r, const Pack<T, N>& x, int column) {
  float largest = to_float(x.v[0]);
#pragma unroll
  for (int k = 1; k < N; ++k) largest = fmaxf(largest, to_float(x.v[k]));
  if (largest >= r.maximum) {
    int lowest = column;
#pragma unroll
    for (int k = N - 1; k >= 0; --k) {
      if (to_float(x.v[k]) == largest) lowest = column + k;
    }
    r.column = largest > r.maximum ? lowest : min(r.column, lowest);
    r.sum *= exponential<T>(r.maximum - largest);
    r.maximum = largest;
  }
#pragma unroll
  for (int k = 0; k < N; ++k) r.sum += exponential<T>(to_float(x.v[k]) - r.maximum);
}

// The packs of this thread in one batch, loaded at once.
template <class T>
struct Batch {
  static constexpr int kPack = kPackSize<T>;

  __device__ Batch(const SplitRow<T>& row, int batch) {
#pragma unroll
    for (int i = 0; i < kUnroll; ++i) {
      const int pack = row.pack_index(batch, i);
      if (pack < row.packs) packs[i] = load_pack<kPack>(row.data + row.column_of(pack));
    }
  }
  Pack<T, kPack> packs[kUnroll];
};

template <class T>
__device__ RunningSoftmax softmax_of_row(const SplitRow<T>& row) {
  RunningSoftmax own;
  row.for_singles([&](int column) { take(own, Pack<T, 1>{{row.data[column]}}, column); });
  for (int batch = 0; batch < row.batches(); ++batch) {
    const Batch<T> x(row, batch);
#pragma unroll
    for (int i = 0; i < kUnroll; ++i) {
      const int pack = row.pack_index(batch, i);
      if (pack < row.packs) take(own, x.packs[i], row.column_of(pack));
    }
  }
  __shared__ float shared_floats[32];
  __shared__ int shared_columns[32];
  RunningSoftmax all;
  all.maximum = block_reduce(own.maximum, all.maximum, shared_floats,
                             [](float a, float b) { return fmaxf(a, b); });
  all.sum = block_sum(own.sum * exponential<T>(own.maximum - all.maximum), shared_floats);
  all.column = block_reduce(own.maximum == all.maximum ? own.column : INT_MAX, INT_MAX,
                            shared_columns, [](int a, int b) { return min(a, b); });
  return all;
}

// A row of the tensor of statistics.
struct RowStatistics {
  double maximum, sum, of_target, hit;
};
static_assert(sizeof(RowStatistics) == kCrossEntropyStatistics * sizeof(double));

// -1 when the target is not one of the columns [first, first + width).
__device__ int column_of_target(int32_t target, int64_t first, int width) {
  const int64_t column = target - first;
  return column >= 0 && column < width ? static_cast<int>(column) : -1;
}

template <class T>
__global__ void __launch_bounds__(kThreads, 2)
    find_statistics(RowStatistics* statistics, Rows<T> logits, const int32_t* targets,
                    int64_t first, int width) {
  const int64_t t = blockIdx.x;
  if (targets[t] < 0) {
    if (threadIdx.x == 0) statistics[t] = {0.0, 0.0, 0.0, 0.0};
    return;
  }
  const SplitRow<T> row(logits[t], width);
  const int target = column_of_target(targets[t], first, width);
  const float of_target = target < 0 ? -INFINITY : to_float(row.data[target]);
  const RunningSoftmax softmax = softmax_of_row(row);
  if (threadIdx.x != 0) return;
  statistics[t] = {softmax.maximum, softmax.sum, of_target, softmax.column == target ? 1.0 : 0.0};
}

// Of the whole vocabulary; `first` are the statistics of the first rank, those of the next one lie
// `rows` later. Of equal maxima the first rank's counts: it has the lowest columns.
__device__ RowStatistics combined(const RowStatistics* first, int ranks, int64_t rows) {
  RowStatistics all = first[0];
  for (int r = 1; r < ranks; ++r) {
    const RowStatistics& other = first[r * rows];
    if (other.maximum > all.maximum) {
      all.maximum = other.maximum;
      all.hit = other.hit;
    }
    all.of_target = fmax(all.of_target, other.of_target);
  }
  all.sum = 0.0;
  for (int r = 0; r < ranks; ++r) {
    all.sum += first[r * rows].sum * exp(first[r * rows].maximum - all.maximum);
  }
  return all;
}

struct alignas(8) RowSoftmax {
  float maximum;
  float factor;  // 1 / sum
};

// One block: every thread adds its rows in order. Rows that are ignored get no softmax.
__global__ void __launch_bounds__(kThreads)
    combine_rows(double* sums, RowSoftmax* softmax, const RowStatistics* __restrict__ statistics,
                 const int32_t* __restrict__ targets, int ranks, int64_t rows) {
  __shared__ double shared[32];
  double loss = 0.0, count = 0.0, hits = 0.0;
  for (int64_t t = threadIdx.x; t < rows; t += kThreads) {
    if (targets[t] < 0) continue;
    const RowStatistics all = combined(statistics + t, ranks, rows);
    softmax[t] = {static_cast<float>(all.maximum), 1.0f / static_cast<float>(all.sum)};
    loss += log(all.sum) + (all.maximum - all.of_target);
    count += 1.0;
    hits += all.hit;
  }
  loss = block_sum(loss, shared);
  count = block_sum(count, shared);
  hits = block_sum(hits, shared);
  if (threadIdx.x != 0) return;
  sums[0] += loss;
  sums[1] += count;
  sums[2] += hits;
}

// target: a column of the row, or -1.
template <class T>
__device__ void write_gradient_row(const SplitRow<T>& row, const RowSoftmax& softmax, int target) {
  constexpr int kPack = kPackSize<T>;
  const auto gradient = [&](T x) {
    return exponential<T>(to_float(x) - softmax.maximum) * softmax.factor;
  };
  row.for_singles([&](int column) {
    const float onehot = column == target ? 1.0f : 0.0f;
    row.data[column] = from_float<T>(gradient(row.data[column]) - onehot);
  });
  for (int batch = row.batches() - 1; batch >= 0; --batch) {
    Batch<T> x(row, batch);
#pragma unroll
    for (int i = 0; i < kUnroll; ++i) {
      const int pack = row.pack_index(batch, i);
      if (pack >= row.packs) break;
      float value[kPack];
#pragma unroll
      for (int k = 0; k < kPack; ++k) value[k] = gradient(x.packs[i].v[k]);
      const int in_pack = target - row.column_of(pack);
      if (0 <= in_pack && in_pack < kPack) {
#pragma unroll
        for (int k = 0; k < kPack; ++k) value[k] -= k == in_pack ? 1.0f : 0.0f;
      }
#pragma unroll
      for (int k = 0; k < kPack; ++k) x.packs[i].v[k] = from_float<T>(value[k]);
      store_pack(row.data + row.column_of(pack), x.packs[i]);
    }
  }
}

template <class T>
__device__ void clear_row(const SplitRow<T>& row) {
  constexpr int kPack = kPackSize<T>;
  row.for_singles([&](int column) { row.data[column] = from_float<T>(0.0f); });
  Pack<T, kPack> zero;
#pragma unroll
  for (int k = 0; k < kPack; ++k) zero.v[k] = from_float<T>(0.0f);
  for (int pack = threadIdx.x; pack < row.packs; pack += kThreads) {
    store_pack(row.data + row.column_of(pack), zero);
  }
}

template <class T>
__global__ void __launch_bounds__(kThreads, 2)
    write_gradients(Rows<T> logits, const RowSoftmax* __restrict__ softmax, const int32_t* targets,
                    int64_t first, int width) {
  const int64_t t = gridDim.x - 1 - blockIdx.x;
  const SplitRow<T> row(logits[t], width);
  if (targets[t] < 0) {
    clear_row(row);
  } else {
    write_gradient_row(row, softmax[t], column_of_target(targets[t], first, width));
  }
}

RowStatistics* rows_of_statistics(const Tensor& statistics) {
  return reinterpret_cast<RowStatistics*>(statistics.data<double>());
}

}  // namespace

void cross_entropy_statistics(const Tensor& statistics, const Tensor& logits, const Tensor& targets,
                              const VocabularySlice& slice, Stream& stream) {
  if (logits.numel() == 0) return;
  for_element_type(logits.dtype(), [&]<class T>(T*) {
    find_statistics<T><<<static_cast<unsigned>(logits.dim(0)), kThreads, 0, native(stream)>>>(
        rows_of_statistics(statistics), rows_of<T>(logits), address<int32_t>(targets), slice.first,
        static_cast<int>(logits.dim(1)));
  });
  check_launch("cross_entropy_statistics");
}

void cross_entropy(const Tensor& logits, const Tensor& targets, const Tensor& statistics,
                   const VocabularySlice& slice, const Tensor& sums, bool write_gradient,
                   Stream& stream) {
  const int64_t rows = logits.dim(0);
  if (logits.numel() == 0) return;
  auto* softmax =
      static_cast<RowSoftmax*>(stream.scratch(static_cast<size_t>(rows) * sizeof(RowSoftmax)));
  if (stream.measuring()) return;
  combine_rows<<<1, kThreads, 0, native(stream)>>>(
      address<double>(sums), softmax, rows_of_statistics(statistics), address<int32_t>(targets),
      static_cast<int>(statistics.dim(0)), rows);
  check_launch("cross_entropy");
  if (!write_gradient) return;
  for_element_type(logits.dtype(), [&]<class T>(T*) {
    write_gradients<T><<<static_cast<unsigned>(rows), kThreads, 0, native(stream)>>>(
        rows_of<T>(logits), softmax, address<int32_t>(targets), slice.first,
        static_cast<int>(logits.dim(1)));
  });
  check_launch("cross_entropy");
}

}  // namespace rankwise::cuda
