// SPDX-License-Identifier: Apache-2.0
// Scores of triplets by partial sums of fixed chunks, the highest of them by a radix select in one
// thread block, which keeps the decision on the device.
#include "kernels/cuda/rank_selection.h"
#include "kernels/cuda/rows.cuh"
#include "kernels/cuda/tensor_list.cuh"

namespace rankwise::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kRowsPerPart = 512;  // of b

// Sensitivity s and uncertainty u of one matrix.
struct Averages {
  const float* s;
  const float* u;
  __device__ float at(int64_t i) const { return s[i] * u[i]; }
};

// sums (1 + parts, rank): of the rows of a, then of the columns of b within each part of its rows.
// A thread block sums one row of a or one part of b: `count` of them.
struct Module {
  Averages a, e, b;
  float* sums;
  float* scores;
  int64_t in, out, rank;
  int64_t count;
};
using ModuleList = TensorList<Module, 39, 1>;

int64_t parts_of(int64_t out) { return ceil_div(out, kRowsPerPart); }

Averages averages_of(const Importance& importance) {
  return {importance.sensitivity.data<float>(), importance.uncertainty.data<float>()};
}

__device__ void sum_row(float* sum, const Averages& x, int64_t begin, int64_t count,
                        float* shared) {
  const float* s = x.s + begin;
  const float* u = x.u + begin;
  const bool aligned = (reinterpret_cast<uintptr_t>(s) | reinterpret_cast<uintptr_t>(u)) % 16 == 0;
  const int64_t packs = aligned ? count / 4 : 0;
  float total = 0.0f;
#pragma unroll 4
  for (int64_t i = threadIdx.x; i < packs; i += kThreads) {
    const auto ss = load_pack<4>(s + 4 * i);
    const auto us = load_pack<4>(u + 4 * i);
#pragma unroll
    for (int k = 0; k < 4; ++k) total += ss.v[k] * us.v[k];
  }
  for (int64_t i = 4 * packs + threadIdx.x; i < count; i += kThreads) total += s[i] * u[i];
  total = block_sum(total, shared);
  if (threadIdx.x == 0) *sum = total;
}

// The threads lie along the columns and, while they suffice, along several rows.
__device__ void sum_columns(float* sums, const Averages& x, int64_t begin, int64_t end,
                            int64_t width, float* shared) {
  for (int64_t first = 0; first < width; first += kThreads) {
    const int columns = static_cast<int>(min(width - first, int64_t{kThreads}));
    const int groups = kThreads / columns;
    const int group = threadIdx.x / columns;
    const int column = threadIdx.x % columns;
    float total = 0.0f;
    if (group < groups) {
#pragma unroll 4
      for (int64_t row = begin + group; row < end; row += groups) {
        total += x.at(row * width + first + column);
      }
    }
    shared[threadIdx.x] = total;
    __syncthreads();
    if (threadIdx.x < columns) {
      for (int g = 1; g < groups; ++g) total += shared[g * columns + column];
      sums[first + column] = total;
    }
    __syncthreads();
  }
}

__global__ void __launch_bounds__(kThreads) sum_parts(const __grid_constant__ ModuleList list) {
  __shared__ float shared[kThreads];
  const auto place = list.part_of_block(static_cast<int>(blockIdx.x));
  const Module& item = place.item;
  const int64_t rank = item.rank;
  if (place.begin < rank) {
    sum_row(item.sums + place.begin, item.a, place.begin * item.in, item.in, shared);
  } else {
    const int64_t part = place.begin - rank;
    const int64_t end = min(item.out, (part + 1) * kRowsPerPart);
    sum_columns(item.sums + (1 + part) * rank, item.b, part * kRowsPerPart, end, rank, shared);
  }
}

// Block m: the scores of module m.
__global__ void __launch_bounds__(kThreads) add_parts(const __grid_constant__ ModuleList list) {
  const Module& item = list.items[blockIdx.x];
  const int64_t parts = item.count - item.rank;
  for (int64_t i = threadIdx.x; i < item.rank; i += kThreads) {
    float of_b = 0.0f;
    for (int64_t part = 1; part <= parts; ++part) of_b += item.sums[part * item.rank + i];
    item.scores[i] = item.e.at(i) + (item.sums[i] / static_cast<float>(item.in) +
                                     of_b / static_cast<float>(item.out));
  }
}

constexpr int kSelectThreads = 1024;
constexpr int kDigits = 256;

// Distinct numbers, ordered as the scores and, where these are equal, against their indices.
__device__ uint64_t order_of(float score, int64_t index) {
  const uint32_t bits = __float_as_uint(score);
  const uint32_t ordered = bits >> 31 != 0 ? ~bits : bits | 0x80000000u;
  return uint64_t{ordered} << 32 | (0xffffffffu - static_cast<uint32_t>(index));
}

// Where the wanted number lies: its digit, the numbers with a higher and with the same digit.
struct Found {
  int digit;
  int above;
  int same;
};

