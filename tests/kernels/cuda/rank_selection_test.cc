// SPDX-License-Identifier: Apache-2.0
// Scores on a GPU against the CPU; choices of the same scores are equal bit by bit.
#include "kernels/rank_selection.h"

#include <gtest/gtest.h>

#include <array>
#include <limits>

#include "tests/support/device_memory.h"

namespace rankwise {
namespace {

using testing::expect_identical;
using testing::expect_near;

struct Bench : testing::Backends {
  struct Both {
    Importance host, gpu;
  };
  Both importance(const Shape& shape, bool aligned) {
    // All but the first row, so that an odd width gives odd addresses.
    const Shape longer =
        shape.rank() == 1 ? Shape{shape.dim(0) + 1} : Shape{shape.dim(0) + 1, shape.dim(1)};
    Both both;
    const auto fill = [&](Tensor& host, Tensor& gpu_copy) {
      host = memory.uniform(aligned ? shape : longer, 0.0f, 1.0f);
      gpu_copy = device.copy_of(host);
      if (aligned) return;
      host = host.rows(1, longer.dim(0));
      gpu_copy = gpu_copy.rows(1, longer.dim(0));
    };
    fill(both.host.sensitivity, both.gpu.sensitivity);
    fill(both.host.uncertainty, both.gpu.uncertainty);
    return both;
  }
  void expect_equal_choice(const Tensor& scores, int64_t count) {
    const int64_t n = scores.numel();
    const Tensor expected = memory.poisoned(DType::kU8, {n});
    keep_highest(expected, scores, count, cpu);
    const Tensor keep = device.poisoned(DType::kU8, {n});
    keep_highest(keep, device.copy_of(scores), count, gpu);
    expect_identical(device.to_host(keep, memory), expected);
  }
};

TEST(CudaRankSelection, ScoresAgreeForModulesOfAnyShape) {
  RW_REQUIRE_GPU();
  Bench bench;
  std::vector<TripletImportance> on_cpu;
  std::vector<TripletImportance> on_gpu;
  int64_t triplets = 0;
  constexpr std::array<std::array<int64_t, 3>, 6> kShapes{
      {{1, 1, 1}, {3, 700, 513}, {8, 4096, 1031}, {17, 129, 512}, {64, 1024, 1537}, {300, 33, 65}}};
  for (size_t m = 0; m < 90; ++m) {  // more than one launch takes
    const auto [rank, in, out] = kShapes[m % kShapes.size()];
    const bool aligned = m / kShapes.size() % 2 == 0;
    const auto a = bench.importance({rank, in}, aligned);
    const auto e = bench.importance({rank}, aligned);
    const auto b = bench.importance({out, rank}, aligned);
    on_cpu.push_back({a.host, e.host, b.host});
    on_gpu.push_back({a.gpu, e.gpu, b.gpu});
    triplets += rank;
  }
  const Tensor expected = bench.memory.poisoned({triplets});
  const Tensor scores = bench.device.poisoned(DType::kF32, {triplets});
  triplet_scores(expected, on_cpu, bench.cpu);
  triplet_scores(scores, on_gpu, bench.gpu);
  const Tensor once = bench.device.to_host(scores, bench.memory);
  expect_near(once, expected, 2e-6);
  triplet_scores(scores, on_gpu, bench.gpu);
  expect_identical(bench.device.to_host(scores, bench.memory), once);
}

TEST(CudaRankSelection, ChoiceIsThatOfTheCpu) {
  RW_REQUIRE_GPU();
  for (const int64_t n : {1, 31, 1024, 1025, 14336, 100000}) {
    Bench bench;
    const Tensor different = bench.memory.uniform({n}, 0.0f, 1e-3f);
    const Tensor few = bench.memory.uniform({n}, -2.0f, 3.0f);
    for (float& score : testing::GuardedMemory::elements(few)) score = std::floor(score);
    const Tensor equal = bench.memory.zeros({n});
    const Tensor infinite = bench.memory.copy_of(different);
    infinite.data<float>()[n / 2] = std::numeric_limits<float>::infinity();
    for (const int64_t count : {int64_t{0}, int64_t{1}, n / 3, n - 1, n}) {
      SCOPED_TRACE(fmt::format("{} of {}", count, n));
      for (const Tensor& scores : {different, few, equal, infinite}) {
        bench.expect_equal_choice(scores, count);
      }
    }
  }
}

TEST(CudaRankSelection, ZeroesWhatIsDroppedInManyTensors) {
  RW_REQUIRE_GPU();
  Bench bench;
  std::vector<Tensor> on_cpu;
  std::vector<Tensor> on_gpu;
  int64_t elements = 0;
  for (size_t i = 0; i < 300; ++i) {
    const int64_t rank = std::array{1, 8, 300, 256}[i % 4];
    on_cpu.push_back(bench.memory.normal({rank, 1}));
    on_gpu.push_back(bench.device.copy_of(on_cpu.back()));
    elements += rank;
  }
  const Tensor keep = bench.memory.poisoned(DType::kU8, {elements});
  keep_highest(keep, bench.memory.normal({elements}), elements / 2, bench.cpu);
  zero_dropped(on_cpu, keep, bench.cpu);
  zero_dropped(on_gpu, bench.device.copy_of(keep), bench.gpu);
  for (size_t i = 0; i < on_cpu.size(); ++i) {
    expect_identical(bench.device.to_host(on_gpu[i], bench.memory), on_cpu[i]);
  }
}

}  // namespace
}  // namespace rankwise
