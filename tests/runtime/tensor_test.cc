// SPDX-License-Identifier: Apache-2.0
#include "runtime/tensor.h"

#include <gtest/gtest.h>

#include <numeric>
#include <vector>

#include "runtime/quantized_tensor.h"

namespace rankwise {
namespace {

TEST(Shape, CountsFromBothEnds) {
  const Shape shape{2, 3, 5};
  EXPECT_EQ(shape.rank(), 3);
  EXPECT_EQ(shape.dim(0), 2);
  EXPECT_EQ(shape.dim(-1), 5);
  EXPECT_EQ(shape.numel(), 30);
  EXPECT_EQ(Shape().numel(), 1);
  EXPECT_EQ((Shape{4, 0}).numel(), 0);
  EXPECT_EQ(to_string(shape), "(2, 3, 5)");
  EXPECT_EQ(to_string(Shape()), "()");
}

TEST(Shape, EqualityIncludesTheRank) {
  EXPECT_EQ((Shape{2, 3}), (Shape{2, 3}));
  EXPECT_NE((Shape{2, 3}), (Shape{3, 2}));
  EXPECT_NE((Shape{2}), (Shape{2, 1}));
  EXPECT_NE(Shape(), (Shape{0}));
}

TEST(ShapeDeathTest, MistakesAbort) {
  EXPECT_DEATH((Shape{1, -1}), "dimension 1 is -1");
  EXPECT_DEATH((Shape{1, 1, 1, 1, 1, 1, 1}), "rank 7");
  EXPECT_DEATH((Shape{1, 2}).dim(2), "dimension 2 of rank 2");
  EXPECT_DEATH((Shape{int64_t{1} << 40, int64_t{1} << 40}).numel(), "overflow");
}

class TensorTest : public ::testing::Test {
 protected:
  TensorTest() : values_(24) { std::iota(values_.begin(), values_.end(), 0.0f); }
  Tensor tensor(const Shape& shape) { return Tensor(values_.data(), DType::kF32, shape); }

