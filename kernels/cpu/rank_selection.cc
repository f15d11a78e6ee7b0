// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/rank_selection.h"

#include <algorithm>
#include <bit>
#include <functional>
#include <vector>

namespace rankwise::cpu {
namespace {

void score_module(float* scores, const TripletImportance& module) {
  const int64_t rank = module.rank();
  const int64_t in = module.a.sensitivity.dim(1);
  const int64_t out = module.b.sensitivity.dim(0);
  std::vector<double> of_b(static_cast<size_t>(rank), 0.0);
  double* sums = of_b.data();
  for (int64_t k = 0; k < out; ++k) {
    const float* sensitivity = module.b.sensitivity.data<float>() + k * rank;
    const float* uncertainty = module.b.uncertainty.data<float>() + k * rank;
#pragma omp simd
    for (int64_t i = 0; i < rank; ++i) {
      sums[i] += static_cast<double>(sensitivity[i] * uncertainty[i]);
    }
  }
  for (int64_t i = 0; i < rank; ++i) {
    const float* sensitivity = module.a.sensitivity.data<float>() + i * in;
    const float* uncertainty = module.a.uncertainty.data<float>() + i * in;
    double sum = 0.0;
#pragma omp simd reduction(+ : sum)
    for (int64_t j = 0; j < in; ++j) sum += static_cast<double>(sensitivity[j] * uncertainty[j]);
    const float of_e =
        module.e.sensitivity.data<float>()[i] * module.e.uncertainty.data<float>()[i];
    scores[i] = of_e + (static_cast<float>(sum / static_cast<double>(in)) +
                        static_cast<float>(sums[i] / static_cast<double>(out)));
  }
}

// Distinct numbers, ordered as the scores and, where these are equal, against their indices.
uint64_t order_of(float score, int64_t index) {
  const auto bits = std::bit_cast<uint32_t>(score);
  const uint32_t ordered = bits >> 31 != 0 ? ~bits : bits | 0x80000000u;
  return uint64_t{ordered} << 32 | (0xffffffffu - static_cast<uint32_t>(index));
}

}  // namespace

void triplet_scores(const Tensor& scores, std::span<const TripletImportance> modules) {
  std::vector<int64_t> first;
  int64_t next = 0;
  for (const TripletImportance& module : modules) {
    first.push_back(next);
    next += module.rank();
  }
#pragma omp parallel for schedule(dynamic)
  for (size_t m = 0; m < modules.size(); ++m) {
    score_module(scores.data<float>() + first[m], modules[m]);
  }
}

void keep_highest(const Tensor& keep, const Tensor& scores, int64_t count) {
  const float* score = scores.data<float>();
  std::vector<uint64_t> order(static_cast<size_t>(scores.numel()));
  for (size_t i = 0; i < order.size(); ++i) order[i] = order_of(score[i], static_cast<int64_t>(i));
  std::vector<uint64_t> sorted = order;
  const auto lowest_kept = sorted.begin() + (count - 1);
  std::nth_element(sorted.begin(), lowest_kept, sorted.end(), std::greater<>());
  for (size_t i = 0; i < order.size(); ++i) keep.data<uint8_t>()[i] = order[i] >= *lowest_kept;
}

void zero_dropped(std::span<const Tensor> xs, const Tensor& keep) {
  const uint8_t* kept = keep.data<uint8_t>();
  for (const Tensor& x : xs) {
    for (int64_t i = 0; i < x.numel(); ++i) {
      if (kept[i] == 0) x.data<float>()[i] = 0.0f;
    }
    kept += x.numel();
  }
}

}  // namespace rankwise::cpu