// By the first warp. The digits of the wanted-th highest of all counted numbers.
__device__ void find_digit(Found* found, const int* histogram, int wanted) {
  constexpr int kPerLane = kDigits / 32;
  const int lane = threadIdx.x;
  const int highest = kDigits - 1 - lane * kPerLane;
  int sum = 0;
  for (int k = 0; k < kPerLane; ++k) sum += histogram[highest - k];
  int through = sum;
  for (int offset = 1; offset < 32; offset *= 2) {
    const int before = __shfl_up_sync(0xffffffffu, through, offset);
    if (lane >= offset) through += before;
  }
  int above = through - sum;
  if (above >= wanted || through < wanted) return;
  int digit = highest;
  while (above + histogram[digit] < wanted) above += histogram[digit--];
  *found = {digit, above, histogram[digit]};
}

__global__ void __launch_bounds__(kSelectThreads)
    keep_highest_kernel(uint8_t* keep, const float* __restrict__ scores, int n, int count) {
  __shared__ int histogram[kDigits];
  __shared__ Found found;
  uint64_t lowest_kept = 0;  // its higher digits
  int wanted = count;        // among the numbers with these digits
  for (int shift = 56; shift >= 0; shift -= 8) {
    if (threadIdx.x < kDigits) histogram[threadIdx.x] = 0;
    __syncthreads();
    for (int64_t first = 0; first < n; first += kSelectThreads) {
      const int64_t i = first + threadIdx.x;
      const uint64_t order = i < n ? order_of(scores[i], i) : 0;
      const bool counts = i < n && ((order ^ lowest_kept) >> shift >> 8) == 0;
      const int digit = counts ? static_cast<int>(order >> shift) & (kDigits - 1) : kDigits;
      // Scores share their exponents: one addition for all equal digits of a warp.
      const unsigned equal = __match_any_sync(0xffffffffu, digit);
      if (counts && __ffs(equal) - 1 == threadIdx.x % 32) {
        atomicAdd(&histogram[digit], __popc(equal));
      }
    }
    __syncthreads();
    if (threadIdx.x < 32) find_digit(&found, histogram, wanted);
    __syncthreads();
    lowest_kept |= static_cast<uint64_t>(found.digit) << shift;
    wanted -= found.above;
    if (found.same == wanted) break;  // all of them are kept, whatever follows
  }
  for (int64_t i = threadIdx.x; i < n; i += kSelectThreads) {
    keep[i] = order_of(scores[i], i) >= lowest_kept;
  }
}

struct Masked {
  float* x;
  const uint8_t* keep;
  int64_t count;
};
using MaskedList = TensorList<Masked, 128, kThreads>;

__global__ void __launch_bounds__(kThreads) zero_kernel(const __grid_constant__ MaskedList list) {
  const auto part = list.part_of_block(static_cast<int>(blockIdx.x));
  if (threadIdx.x >= part.count) return;
  const int64_t i = part.begin + threadIdx.x;
  if (part.item.keep[i] == 0) part.item.x[i] = 0.0f;
}

}  // namespace

void triplet_scores(const Tensor& scores, std::span<const TripletImportance> modules,
                    Stream& stream) {
  int64_t sums = 0;
  for (const TripletImportance& module : modules) {
    sums += module.rank() * (1 + parts_of(module.b.sensitivity.dim(0)));
  }
  auto* next_sums = static_cast<float*>(stream.scratch(static_cast<size_t>(sums) * sizeof(float)));
  if (stream.measuring()) return;
  float* next_scores = scores.data<float>();
  std::vector<Module> items;
  items.reserve(modules.size());
  for (const TripletImportance& module : modules) {
    const int64_t rank = module.rank();
    if (rank == 0) continue;
    const int64_t out = module.b.sensitivity.dim(0);
    const int64_t parts = parts_of(out);
    items.push_back({averages_of(module.a), averages_of(module.e), averages_of(module.b), next_sums,
                     next_scores, module.a.sensitivity.dim(1), out, rank, rank + parts});
    next_sums += rank * (1 + parts);
    next_scores += rank;
  }
  for_each_list<ModuleList>(items, [&](const ModuleList& list) {
    sum_parts<<<static_cast<unsigned>(list.blocks), kThreads, 0, native(stream)>>>(list);
    check_launch("triplet_scores");
    add_parts<<<static_cast<unsigned>(list.tensors), kThreads, 0, native(stream)>>>(list);
    check_launch("triplet_scores");
  });
}

void keep_highest(const Tensor& keep, const Tensor& scores, int64_t count, Stream& stream) {
  keep_highest_kernel<<<1, kSelectThreads, 0, native(stream)>>>(
      keep.data<uint8_t>(), scores.data<float>(), static_cast<int>(scores.numel()),
      static_cast<int>(count));
  check_launch("keep_highest");
}

void zero_dropped(std::span<const Tensor> xs, const Tensor& keep, Stream& stream) {
  std::vector<Masked> items;
  items.reserve(xs.size());
  const uint8_t* kept = keep.data<uint8_t>();
  for (const Tensor& x : xs) {
    items.push_back({x.data<float>(), kept, x.numel()});
    kept += x.numel();
  }
  for_each_list<MaskedList>(items, [&](const MaskedList& list) {
    zero_kernel<<<static_cast<unsigned>(list.blocks), kThreads, 0, native(stream)>>>(list);
    check_launch("zero_dropped");
  });
}

}  // namespace rankwise::cuda
