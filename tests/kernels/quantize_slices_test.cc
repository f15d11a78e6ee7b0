// SPDX-License-Identifier: Apache-2.0
// A slice of an NF4 matrix has the codes and scales of the whole, however it is made.
#include <gtest/gtest.h>

#include <cstring>
#include <utility>

#include "kernels/matmul.h"
#include "tests/kernels/nf4_slices.h"
#include "tests/support/slice_nf4.h"

namespace rankwise {
namespace {

using testing::copy_of;
using testing::description_of;
using testing::expect_close;
using testing::expect_identical;
using testing::guarded;
using testing::GuardedMemory;
using testing::kSlicedShapes;
using testing::slice_of;
using testing::slices_of;
using testing::WholeNf4;

int code_at(const Tensor& codes, int64_t element) {
  const uint8_t pair = codes.data<uint8_t>()[element / 2];
  return element % 2 == 0 ? pair >> 4 : pair & 15;
}

// Runs test(whole, slice) for every slice of every shape, with and without double quantisation.
template <class Test>
void for_each_slice(const Test& test) {
  for (const Shape& shape : kSlicedShapes) {
    for (const bool double_quant : {false, true}) {
      WholeNf4 whole(shape, double_quant);
      for (const MatrixSlice& slice : slices_of(shape)) {
        SCOPED_TRACE(description_of(slice) + (double_quant ? " double" : " single"));
        test(whole, slice);
      }
    }
  }
}

// Index in the flattened whole of element (row, column) of the slice.
int64_t place(const MatrixSlice& slice, int64_t row, int64_t column) {
  return slice.first() + row * slice.in() + column;
}

// Items of `part` are those of `whole` from `first` to `last`.
void expect_items(const Tensor& part, const Tensor& whole, int64_t first, int64_t last) {
  expect_identical(part, whole.rows(first, last + 1));
}

void expect_equal(const QuantizedTensor& q, const QuantizedTensor& expected) {
  expect_identical(q.absmax, expected.absmax);
  ASSERT_EQ(q.nested(), expected.nested());
  if (!q.nested()) return;
  EXPECT_EQ(q.nested_offset, expected.nested_offset);
  expect_identical(q.nested_absmax, expected.nested_absmax);
  expect_identical(q.nested_map, expected.nested_map);
}

TEST(SliceNf4, HasTheCodesAndScalesOfTheWhole) {
  for_each_slice([](WholeNf4& whole, const MatrixSlice& slice) {
    const QuantizedTensor part = whole.slice(slice);
    const int64_t rows = slice.shape().dim(0), width = slice.shape().dim(1);
    ASSERT_EQ(part.shape, slice.shape());
    EXPECT_EQ(part.source_dtype, DType::kBF16);
    for (int64_t row = 0; row < rows; ++row) {
      for (int64_t column = 0; column < width; ++column) {
        ASSERT_EQ(code_at(part.codes, row * width + column),
                  code_at(whole.q.codes, place(slice, row, column)));
      }
    }
    if (rows * width % 2 != 0) {
      EXPECT_EQ(7, code_at(part.codes, rows * width));
    }
    const int64_t first = place(slice, 0, 0) / 64, last = place(slice, rows - 1, width - 1) / 64;
    expect_items(part.absmax, whole.q.absmax, first, last);
    if (!part.nested()) return;
    expect_items(part.nested_absmax, whole.q.nested_absmax, first / 256, last / 256);
    expect_identical(part.nested_map, whole.q.nested_map);
    EXPECT_EQ(part.nested_offset, whole.q.nested_offset);
  });
}

TEST(SliceNf4, DecodesToTheSliceOfTheDecodedWhole) {
  for_each_slice([](WholeNf4& whole, const MatrixSlice& slice) {
    const QuantizedTensor part = whole.slice(slice);
    const Tensor expected = copy_of(whole.decoded(whole.q), slice, whole.memory);
    expect_identical(whole.decoded(part), expected);
    const int64_t rows = part.shape.dim(0);
    for (const auto& [begin, end] : {std::pair{rows / 3, rows}, {rows / 2, rows / 2}, {0, 1}}) {
      const Tensor some = whole.memory.poisoned({end - begin, part.shape.dim(1)});
      dequantize_rows(some, part, begin, end, whole.cpu);
      expect_identical(some, expected.rows(begin, end));
    }
  });
}

TEST(SliceNf4, RowsAndColumnsMayBeCutAtOnce) {
  WholeNf4 whole({100, 333}, true);
  const Tensor decoded = whole.decoded(whole.q);
  for (const auto& [top, left] : {std::pair{0, 1}, {1, 0}, {77, 130}, {99, 332}}) {
    const MatrixSlice slice{{100, 333}, top, 100, left, 333};
    expect_identical(whole.decoded(whole.slice(slice)), copy_of(decoded, slice, whole.memory));
  }
}

TEST(SliceNf4, KeepsOtherBlockSizes) {
  for (const int64_t block_size : {2, 32, 96, 4096}) {
    GuardedMemory memory;
    Arena arena;
    Stream cpu;
    const Tensor w = memory.normal({40, 60});
    QuantizedTensor q;
    q.shape = w.shape();
    q.block_size = block_size;
    q.codes = memory.poisoned(DType::kU8, {w.numel() / 2});
    q.absmax = memory.poisoned({q.blocks()});
    quantize_nf4(q, w, cpu);
    const Tensor decoded = memory.poisoned(w.shape());
    dequantize(decoded, q, cpu);
    for (const MatrixSlice& slice : slices_of(q.shape)) {
      const Tensor part = memory.poisoned(slice.shape());
      dequantize(part, guarded(testing::slice_nf4(q, slice, arena, "slices"), memory), cpu);
      expect_identical(part, copy_of(decoded, slice, memory));
    }
  }
}

TEST(SliceNf4, MeasuresTheBytesOfARealSlice) {
  Arena real, measuring(Device{}, Arena::Mode::kMeasure);
  WholeNf4 whole({172, 300}, true);
  const MatrixSlice slice = slice_of({172, 300}, 1, 1, 3);
  const QuantizedTensor planned =
      allocate_nf4(MatrixSlice::all({172, 300}), true, DType::kF32, measuring, "whole");
  testing::slice_nf4(planned, slice, measuring, "slice");
  testing::slice_nf4(whole.q, slice, real, "slice");
  EXPECT_EQ(measuring.usage().back().peak_bytes, real.usage().back().peak_bytes);
}

TEST(QuantizeNf4Blocks, RunsFromBlockBoundariesHaveTheCodesAndScalesOfTheWhole) {
  for (const Shape& shape : kSlicedShapes) {
    WholeNf4 whole(shape, false);
    const int64_t blocks = whole.q.blocks(), numel = whole.w.numel();
    const Tensor flat = whole.w.reshaped({numel});
    for (const auto& [begin, end] : {std::pair{int64_t{0}, blocks}, {blocks / 3, blocks}, {1, 2}}) {
      const int64_t from = begin * 64, to = std::min(end * 64, numel);
      const Tensor codes = whole.memory.poisoned(DType::kU8, {(to - from + 1) / 2});
      const Tensor scales = whole.memory.poisoned({end - begin});
      quantize_nf4_blocks(codes, scales, flat.rows(from, to), whole.cpu);
      expect_identical(codes, whole.q.codes.rows(from / 2, (to + 1) / 2));
      expect_identical(scales, whole.q.absmax.rows(begin, end));
    }
  }
}

TEST(SetNf4Scales, OfASliceAreThoseOfTheWhole) {
  for_each_slice([](WholeNf4& whole, const MatrixSlice& slice) {
    const QuantizedTensor expected = whole.slice(slice);
    QuantizedTensor out = guarded(expected, whole.memory);
    for (const Tensor* part : {&out.absmax, &out.nested_absmax, &out.nested_map}) {
      if (part->defined()) std::memset(part->raw(), 0xff, static_cast<size_t>(part->bytes()));
    }
    out.nested_offset = -1.0f;
    set_nf4_scales(out, whole.scales(), whole.cpu);
    if (!out.nested()) out.nested_offset = 0.0f;
    expect_equal(out, expected);
  });
}

// Slices that are whole blocks can be quantised by themselves, given the scales of the others.
TEST(SetNf4Scales, TwoStepsEqualTheSliceOfTheQuantizedWhole) {
  const Shape shape{96, 1536};
  for (const bool double_quant : {false, true}) {
    WholeNf4 whole(shape, double_quant);
    for (const MatrixSlice& slice : slices_of(shape)) {
      SCOPED_TRACE(description_of(slice));
      const Tensor w = copy_of(whole.w, slice, whole.memory);
      QuantizedTensor out = guarded(
          allocate_nf4(slice, double_quant, DType::kBF16, whole.arena, "slices"), whole.memory);
      const Tensor own_scales = whole.memory.poisoned({w.numel() / 64});
      quantize_nf4_blocks(out.codes, own_scales, w.reshaped({w.numel()}), whole.cpu);
      set_nf4_scales(out, whole.scales(), whole.cpu);
      const QuantizedTensor expected = whole.slice(slice);
      expect_identical(out.codes, expected.codes);
      expect_equal(out, expected);
      expect_identical(whole.decoded(out), whole.decoded(expected));
    }
  }
}

TEST(SetNf4Scales, ThreadsDoNotChangeThem) {
  WholeNf4 whole({1600, 1400}, true);  // enough blocks for several threads
  QuantizedTensor out =
      allocate_nf4(MatrixSlice::all(whole.q.shape), true, DType::kF32, whole.arena, "again");
  set_nf4_scales(out, whole.scales(), whole.cpu);
  expect_equal(out, whole.q);
}

TEST(LinearNf4Slice, EqualsTheProductWithTheDecodedSlice) {
  for (const Shape& shape : {Shape{64, 172}, Shape{43, 43}, Shape{96, 64}, Shape{1100, 43}}) {
    WholeNf4 whole(shape, true);
    for (const MatrixSlice& slice : slices_of(shape)) {
      SCOPED_TRACE(description_of(slice));
      const Weight coded = whole.slice(slice);
      const Weight dense = whole.decoded(std::get<QuantizedTensor>(coded));
      const int64_t out = slice.shape().dim(0), in = slice.shape().dim(1);
      const Tensor x = whole.memory.uniform({5, in}), dy = whole.memory.uniform({5, out});
      const auto compare = [&](const Shape& result, const auto& product) {
        const Tensor expected = whole.memory.uniform(result);
        const Tensor actual = whole.memory.copy_of(expected);
        product(expected, dense);
        product(actual, coded);
        const auto values = GuardedMemory::elements(expected);
        expect_close(actual, std::vector<double>(values.begin(), values.end()), 1e-5, 1e-5);
      };
      compare({5, out},
              [&](const Tensor& y, const Weight& w) { linear(y, x, w, 1.0f, whole.cpu); });
      compare({5, in}, [&](const Tensor& dx, const Weight& w) {
        linear_backward_input(dx, dy, w, 1.0f, whole.cpu);
      });
    }
  }
}

TEST(SliceNf4DeathTest, WholeMatricesAndSlicesAreToldApart) {
  WholeNf4 whole({64, 100}, true);
  QuantizedTensor part = whole.slice(slice_of({64, 100}, 1, 1, 2));
  const MatrixSlice again = slice_of(part.shape, 0, 1, 2);
  EXPECT_DEATH(quantize_nf4(part, whole.memory.zeros(part.shape), whole.cpu), "a slice");
  EXPECT_DEATH(testing::slice_nf4(part, again, whole.arena, "slices"), "a slice");
  EXPECT_DEATH(testing::slice_nf4(whole.q, again, whole.arena, "slices"), "slice of .64, 50. from");
  std::vector<float> scales = whole.scales();
  scales.pop_back();
  EXPECT_DEATH(set_nf4_scales(part, scales, whole.cpu), "set_nf4_scales: blocks");
  part.first += 13;  // touches one block more
  EXPECT_DEATH(whole.decoded(part), "absmax has shape");
}

}  // namespace
}  // namespace rankwise
