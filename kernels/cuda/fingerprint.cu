// SPDX-License-Identifier: Apache-2.0
// Sums modulo 2^64 have no order: blocks add theirs atomically, and the result is that of the CPU.
#include "kernels/cuda/fingerprint.h"
#include "kernels/cuda/rows.cuh"
#include "kernels/cuda/tensor_list.cuh"
#include "kernels/elementwise.h"

namespace rankwise::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWordsPerBlock = 16384;

// `count` words of `bytes` bytes: 1, 2 or 4.
struct Words {
  const void* x;
  unsigned long long* hash;
  int64_t count;
  int64_t bytes;
};
using WordList = TensorList<Words, 104, kWordsPerBlock>;

// The last steps of splitmix64.
__device__ uint64_t mixed(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

template <class Word>
__device__ uint64_t sum_of(const WordList::Part& part) {
  constexpr int kPack = 16 / sizeof(Word);
  const Word* x = static_cast<const Word*>(part.item.x) + part.begin;
  const auto first = static_cast<uint64_t>(part.begin + 1);
  const int count = static_cast<int>(part.count);
  const int packs = reinterpret_cast<uintptr_t>(x) % 16 == 0 ? count / kPack : 0;
  uint64_t sum = 0;
  for (int i = threadIdx.x; i < packs; i += kThreads) {
    const auto pack = load_pack<kPack>(x + kPack * i);
#pragma unroll
    for (int k = 0; k < kPack; ++k) sum += mixed((first + kPack * i + k) << 32 | pack.v[k]);
  }
  for (int i = kPack * packs + threadIdx.x; i < count; i += kThreads) {
    sum += mixed((first + i) << 32 | x[i]);
  }
  return sum;
}

__global__ void __launch_bounds__(kThreads)
    fingerprint_kernel(const __grid_constant__ WordList list) {
  __shared__ unsigned long long shared[32];
  const auto part = list.part_of_block(static_cast<int>(blockIdx.x));
  unsigned long long sum = part.item.bytes == 1   ? sum_of<uint8_t>(part)
                           : part.item.bytes == 2 ? sum_of<uint16_t>(part)
                                                  : sum_of<uint32_t>(part);
  sum = block_sum(sum, shared);
  if (threadIdx.x == 0) atomicAdd(part.item.hash, sum);
}

}  // namespace

void fingerprint(const Tensor& hashes, std::span<const Tensor> xs, Stream& stream) {
  fill(hashes, 0.0f, stream);
  auto* hash = static_cast<unsigned long long*>(hashes.raw());
  std::vector<Words> words;
  words.reserve(xs.size());
  for (const Tensor& x : xs) {
    const int64_t bytes = bits_of(x.dtype()) / 8;
    const int64_t word = bytes < 4 ? bytes : 4;
    words.push_back({x.raw(), hash++, x.numel() * (bytes / word), word});
  }
  for_each_list<WordList>(words, [&](const WordList& list) {
    fingerprint_kernel<<<static_cast<unsigned>(list.blocks), kThreads, 0, native(stream)>>>(list);
    check_launch("fingerprint");
  });
}

}  // namespace rankwise::cuda
