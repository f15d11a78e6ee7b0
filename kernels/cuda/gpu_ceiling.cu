// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <deque>
#include <vector>

#include "kernels/cuda/elementwise.h"
#include "kernels/cuda/gpu_ceiling.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/matmul.h"
#include "runtime/arena.h"
#include "runtime/event.h"

namespace rankwise::cuda {
namespace {

constexpr int64_t kCopyBytes = int64_t{448} << 20;

// Median over `runs` after as many unmeasured ones: clocks and power have settled by then.
template <class F>
double median_seconds(Stream& stream, int runs, F&& work) {
  for (int i = 0; i < runs; ++i) work();
  std::deque<Event> marks;
  marks.emplace_back(stream.device()).record(stream);
  for (int i = 0; i < runs; ++i) {
    work();
    marks.emplace_back(stream.device()).record(stream);
  }
  marks.back().wait();
  std::vector<double> seconds;
  for (size_t i = 0; i + 1 < marks.size(); ++i) {
    seconds.push_back(Event::seconds_between(marks[i], marks[i + 1]));
  }
  std::nth_element(seconds.begin(), seconds.begin() + runs / 2, seconds.end());
  return seconds[static_cast<size_t>(runs / 2)];
}

// Random data: on zeros a GPU draws less power and clocks higher.
double product_tflops(DType dtype, int64_t n, int runs, Stream& stream) {
  Arena arena(stream.device());
  const Tensor a = arena.allocate("ceiling", dtype, {n, n});
  const Tensor b = arena.allocate("ceiling", dtype, {n, n});
  const Tensor c = arena.allocate("ceiling", dtype, {n, n});
  cuda::fill_normal(a, 0.0f, 1.0f, Rng(1, "ceiling.a"), stream);
  cuda::fill_normal(b, 0.0f, 1.0f, Rng(1, "ceiling.b"), stream);
  const double seconds =
      median_seconds(stream, runs, [&] { cuda::matmul(c, a, b, {.transpose_b = true}, stream); });
  const auto size = static_cast<double>(n);
  return 2.0 * size * size * size / seconds / 1e12;
}

double copy_tb_per_s(Stream& stream) {
  Arena arena(stream.device());
  const Tensor from = arena.allocate("ceiling", DType::kU8, {kCopyBytes});
  const Tensor to = arena.allocate("ceiling", DType::kU8, {kCopyBytes});
  cuda::fill_random_bytes(from, Rng(1, "ceiling.copy"), stream);
  const double seconds = median_seconds(stream, 20, [&] { cuda::copy(to, from, stream); });
  return 2.0 * static_cast<double>(kCopyBytes) / seconds / 1e12;
}

}  // namespace

GpuCeiling measure_gpu_ceiling(Stream& stream) {
  GpuCeiling out;
  out.bf16_tflops = product_tflops(DType::kBF16, 8192, 150, stream);
  out.fp32_tflops = product_tflops(DType::kF32, 4096, 15, stream);
  out.copy_tb_per_s = copy_tb_per_s(stream);
  stream.synchronize();
  return out;
}

}  // namespace rankwise::cuda
