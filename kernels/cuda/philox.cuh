// SPDX-License-Identifier: Apache-2.0
// The random numbers of runtime/rng.h drawn inside a kernel: the same bits.
#pragma once

#include <cstdint>

#include "runtime/rng.h"

namespace rankwise::cuda {

class Philox {
 public:
  explicit Philox(const Rng& rng)
      : key0_(rng.key()[0]), key1_(rng.key()[1]), step0_(rng.step()[0]), step1_(rng.step()[1]) {}

  // words[i] = Rng::bits(4 * block + i).
  __device__ void draw(uint64_t block, uint32_t (&words)[4]) const {
    words[0] = static_cast<uint32_t>(block);
    words[1] = static_cast<uint32_t>(block >> 32);
    words[2] = step0_;
    words[3] = step1_;
#pragma unroll
    for (uint32_t round = 0; round < 10; ++round) {
      const uint64_t product0 = uint64_t{0xd2511f53u} * words[0];
      const uint64_t product1 = uint64_t{0xcd9e8d57u} * words[2];
      const uint32_t key0 = key0_ + round * 0x9e3779b9u;
      const uint32_t key1 = key1_ + round * 0xbb67ae85u;
      words[0] = static_cast<uint32_t>(product1 >> 32) ^ words[1] ^ key0;
      words[2] = static_cast<uint32_t>(product0 >> 32) ^ words[3] ^ key1;
      words[1] = static_cast<uint32_t>(product1);
      words[3] = static_cast<uint32_t>(product0);
    }
  }

  // Rng::bits(index); a draw yields four of them.
  __device__ uint32_t bits(uint64_t index) const {
    uint32_t words[4];
    draw(index / 4, words);
    const uint32_t even = index & 2 ? words[2] : words[0];
    const uint32_t odd = index & 2 ? words[3] : words[1];
    return index & 1 ? odd : even;
  }

  // Rng::uniform of a word.
  __device__ static float uniform(uint32_t word) {
    return static_cast<float>(word >> 8) * 0x1p-24f;
  }

 private:
  uint32_t key0_, key1_, step0_, step1_;
};

}  // namespace rankwise::cuda