  std::vector<float> values_;
};

using TensorDeathTest = TensorTest;

TEST_F(TensorTest, DefaultIsUndefined) {
  EXPECT_FALSE(Tensor().defined());
  EXPECT_TRUE(tensor({4, 6}).defined());
}

TEST_F(TensorTest, BytesRoundUpForSubByteTypes) {
  EXPECT_EQ(tensor({4, 6}).bytes(), 96);
  EXPECT_EQ(Tensor(nullptr, DType::kF4, Shape{3}).bytes(), 2);
  EXPECT_EQ(Tensor(nullptr, DType::kF64, Shape()).bytes(), 8);
}

TEST_F(TensorTest, RowsOfAnyRankAreContiguousViews) {
  const Tensor view = tensor({4, 3, 2}).rows(1, 3);
  EXPECT_EQ(view.shape(), (Shape{2, 3, 2}));
  EXPECT_EQ(view.data<float>()[0], 6.0f);
  EXPECT_TRUE(view.is_contiguous());
  EXPECT_EQ(tensor({24}).rows(5, 7).data<float>()[1], 6.0f);
  EXPECT_EQ(tensor({4, 6}).rows(2, 2).numel(), 0);
}

TEST_F(TensorTest, ColumnsAreStridedAndCompose) {
  const Tensor columns = tensor({4, 6}).columns(2, 5);
  EXPECT_EQ(columns.shape(), (Shape{4, 3}));
  EXPECT_EQ(columns.row_stride(), 6);
  EXPECT_FALSE(columns.is_contiguous());
  const Tensor block = columns.rows(1, 3).columns(1, 2);
  EXPECT_EQ(block.shape(), (Shape{2, 1}));
  EXPECT_EQ(block.data<float>()[0], 9.0f);
  EXPECT_EQ(block.data<float>()[block.row_stride()], 15.0f);
  EXPECT_TRUE(columns.rows(0, 1).is_contiguous());
}

TEST_F(TensorTest, ReshapeKeepsMemory) {
  const Tensor view = tensor({4, 6}).reshaped({2, 12});
  EXPECT_EQ(view.data<float>(), values_.data());
  EXPECT_EQ(view.row_stride(), 12);
}

TEST_F(TensorTest, ReshapeOfAStridedViewKeepsDimensionZeroAndStride) {
  const Tensor columns = tensor({4, 6}).columns(2, 6);
  const Tensor heads = columns.reshaped({4, 2, 2});
  EXPECT_EQ(heads.shape(), (Shape{4, 2, 2}));
  EXPECT_EQ(heads.row_stride(), 6);
  EXPECT_FALSE(heads.is_contiguous());
  const Tensor last = heads.rows(2, 4);
  EXPECT_EQ(last.row_stride(), 6);
  EXPECT_EQ(last.data<float>()[0], 14.0f);
  EXPECT_EQ(last.data<float>()[last.row_stride() + 3], 23.0f);
  const Tensor back = heads.reshaped({4, 4});
  EXPECT_EQ(back.row_stride(), 6);
  EXPECT_EQ(back.columns(1, 2).data<float>()[6], 9.0f);
  // One row is contiguous whatever its stride, and may take any shape.
  const Tensor row = heads.rows(1, 2);
  EXPECT_TRUE(row.is_contiguous());
  EXPECT_EQ(row.reshaped({4}).data<float>()[3], 11.0f);
}

TEST_F(TensorTest, RowStrideOfAnyRankIsTheSizeOfAnItem) {
  EXPECT_EQ(tensor({4, 3, 2}).row_stride(), 6);
  EXPECT_EQ(tensor({2, 3, 2, 2}).row_stride(), 12);
  EXPECT_TRUE(tensor({2, 3, 2, 2}).is_contiguous());
  EXPECT_TRUE(tensor({24}).is_contiguous());
}

TEST_F(TensorTest, ViewsOfANullAddressStayNull) {
  const Tensor measured(nullptr, DType::kF32, Shape{4, 6});
  EXPECT_EQ(measured.rows(1, 2).raw(), nullptr);
  EXPECT_EQ(measured.columns(1, 2).raw(), nullptr);
  EXPECT_EQ(measured.data<float>(), nullptr);
  EXPECT_TRUE(measured.defined());
}

TEST_F(TensorDeathTest, MisuseAborts) {
  EXPECT_DEATH(tensor({4, 6}).data<double>(), "tensor holds F32");
  EXPECT_DEATH(tensor({4, 6}).reshaped({5, 5}), "numel");
  EXPECT_DEATH(tensor({4, 6}).columns(0, 3).reshaped({12}), "row stride 6 to");
  EXPECT_DEATH(tensor({4, 6}).columns(0, 4).reshaped({2, 8}), "row stride 6 to");
  EXPECT_DEATH(tensor({4, 6}).rows(3, 5), "rows \\[3, 5\\)");
  EXPECT_DEATH(tensor({4, 6}).columns(4, 3), "columns");
  EXPECT_DEATH(Tensor().rows(0, 0), "defined_");
}

TEST(Weight, TellsShapeAndKind) {
  const Weight dense = Tensor(nullptr, DType::kBF16, Shape{8, 100});
  EXPECT_FALSE(is_quantized(dense));
  EXPECT_EQ(shape_of(dense), (Shape{8, 100}));

  QuantizedTensor quantized;
  quantized.shape = Shape{9, 100};
  EXPECT_EQ(quantized.blocks(), 15);  // 900 elements in blocks of 64, the last one short
  quantized.codes = Tensor(nullptr, DType::kU8, Shape{450});
  quantized.absmax = Tensor(nullptr, DType::kF32, Shape{15});
  EXPECT_FALSE(quantized.nested());
  EXPECT_EQ(quantized.bytes(), 450 + 60);
  quantized.absmax = Tensor(nullptr, DType::kU8, Shape{15});
  quantized.nested_absmax = Tensor(nullptr, DType::kF32, Shape{1});
  const Weight weight = quantized;
  EXPECT_TRUE(is_quantized(weight));
  EXPECT_EQ(shape_of(weight), (Shape{9, 100}));
  EXPECT_EQ(quantized.bytes(), 450 + 15 + 4);
}

}  // namespace
}  // namespace rankwise
