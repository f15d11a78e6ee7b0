// SPDX-License-Identifier: Apache-2.0
// Tensors that several ranks load by slices, with a source that counts what is read.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <functional>
#include <mutex>
#include <string>
#include <vector>

#include "kernels/quantize.h"
#include "model/parameter_loader.h"

namespace rankwise::testing {

// Counts the elements asked for. HDF5 is for one thread at a time.
class CountingSource : public WeightSource {
 public:
  explicit CountingSource(const WeightSource& source) : source_(source) {}
  int64_t elements = 0;

  std::vector<std::string> names() const override { return source_.names(); }
  bool contains(std::string_view name) const override { return source_.contains(name); }
  Shape shape(std::string_view name) const override { return source_.shape(name); }
  DType dtype(std::string_view name) const override { return source_.dtype(name); }
  void read(std::string_view name, const Tensor& out) const override {
    counted(out.numel(), [&] { source_.read(name, out); });
  }
  void read_rows(std::string_view name, int64_t begin, int64_t end,
                 const Tensor& out) const override {
    counted(out.numel(), [&] { source_.read_rows(name, begin, end, out); });
  }
  void read_elements(std::string_view name, int64_t first, const Tensor& out) const override {
    counted(out.numel(), [&] { source_.read_elements(name, first, out); });
  }
  std::optional<QuantizedTensor> read_quantized(std::string_view name, const MatrixSlice& slice,
                                                Arena& arena,
                                                std::string_view purpose) const override {
    std::optional<QuantizedTensor> out;
    counted(0, [&] { out = source_.read_quantized(name, slice, arena, purpose); });
    return out;
  }
  std::string description() const override { return source_.description(); }

 private:
  void counted(int64_t count, const std::function<void()>& read) const {
    static std::mutex mutex;
    const std::lock_guard lock(mutex);
    read();
    const_cast<CountingSource*>(this)->elements += count;
  }
  const WeightSource& source_;
};

struct Stored {
  std::string name;
  Shape shape;
  ShardSpec spec;
};

inline const std::vector<Stored>& linears() {
  static const std::vector<Stored> list = {
      {"up", {172, 43}, ShardSpec::sharded(0)},    {"down", {43, 172}, ShardSpec::sharded(1)},
      {"wide", {96, 256}, ShardSpec::sharded(0)},  {"narrow", {24, 768}, ShardSpec::sharded(1)},
      {"long", {700, 192}, ShardSpec::sharded(1)}, {"both", {8, 5}, ShardSpec::replicated()}};
  return list;
}

inline const std::vector<Stored>& denses() {
  static const std::vector<Stored> list = {{"embedding", {17, 43}, ShardSpec::sharded(0)},
                                           {"columns", {5, 43}, ShardSpec::sharded(1)},
                                           {"bias", {172}, ShardSpec::sharded(0)},
                                           {"norm", {43}, ShardSpec::replicated()},
                                           {"nothing", {0, 3}, ShardSpec::replicated()}};
  return list;
}

inline bool same_bits(const Tensor& a, const Tensor& b) {
  if (!a.defined() || !b.defined()) return a.defined() == b.defined();
  return a.dtype() == b.dtype() && a.shape() == b.shape() &&
         (a.bytes() == 0 || std::memcmp(a.raw(), b.raw(), static_cast<size_t>(a.bytes())) == 0);
}

inline void expect_same(const QuantizedTensor& a, const QuantizedTensor& b) {
  EXPECT_EQ(a.shape, b.shape);
  EXPECT_EQ(a.first, b.first);
  EXPECT_EQ(a.row_stride, b.row_stride);
  EXPECT_EQ(a.source_dtype, b.source_dtype);
  EXPECT_TRUE(same_bits(a.codes, b.codes));
  EXPECT_TRUE(same_bits(a.absmax, b.absmax));
  EXPECT_TRUE(same_bits(a.nested_absmax, b.nested_absmax));
  EXPECT_TRUE(same_bits(a.nested_map, b.nested_map));
  EXPECT_TRUE(a.nested_offset == b.nested_offset ||
              (std::isnan(a.nested_offset) && std::isnan(b.nested_offset)));
}

inline void expect_slice(const Tensor& part, const Tensor& whole, const MatrixSlice& slice) {
  const Tensor rows = whole.rows(slice.row_begin, slice.row_end);
  if (whole.rank() == 1) {
    EXPECT_TRUE(same_bits(part, rows));
    return;
  }
  ASSERT_EQ(part.shape(), slice.shape());
  for (int64_t r = 0; r < part.dim(0); ++r) {
    for (int64_t c = 0; c < part.dim(1); ++c) {
      ASSERT_EQ(part.data<float>()[r * part.dim(1) + c],
                rows.data<float>()[r * slice.in() + slice.column_begin + c]);
    }
  }
}

inline MatrixSlice slice_of(const Stored& stored, const Communicator& world) {
  const Shape matrix = stored.shape.rank() == 2 ? stored.shape : Shape{stored.shape.dim(0), 1};
  return stored.spec.slice(matrix, world.rank(), world.size(), stored.name);
}

inline ModelPlan nf4_plan(bool double_quant) {
  ModelPlan plan;
  plan.quantize_nf4 = true;
  plan.double_quant = double_quant;
  return plan;
}

inline ModelPlan training_plan() {
  ModelPlan plan;
  plan.is_trained = [](const std::string&) { return true; };
  return plan;
}

}  // namespace rankwise::testing
