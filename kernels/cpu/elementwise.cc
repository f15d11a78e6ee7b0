// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/elementwise.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "kernels/cpu/work_split.h"

namespace rankwise::cpu {

void fill(const Tensor& x, float value) {
  if (value == 0.0f) {
    std::memset(x.raw(), 0, static_cast<size_t>(x.bytes()));
  } else {
    std::fill_n(x.data<float>(), x.numel(), value);
  }
}

void copy(const Tensor& y, const Tensor& x) {
  std::memmove(y.raw(), x.raw(), static_cast<size_t>(x.bytes()));
}

void add(const Tensor& y, const Tensor& x) {
  const int64_t count = x.numel();
  float* out = y.data<float>();
  const float* in = x.data<float>();
#pragma omp parallel for simd schedule(static) if (parallel : count >= kParallelElements)
  for (int64_t i = 0; i < count; ++i) out[i] += in[i];
}

void scale(const Tensor& x, float factor) {
  const int64_t count = x.numel();
  float* values = x.data<float>();
#pragma omp parallel for simd schedule(static) if (parallel : count >= kParallelElements)
  for (int64_t i = 0; i < count; ++i) values[i] *= factor;
}

void add_bias(const Tensor& y, const Tensor& bias) {
  const int64_t rows = y.dim(0);
  const int64_t width = y.dim(1);
  const float* in = bias.data<float>();
#pragma omp parallel for schedule(static) if (rows * width >= kParallelElements)
  for (int64_t t = 0; t < rows; ++t) {
    float* out = y.data<float>() + t * width;
#pragma omp simd
    for (int64_t c = 0; c < width; ++c) out[c] += in[c];
  }
}

void bias_backward(const Tensor& dbias, const Tensor& dy, Stream& stream) {
  const int64_t width = dy.dim(1);
  const FixedChunks chunks(dy.dim(0), 64);
  const size_t values = static_cast<size_t>(chunks.count * width);
  float* partial = static_cast<float*>(stream.scratch(values * sizeof(float)));  // (chunks, C)
  std::fill_n(partial, values, 0.0f);
#pragma omp parallel for schedule(static) if (dy.numel() >= kParallelElements)
  for (int64_t chunk = 0; chunk < chunks.count; ++chunk) {
    add_rows(partial + chunk * width, dy.data<float>() + chunks.begin(chunk) * width,
             chunks.end(chunk) - chunks.begin(chunk), width);
  }
  add_rows(dbias.data<float>(), partial, chunks.count, width);
}

void sum_of_squares(const Tensor& sum, const Tensor& x) {
  const FixedChunks chunks(x.numel(), 4096);
  const float* in = x.data<float>();
  std::array<double, FixedChunks::kMaxChunks> partial{};
#pragma omp parallel for schedule(static) if (x.numel() >= kParallelElements)
  for (int64_t chunk = 0; chunk < chunks.count; ++chunk) {
    double squares = 0.0;
#pragma omp simd reduction(+ : squares)
    for (int64_t i = chunks.begin(chunk); i < chunks.end(chunk); ++i) {
      squares += static_cast<double>(in[i]) * static_cast<double>(in[i]);
    }
    partial[static_cast<size_t>(chunk)] = squares;
  }
  double total = 0.0;
  for (const double value : partial) total += value;
  *sum.data<double>() += total;
}

namespace {

constexpr int64_t kDrawBlocks = 64;  // Philox blocks, of four words each, that are drawn together

// words = Rng::bits(4 * first_block + i): the generator of runtime/rng.h over many blocks at once,
// in a form that becomes vector code.
void draw(std::array<uint32_t, 4 * kDrawBlocks>& words, const Rng& rng, uint64_t first_block) {
  constexpr uint64_t kMultiplier0 = 0xd2511f53u;
  constexpr uint64_t kMultiplier1 = 0xcd9e8d57u;
  constexpr uint32_t kWeyl0 = 0x9e3779b9u;
  constexpr uint32_t kWeyl1 = 0xbb67ae85u;
  const std::array<uint32_t, 2> key = rng.key();
  const std::array<uint32_t, 2> step = rng.step();
  uint32_t* out = words.data();
#pragma omp simd
  for (int64_t i = 0; i < kDrawBlocks; ++i) {
    const uint64_t block = first_block + static_cast<uint64_t>(i);
    uint32_t word0 = static_cast<uint32_t>(block);
    uint32_t word1 = static_cast<uint32_t>(block >> 32);
    uint32_t word2 = step[0];
    uint32_t word3 = step[1];
#pragma GCC unroll 10
    for (uint32_t round = 0; round < 10; ++round) {
      const uint64_t product0 = kMultiplier0 * word0;
      const uint64_t product1 = kMultiplier1 * word2;
      word0 = static_cast<uint32_t>(product1 >> 32) ^ word1 ^ (key[0] + round * kWeyl0);
      word2 = static_cast<uint32_t>(product0 >> 32) ^ word3 ^ (key[1] + round * kWeyl1);
      word1 = static_cast<uint32_t>(product1);
      word3 = static_cast<uint32_t>(product0);
    }
    out[4 * i] = word0;
    out[4 * i + 1] = word1;
    out[4 * i + 2] = word2;
    out[4 * i + 3] = word3;
  }
}

}  // namespace

void dropout(const Tensor& y, const Tensor& x, float p, const Rng& rng, const MaskPlace& place) {
  constexpr int64_t kWords = 4 * kDrawBlocks;
  // Whole rows are neighbours in the stream of random numbers: one long row.
  const int64_t width = x.dim(1) == place.width ? x.numel() : x.dim(1);
  const int64_t draws = (3 + width + kWords - 1) / kWords;  // of a row, wherever it begins
  const int64_t rows = width == 0 ? 0 : x.numel() / width;
  const float factor = 1.0f / (1.0f - p);
#pragma omp parallel for collapse(2) schedule(static) if (x.numel() >= kParallelElements)
  for (int64_t t = 0; t < rows; ++t) {
    for (int64_t d = 0; d < draws; ++d) {
      const float* in = x.data<float>() + t * width;
      float* out = y.data<float>() + t * width;
      const uint64_t first = place.first + static_cast<uint64_t>(t * place.width);
      std::array<uint32_t, kWords> words;
      draw(words, rng, first / 4 + static_cast<uint64_t>(d * kDrawBlocks));
      const int64_t origin = d * kWords - static_cast<int64_t>(first % 4);  // element of words[0]
      const int64_t begin = std::max<int64_t>(0, origin);
      const int64_t end = std::min(width, origin + kWords);
      const uint32_t* word = words.data() + (begin - origin);
#pragma omp simd
      for (int64_t i = begin; i < end; ++i) {
        const float uniform = static_cast<float>(word[i - begin] >> 8) * 0x1p-24f;
        out[i] = uniform >= p ? in[i] * factor : 0.0f;
      }
    }
  }
}

void fill_random_bytes(const Tensor& x, const Rng& rng) {
  constexpr int64_t kWords = 4 * kDrawBlocks;
  const int64_t count = x.numel();
  uint8_t* out = x.data<uint8_t>();
#pragma omp parallel for schedule(static) if (count >= kParallelElements)
  for (int64_t begin = 0; begin < count; begin += kWords) {
    std::array<uint32_t, kWords> words;
    draw(words, rng, static_cast<uint64_t>(begin / 4));
    const int64_t end = std::min(count, begin + kWords);
    for (int64_t i = begin; i < end; ++i) {
      out[i] = static_cast<uint8_t>(words[static_cast<size_t>(i - begin)]);
    }
  }
}

}  // namespace rankwise::cpu
