// SPDX-License-Identifier: Apache-2.0
// Expected codes, scales and bytes follow from the rules of bitsandbytes 4-bit storage.
#include "kernels/quantize.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <string>
#include <vector>

#include "tests/support/kernel_harness.h"

namespace rankwise {
namespace {

using testing::expect_identical;
using testing::GuardedMemory;

// Like allocate_nf4, but every tensor lies between guard zones and is poisoned.
QuantizedTensor guarded_nf4(GuardedMemory& memory, const Shape& shape, bool double_quant) {
  QuantizedTensor q;
  q.shape = shape;
  const int64_t blocks = q.blocks();
  q.codes = memory.poisoned(DType::kU8, {(shape.numel() + 1) / 2});
  q.absmax = memory.poisoned(double_quant ? DType::kU8 : DType::kF32, {blocks});
  if (double_quant) {
    q.nested_absmax = memory.poisoned({(blocks + 255) / 256});
    q.nested_map = memory.poisoned({256});
  }
  return q;
}

QuantizedTensor quantized(GuardedMemory& memory, const Tensor& w, bool double_quant) {
  QuantizedTensor q = guarded_nf4(memory, w.shape(), double_quant);
  Stream stream;
  quantize_nf4(q, w, stream);
  return q;
}

Tensor dequantized(GuardedMemory& memory, const QuantizedTensor& q) {
  Tensor w = memory.poisoned(q.shape);
  Stream stream;
  dequantize(w, q, stream);
  return w;
}

int code_at(const QuantizedTensor& q, int64_t element) {
  const uint8_t pair = q.codes.data<uint8_t>()[element / 2];
  return element % 2 == 0 ? pair >> 4 : pair & 15;
}

std::string hex_of(const Tensor& bytes) {
  std::string out;
  for (int64_t i = 0; i < bytes.numel(); ++i) {
    out += fmt::format("{:02x}", bytes.data<uint8_t>()[i]);
  }
  return out;
}

// value[code] * scale with the scale rebuilt from its nested code, one element at a time.
float reference_value(const QuantizedTensor& q, int64_t element) {
  const int64_t block = element / q.block_size;
  float scale;
  if (q.nested()) {
    volatile float product = q.nested_map.data<float>()[q.absmax.data<uint8_t>()[block]] *
                             q.nested_absmax.data<float>()[block / 256];
    scale = product + q.nested_offset;  // volatile: two roundings, never fused
  } else {
    scale = q.absmax.data<float>()[block];
  }
  return nf4_values()[code_at(q, element)] * scale;
}

void expect_reference_values(const Tensor& w, const QuantizedTensor& q) {
  for (int64_t i = 0; i < w.numel(); ++i) {
    ASSERT_EQ(reference_value(q, i), w.data<float>()[i]) << "element " << i;
  }
}

// One block per value, whose largest magnitude is that value.
Tensor matrix_with_scales(GuardedMemory& memory, const std::vector<float>& scales) {
  const auto blocks = static_cast<int64_t>(scales.size());
  Tensor w = memory.uniform({blocks, 64}, -0.5f, 0.5f);
  for (int64_t b = 0; b < blocks; ++b) {
    float* row = w.data<float>() + b * 64;
    for (int i = 0; i < 64; ++i) row[i] *= scales[static_cast<size_t>(b)];
    row[17] = -scales[static_cast<size_t>(b)];
  }
  return w;
}

TEST(QuantizeNf4, RampGivesTheGoldenBytes) {
  GuardedMemory memory;
  Tensor w = memory.poisoned({1, 64});
  for (int i = 0; i < 64; ++i) w.data<float>()[i] = static_cast<float>(i - 32) / 32.0f;
  const QuantizedTensor q = quantized(memory, w, false);
  EXPECT_EQ(1.0f, q.absmax.data<float>()[0]);
  EXPECT_EQ("000001111111122222333344455566677788999aaabbbccccddddeeeeeeeffff", hex_of(q.codes));
}

TEST(QuantizeNf4, CentredRampGivesTheGoldenBytesAndErrors) {
  GuardedMemory memory;
  Tensor w = memory.poisoned({1, 64});
  for (int i = 0; i < 64; ++i) w.data<float>()[i] = (static_cast<float>(i) - 31.5f) / 8.0f;
  const QuantizedTensor q = quantized(memory, w, false);
  EXPECT_EQ(3.9375f, q.absmax.data<float>()[0]);
  EXPECT_EQ("00000111111112222233344445556667788899aaabbbccccddddeeeeeeefffff", hex_of(q.codes));
  const Tensor decoded = dequantized(memory, q);
  double sum = 0.0;
  double largest = 0.0;
  for (int i = 0; i < 64; ++i) {
    const double error = std::abs(w.data<float>()[i] - decoded.data<float>()[i]);
    sum += error;
    largest = std::max(largest, error);
  }
  EXPECT_NEAR(0.16222, sum / 64.0, 5e-6);
  EXPECT_NEAR(0.57124, largest, 5e-6);
}

TEST(QuantizeNf4, ThresholdsAreTheMidpointsOfNeighbouringValues) {
  for (size_t t = 0; t < 15; ++t) {
    const double middle = (static_cast<double>(nf4_values()[t]) + nf4_values()[t + 1]) / 2;
    EXPECT_FLOAT_EQ(static_cast<float>(middle), nf4_thresholds()[t]) << t;
  }
}

TEST(QuantizeNf4, ValueOnAThresholdTakesTheLowerCode) {
  GuardedMemory memory;
  Tensor w = memory.zeros({1, 64});
  w.data<float>()[63] = 1.0f;
  for (size_t t = 0; t < 15; ++t) {
    w.data<float>()[2 * t] = nf4_thresholds()[t];
    w.data<float>()[2 * t + 1] = std::nextafter(nf4_thresholds()[t], 2.0f);
  }
  const QuantizedTensor q = quantized(memory, w, false);
  for (int t = 0; t < 15; ++t) {
    EXPECT_EQ(t, code_at(q, 2 * t));
    EXPECT_EQ(t + 1, code_at(q, 2 * t + 1));
  }
}

TEST(QuantizeNf4, MultipliesByTheRoundedReciprocal) {
  // The value is chosen so that division and multiplication by the reciprocal fall on different
  // sides of a threshold.
  const float threshold = nf4_thresholds()[9];
  float scale = 1.0f;
  float value = 0.0f;
  for (scale = 1.01f; scale < 2.0f; scale = std::nextafter(scale, 3.0f)) {
    value = scale * threshold;
    if ((value / scale > threshold) != (value * (1.0f / scale) > threshold)) break;
  }
  ASSERT_LT(scale, 2.0f);
  GuardedMemory memory;
  Tensor w = memory.zeros({1, 64});
  w.data<float>()[0] = scale;
  w.data<float>()[1] = value;
  const QuantizedTensor q = quantized(memory, w, false);
  EXPECT_EQ(value * (1.0f / scale) > threshold ? 10 : 9, code_at(q, 1));
}

TEST(QuantizeNf4, AllZeroBlockHasScaleZeroAndDecodesToZero) {
  GuardedMemory memory;
  Tensor w = memory.uniform({3, 64});
  std::fill(w.data<float>() + 64, w.data<float>() + 128, 0.0f);
  for (const bool double_quant : {false, true}) {
    const QuantizedTensor q = quantized(memory, w, double_quant);
    if (!double_quant) {
      EXPECT_EQ(0.0f, q.absmax.data<float>()[1]);
    }
    const Tensor decoded = dequantized(memory, q);
    for (int i = 64; i < 128; ++i) ASSERT_EQ(0.0f, decoded.data<float>()[i]);
    for (int i = 0; i < 192; ++i) ASSERT_TRUE(std::isfinite(decoded.data<float>()[i]));
  }
}

TEST(QuantizeNf4, BlockOfTheSmallestNumbersStaysFinite) {
  GuardedMemory memory;
  Tensor w = memory.zeros({1, 64});
  w.data<float>()[3] = -1e-44f;
  const Tensor decoded = dequantized(memory, quantized(memory, w, false));
  for (int i = 0; i < 64; ++i) ASSERT_LE(std::abs(decoded.data<float>()[i]), 1.2e-38f);
}

TEST(QuantizeNf4, BlocksRunAcrossRowEndsAndMayEndShort) {
  for (const Shape& shape : {Shape{3, 50}, Shape{5, 33}, Shape{7, 97}, Shape{1, 1}, Shape{2, 96}}) {
    GuardedMemory memory;
    const Tensor w = memory.normal(shape);
    const QuantizedTensor q = quantized(memory, w, false);
    for (int64_t b = 0; b < q.blocks(); ++b) {
      float largest = 0.0f;
      for (int64_t i = b * 64; i < std::min<int64_t>(b * 64 + 64, w.numel()); ++i) {
        largest = std::max(largest, std::abs(w.data<float>()[i]));
      }
      EXPECT_EQ(largest, q.absmax.data<float>()[b]);
    }
    expect_reference_values(dequantized(memory, q), q);
  }
}

TEST(QuantizeNf4, CodesFollowTheRuleForEveryBlockSize) {
  for (const int64_t block_size : {32, 64, 128, 4096}) {
    GuardedMemory memory;
    const Tensor w = memory.normal({21, 235});
    QuantizedTensor q;
    q.shape = w.shape();
    q.block_size = block_size;
    q.codes = memory.poisoned(DType::kU8, {(w.numel() + 1) / 2});
    q.absmax = memory.poisoned({q.blocks()});
    Stream stream;
    quantize_nf4(q, w, stream);
    for (int64_t i = 0; i < w.numel(); ++i) {
      const float value = w.data<float>()[i] * (1.0f / q.absmax.data<float>()[i / block_size]);
      int code = 0;
      for (const float threshold : nf4_thresholds()) code += value > threshold ? 1 : 0;
      ASSERT_EQ(code, code_at(q, i)) << "element " << i << ", block size " << block_size;
    }
  }
}

TEST(QuantizeNf4, NonFiniteInputStaysVisible) {
  for (const float bad : {std::nanf(""), INFINITY, -INFINITY}) {
    GuardedMemory memory;
    Tensor w = memory.uniform({2, 64});
    w.data<float>()[70] = bad;
    const Tensor decoded = dequantized(memory, quantized(memory, w, false));
    EXPECT_FALSE(std::isfinite(decoded.data<float>()[70]));
    for (int i = 0; i < 64; ++i) ASSERT_TRUE(std::isfinite(decoded.data<float>()[i]));
  }
}

TEST(QuantizeNf4, OddTailIsPaddedWithTheCodeOfZero) {
  GuardedMemory memory;
  const QuantizedTensor q = quantized(memory, memory.uniform({5, 33}), false);
  EXPECT_EQ(7, q.codes.data<uint8_t>()[q.codes.numel() - 1] & 15);
}

TEST(QuantizeNf4, QuantizingTheDecodedMatrixChangesNothing) {
  GuardedMemory memory;
  const Tensor w = memory.normal({37, 83}, 0.02f);
  const QuantizedTensor once = quantized(memory, w, false);
  const QuantizedTensor twice = quantized(memory, dequantized(memory, once), false);
  expect_identical(twice.codes, once.codes);
  expect_identical(twice.absmax, once.absmax);
}

TEST(QuantizeNf4, MeanErrorOfNormalInputIsThePublishedOne) {
  GuardedMemory memory;
  const Tensor w = memory.normal({512, 512});
  const Tensor decoded = dequantized(memory, quantized(memory, w, false));
  double error = 0.0;
  for (int64_t i = 0; i < w.numel(); ++i) {
    error += std::abs(static_cast<double>(w.data<float>()[i]) - decoded.data<float>()[i]);
  }
  EXPECT_NEAR(0.0728, error / static_cast<double>(w.numel()), 0.0005);
}

TEST(DoubleQuantization, SignedDynamicMapHasTheKnownEntries) {
  const auto map = signed_dynamic_map();
  EXPECT_FLOAT_EQ(-0.99296875f, map[0]);
  EXPECT_EQ(0.0f, map[127]);
  EXPECT_FLOAT_EQ(5.5e-7f, map[128]);
  EXPECT_FLOAT_EQ(0.09859375f, map[190]);
  EXPECT_FLOAT_EQ(0.50078125f, map[219]);
  EXPECT_EQ(1.0f, map[255]);
  for (size_t i = 1; i < 256; ++i) EXPECT_LT(map[i - 1], map[i]);
  for (size_t i = 0; i < 127; ++i) EXPECT_EQ(-map[i], map[254 - i]);
}

TEST(DoubleQuantization, FourScalesGiveTheGoldenCodes) {
  GuardedMemory memory;
  const QuantizedTensor q = quantized(memory, matrix_with_scales(memory, {1, 2, 3, 4}), true);
  EXPECT_EQ(2.5f, q.nested_offset);
  EXPECT_EQ(1.5f, q.nested_absmax.data<float>()[0]);
  EXPECT_EQ("002fcfff", hex_of(q.absmax));  // 0, 47, 207, 255
  const Tensor decoded = dequantized(memory, q);
  const float restored[] = {1.0105469f, 2.0019531f, 2.9980469f, 4.0f};
  for (int b = 0; b < 4; ++b) {
    EXPECT_FLOAT_EQ(-restored[b], decoded.data<float>()[b * 64 + 17]);
  }
}

TEST(DoubleQuantization, ConstantScalesAreRestoredExactly) {
  GuardedMemory memory;
  const float scale = 0.0371f;
  const Tensor w = matrix_with_scales(memory, std::vector<float>(300, scale));
  const QuantizedTensor q = quantized(memory, w, true);
  EXPECT_EQ(scale, q.nested_offset);
  const Tensor decoded = dequantized(memory, q);
  for (int b = 0; b < 300; ++b) {
    ASSERT_EQ(127, q.absmax.data<uint8_t>()[b]);
    ASSERT_EQ(-scale, decoded.data<float>()[b * 64 + 17]);
  }
}

TEST(DoubleQuantization, EveryScaleTakesTheNearestEntry) {
  GuardedMemory memory;
  std::vector<float> scales;
  for (int b = 0; b < 600; ++b) scales.push_back(std::exp(0.01f * static_cast<float>(b % 97)));
  const QuantizedTensor q = quantized(memory, matrix_with_scales(memory, scales), true);
  ASSERT_EQ(3, q.nested_absmax.numel());
  for (int b = 0; b < 600; ++b) {
    const float group = q.nested_absmax.data<float>()[b / 256];
    const float x = (scales[static_cast<size_t>(b)] - q.nested_offset) * (1.0f / group);
    double nearest = 10.0;
    for (const float entry : signed_dynamic_map()) {
      nearest = std::min(nearest, std::abs(static_cast<double>(x) - entry));
    }
    const float taken = signed_dynamic_map()[q.absmax.data<uint8_t>()[b]];
    ASSERT_NEAR(nearest, std::abs(static_cast<double>(x) - taken), 1e-7) << b;
  }
}

TEST(DoubleQuantization, TieGoesToTheEvenEntry) {
  const auto map = signed_dynamic_map();
  int ties[2] = {0, 0};
  for (int low = 128; low < 255; ++low) {
    const float middle = (map[low] + map[low + 1]) * 0.5f;
    // Mean 1 and largest residual 1, so that the second block's residual is coded as it is.
    const std::vector<float> scales = {0.0f, 1.0f + middle, 1.0f - middle, 2.0f};
    const bool exact = scales[1] - 1.0f == middle && 1.0f - scales[2] == middle;
    if (!exact) continue;
    GuardedMemory memory;
    const QuantizedTensor q = quantized(memory, matrix_with_scales(memory, scales), true);
    ASSERT_EQ(1.0f, q.nested_offset);
    ASSERT_EQ(1.0f, q.nested_absmax.data<float>()[0]);
    EXPECT_EQ(low + low % 2, q.absmax.data<uint8_t>()[1]);
    ++ties[low % 2];
  }
  EXPECT_GE(ties[0], 3);
  EXPECT_GE(ties[1], 3);
}

TEST(DoubleQuantization, OddBlockCountsDecodeLikeTheReference) {
  for (const Shape& shape : {Shape{1, 64}, Shape{257, 64}, Shape{513, 64}, Shape{333, 77}}) {
    GuardedMemory memory;
    const Tensor w = memory.normal(shape, 0.05f);
    const QuantizedTensor q = quantized(memory, w, true);
    expect_reference_values(dequantized(memory, q), q);
  }
}

TEST(Dequantize, RowsEqualTheSliceOfTheWholeMatrix) {
  for (const int64_t in : {64, 100, 33, 7, 192}) {
    for (const bool double_quant : {false, true}) {
      GuardedMemory memory;
      const Tensor w = memory.normal({29, in});
      const QuantizedTensor q = quantized(memory, w, double_quant);
      const Tensor whole = dequantized(memory, q);
      Stream stream;
      for (const auto& [begin, end] : {std::pair{0, 1}, {3, 11}, {28, 29}, {5, 5}, {0, 29}}) {
        Tensor rows = memory.poisoned({end - begin, in});
        dequantize_rows(rows, q, begin, end, stream);
        expect_identical(rows, whole.rows(begin, end));
      }
    }
  }
}

TEST(Dequantize, AcceptsOtherBlockSizesAndMaps) {
  // Weights written by others may have larger blocks and a map that differs in the last bits.
  GuardedMemory memory;
  QuantizedTensor q;
  q.shape = {40, 60};
  q.block_size = 256;
  q.codes = memory.zeros(DType::kU8, {1200});
  q.absmax = memory.zeros(DType::kU8, {10});
  for (int i = 0; i < 1200; ++i) q.codes.data<uint8_t>()[i] = static_cast<uint8_t>(i * 37);
  for (int i = 0; i < 10; ++i) q.absmax.data<uint8_t>()[i] = static_cast<uint8_t>(i * 25);
  q.nested_absmax = memory.of<float>({1}, {0.3f});
  q.nested_map = memory.uniform({256});
  q.nested_offset = 0.7f;
  expect_reference_values(dequantized(memory, q), q);
}

TEST(AllocateNf4, TakesTheBytesOfTheFormat) {
  Arena arena(Device{}, Arena::Mode::kMeasure);
  const QuantizedTensor single =
      allocate_nf4(MatrixSlice::all({4096, 4096}), false, DType::kBF16, arena, "weights");
  const QuantizedTensor nested =
      allocate_nf4(MatrixSlice::all({4096, 4096}), true, DType::kBF16, arena, "weights");
  const double numel = 4096.0 * 4096.0;
  EXPECT_DOUBLE_EQ(4.5, 8.0 * static_cast<double>(single.bytes()) / numel);
  EXPECT_NEAR(4.126953, 8.0 * static_cast<double>(nested.bytes()) / numel, 1e-6);
  EXPECT_EQ(DType::kBF16, nested.source_dtype);
  EXPECT_FALSE(single.nested());
}

TEST(QuantizeNf4, MeasuringStreamTouchesNothing) {
  Arena arena(Device{}, Arena::Mode::kMeasure);
  Stream stream(Device{}, Stream::Mode::kMeasure);
  QuantizedTensor q = allocate_nf4(MatrixSlice::all({64, 64}), true, DType::kF32, arena, "weights");
  const Tensor w = arena.allocate("weights", DType::kF32, {64, 64});
  quantize_nf4(q, w, stream);
  dequantize(w, q, stream);
}

TEST(QuantizeNf4DeathTest, WrongShapesAndTypesAbortWithTheirNames) {
  GuardedMemory memory;
  Stream stream;
  QuantizedTensor q = guarded_nf4(memory, {4, 64}, false);
  EXPECT_DEATH(quantize_nf4(q, memory.zeros({4, 63}), stream), "quantize_nf4: w has shape");
  EXPECT_DEATH(quantize_nf4(q, memory.zeros(DType::kI32, {4, 64}), stream), "w is I32");
  const Tensor w = memory.zeros({4, 64});
  EXPECT_DEATH(dequantize_rows(w, q, 1, 5, stream), "rows");
  q.absmax = memory.zeros({3});
  EXPECT_DEATH(dequantize(w, q, stream), "absmax has shape");
}

}  // namespace
}  // namespace rankwise
