// SPDX-License-Identifier: Apache-2.0
// Parts of the tensors of a quantised store: what one rank of several reads.
#include <gtest/gtest.h>

#include "runtime/io/quantized_store.h"
#include "tests/runtime/io/random_quantized.h"
#include "tests/support/error_of.h"
#include "tests/support/scratch_folder.h"

namespace rankwise {
namespace {

using testing::error_of;
using testing::make_quantized;

class QuantizedStoreSlices : public ::testing::Test {
 protected:
  // A store that holds only this, as "w".
  template <class Stored>
  std::unique_ptr<WeightSource> store_of(const Stored& tensor) {
    QuantizedStoreWriter writer(path_);
    writer.add("w", tensor);
    writer.commit();
    return open_weights(path_);
  }

  testing::ScratchFolder folder_;
  std::string path_ = folder_.file("model.h5");
  Arena arena_;
};

// What the codes and scales of element (row, column) are, found by its place in the whole.
struct Element {
  int code;
  int64_t scale;  // bits
  int64_t nested_scale;

  bool operator==(const Element&) const = default;
};

Element element_of(const QuantizedTensor& q, int64_t row, int64_t column) {
  const int64_t own = row * q.shape.dim(1) + column;
  const int64_t block = (q.first + row * q.whole_in() + column) / q.block_size;
  const uint8_t pair = q.codes.data<uint8_t>()[own / 2];
  const auto bits = [](const Tensor& tensor, int64_t index) -> int64_t {
    return tensor.dtype() == DType::kU8 ? tensor.data<uint8_t>()[index]
                                        : static_cast<const int32_t*>(tensor.raw())[index];
  };
  return {own % 2 == 0 ? pair >> 4 : pair & 15, bits(q.absmax, block - q.first_block()),
          q.nested() ? bits(q.nested_absmax, block / 256 - q.first_group()) : 0};
}

void expect_slice(const QuantizedTensor& part, const QuantizedTensor& whole,
                  const MatrixSlice& slice) {
  ASSERT_EQ(part.shape, slice.shape());
  EXPECT_EQ(part.absmax.numel(), part.blocks());
  EXPECT_EQ(part.nested_offset, whole.nested_offset);
  for (int64_t r = 0; r < part.shape.dim(0); ++r) {
    for (int64_t c = 0; c < part.shape.dim(1); ++c) {
      ASSERT_EQ(element_of(part, r, c),
                element_of(whole, slice.row_begin + r, slice.column_begin + c))
          << r << " " << c;
    }
  }
  if (part.shape.numel() % 2 != 0 && !slice.is_whole()) {  // filled up with the code of 0
    EXPECT_EQ(part.codes.data<uint8_t>()[part.codes.numel() - 1] & 15, 7);
  }
}

TEST_F(QuantizedStoreSlices, GivesSlicesOfRowsAndColumns) {
  for (const Shape& shape : {Shape{333, 67}, Shape{40, 1024}, Shape{9, 172}}) {
    for (const bool nested : {false, true}) {
      const QuantizedTensor whole = make_quantized(arena_, nested, shape);
      const auto source = store_of(whole);
      const int64_t rows = shape.dim(0), columns = shape.dim(1);
      for (const MatrixSlice& slice :
           {MatrixSlice::all(shape), MatrixSlice{shape, 0, 3, 0, columns},
            MatrixSlice{shape, 3, rows - 1, 0, columns}, MatrixSlice{shape, rows, rows, 0, columns},
            MatrixSlice{shape, 4, rows, 0, columns}, MatrixSlice{shape, 0, rows, 0, columns / 2},
            MatrixSlice{shape, 0, rows, columns / 2, columns}, MatrixSlice{shape, 0, rows, 21, 43},
            MatrixSlice{shape, 1, 2, 66, 67}}) {
        SCOPED_TRACE(fmt::format("{} of {}, from {}", to_string(slice.shape()), to_string(shape),
                                 slice.first()));
        Arena arena;
        const auto part = source->read_quantized("w", slice, arena, "weights");
        ASSERT_TRUE(part.has_value());
        expect_slice(*part, whole, slice);
      }
    }
  }
}

TEST_F(QuantizedStoreSlices, ReadsElementsOfDenseTensors) {
  const Tensor dense = arena_.allocate("dense", DType::kBF16, {5, 3});
  for (int i = 0; i < 15; ++i) {
    static_cast<uint16_t*>(dense.raw())[i] = bf16_from_float(static_cast<float>(i));
  }
  const auto source = store_of(dense);
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    for (int64_t first = 0; first < 15; ++first) {
      for (int64_t count = 0; first + count <= 15; ++count) {
        Arena arena;
        const Tensor out = arena.allocate("out", dtype, {count});
        source->read_elements("w", first, out);
        for (int64_t i = 0; i < count; ++i) {
          const float value = dtype == DType::kF32
                                  ? out.data<float>()[i]
                                  : float_from_bf16(static_cast<const uint16_t*>(out.raw())[i]);
          ASSERT_EQ(value, static_cast<float>(first + i));
        }
      }
    }
  }
  std::vector<float> values(4);
  RW_EXPECT_HAS(error_of<FormatError>([&] {
                  source->read_elements("w", 12, Tensor(values.data(), DType::kF32, {4}));
                }),
                "no elements [12, 16) in shape (5, 3)");
  RW_EXPECT_HAS(error_of<FormatError>(
                    [&] { source->read_rows("w", 4, 5, Tensor(values.data(), DType::kF32, {4})); }),
                "rows [4, 5) of shape (5, 3) where (4) is expected");
}

TEST_F(QuantizedStoreSlices, ScalesThatDoNotFitTheShapeAreRefused) {
  QuantizedTensor tensor = make_quantized(arena_, true);
  tensor.nested_absmax = tensor.nested_absmax.rows(0, 1);
  const auto source = store_of(tensor);
  RW_EXPECT_HAS(error_of<FormatError>([&] { source->read_quantized("w", arena_, "q"); }),
                "1 values in /tensors/w.nested_absmax where 2 are expected");
  RW_EXPECT_HAS(error_of<FormatError>([&] {
                  source->read_quantized("w", MatrixSlice::all({67, 333}), arena_, "q");
                }),
                "shape (333, 67) where (67, 333) is expected");
}

}  // namespace
}  // namespace rankwise
