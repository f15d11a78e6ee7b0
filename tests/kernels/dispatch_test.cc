// SPDX-License-Identifier: Apache-2.0
#include "kernels/dispatch.h"

#include <gtest/gtest.h>

#include <array>

#include "kernels/adamw.h"
#include "kernels/attention.h"
#include "kernels/cross_entropy.h"
#include "kernels/elementwise.h"
#include "kernels/embedding.h"
#include "kernels/fingerprint.h"
#include "kernels/matmul.h"
#include "kernels/quantize.h"
#include "kernels/rank_selection.h"
#include "kernels/rms_norm.h"
#include "kernels/rope.h"
#include "kernels/swiglu.h"

namespace rankwise {
namespace {

// The memory plan of a GPU run is made where there may be no GPU, and by a build without CUDA.
TEST(Dispatch, MeasuringNeedsNoBackendOfTheDevice) {
  const Device device{DeviceKind::kCuda, 0};
  Arena arena(device, Arena::Mode::kMeasure);
  Stream stream(device, Stream::Mode::kMeasure);
  const auto f32 = [&](const Shape& shape) { return arena.allocate("x", DType::kF32, shape); };
  const auto i32 = [&](const Shape& shape) { return arena.allocate("x", DType::kI32, shape); };
  const Tensor x = f32({4, 64});
  const Tensor row = f32({64});
  const Tensor heads = f32({4, 2, 32});
  const Tensor angles = f32({4, 16});
  QuantizedTensor weight =
      allocate_nf4(MatrixSlice::all({64, 64}), true, DType::kF32, arena, "weights");

  fill(x, 1.0f, stream);
  copy(x, x, stream);
  add(x, x, stream);
  scale(x, 2.0f, stream);
  add_bias(x, row, stream);
  bias_backward(row, x, stream);
  sum_of_squares(arena.allocate("x", DType::kF64, {1}), std::array{x}, stream);
  dropout(x, x, 0.5f, Rng(1, "mask"), {0, 64}, stream);
  adamw(std::array{AdamWTensors{x, x, x, x}}, 1.0f, {}, stream);
  const Importance importance{x, x};
  adamw(std::array{AdamWTensors{x, x, x, x, importance}}, 1.0f, {}, stream);
  const Tensor scores = f32({4});
  const Tensor keep = arena.allocate("x", DType::kU8, {4});
  triplet_scores(
      scores,
      std::array{TripletImportance{importance, {scores, scores}, {f32({64, 4}), f32({64, 4})}}},
      stream);
  keep_highest(keep, scores, 2, stream);
  zero_dropped(std::array{scores}, keep, stream);
  fingerprint(arena.allocate("x", DType::kI64, {2}), std::array{keep, x}, stream);
  rms_norm(x, f32({4}), x, row, 1e-5f, stream);
  rms_norm_backward(x, row, x, x, row, f32({4}), false, stream);
  rope_tables(angles, angles, i32({4}), f32({16}), stream);
  rope(heads, heads, angles, angles, stream);
  rope_backward(heads, heads, angles, angles, {heads, heads, {row}, {row}}, stream);
  swiglu(x, x, x, stream);
  swiglu_backward({x, x, {}, {row}, {row}}, x, x, x, stream);
  column_dots({row}, x, x, x, stream);
  embedding(x, i32({4}), x, 0, stream);
  embedding_backward(x, x, i32({4}), 0, stream);
  const Tensor statistics = arena.allocate("x", DType::kF64, {1, 4, kCrossEntropyStatistics});
  cross_entropy_statistics(statistics.reshaped({4, kCrossEntropyStatistics}), x, i32({4}), {}, true,
                           stream);
  cross_entropy(x, i32({4}), statistics, {}, arena.allocate("x", DType::kF64, {3}), true, stream);
  quantize_nf4(weight, f32({64, 64}), stream);
  dequantize(f32({64, 64}), weight, stream);
  linear(x, x, weight, 0.0f, stream);
  linear_backward_input(x, x, weight, 0.0f, stream);
  linear_backward_weight(f32({64, 64}), x, x, stream);
  attention(heads, f32({2, 4}), heads, heads, heads, i32({2}), i32({2}), {}, stream);
  attention_backward(heads, heads, heads, heads, heads, heads, heads, heads, f32({2, 4}), i32({2}),
                     i32({2}), {}, stream);
  EXPECT_GT(arena.peak_bytes(), 0);
}

}  // namespace
}  // namespace rankwise
