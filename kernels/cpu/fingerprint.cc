// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/fingerprint.h"

#include "kernels/cpu/work_split.h"

namespace rankwise::cpu {
namespace {

// The last steps of splitmix64.
uint64_t mixed(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

// Of words of at most 32 bits.
template <class Word>
uint64_t hash_of(const void* x, int64_t words) {
  const auto* word = static_cast<const Word*>(x);
  uint64_t sum = 0;
#pragma omp parallel for reduction(+ : sum) schedule(static) if (words >= kParallelElements)
  for (int64_t i = 0; i < words; ++i) {
    sum += mixed(static_cast<uint64_t>(i + 1) << 32 | word[i]);
  }
  return sum;
}

uint64_t hash_of(const Tensor& x) {
  const int bits = bits_of(x.dtype());
  if (bits == 8) return hash_of<uint8_t>(x.raw(), x.numel());
  if (bits == 16) return hash_of<uint16_t>(x.raw(), x.numel());
  return hash_of<uint32_t>(x.raw(), x.numel() * (bits / 32));
}

}  // namespace

void fingerprint(const Tensor& hashes, std::span<const Tensor> xs) {
  for (size_t i = 0; i < xs.size(); ++i) {
    hashes.data<int64_t>()[i] = static_cast<int64_t>(hash_of(xs[i]));
  }
}

}  // namespace rankwise::cpu
