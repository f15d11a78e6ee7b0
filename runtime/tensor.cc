// SPDX-License-Identifier: Apache-2.0
#include "runtime/tensor.h"

#include <array>
#include <cstddef>
#include <span>

namespace rankwise {
namespace {

// Null stays null, so that views work in measuring mode.
void* advanced(void* data, int64_t elements, DType dtype) {
  if (data == nullptr) return nullptr;
  const int64_t bits = elements * bits_of(dtype);
  RW_ASSERT(bits % 8 == 0, "view of {} begins inside a byte", name_of(dtype));
  return static_cast<std::byte*>(data) + bits / 8;
}

int64_t item_size(const Shape& shape) {  // elements of one item of dimension 0
  int64_t size = 1;
  for (int i = 1; i < shape.rank(); ++i) size *= shape.dim(i);
  return size;
}

}  // namespace

Tensor::Tensor(void* data, DType dtype, Shape shape, Device device)
    : data_(data), dtype_(dtype), device_(device), shape_(shape), defined_(true) {
  if (shape_.rank() >= 2) row_stride_ = item_size(shape_);
}

bool Tensor::is_contiguous() const {
  return shape_.rank() < 2 || row_stride_ == item_size(shape_) || shape_.dim(0) <= 1;
}

Tensor Tensor::reshaped(Shape shape) const {
  RW_ASSERT(defined_ && shape.numel() == numel(), "{} to {}", to_string(shape_), to_string(shape));
  Tensor view(data_, dtype_, shape, device_);
  if (!is_contiguous()) {
    RW_ASSERT(shape.rank() >= 2 && shape.dim(0) == dim(0), "{} with row stride {} to {}",
              to_string(shape_), row_stride_, to_string(shape));
    view.row_stride_ = row_stride_;
  }
  return view;
}

Tensor Tensor::rows(int64_t begin, int64_t end) const {
  RW_ASSERT(defined_ && rank() >= 1, "{}", to_string(shape_));
  RW_ASSERT(0 <= begin && begin <= end && end <= dim(0), "rows [{}, {}) of {}", begin, end,
            to_string(shape_));
  std::array<int64_t, Shape::kMaxRank> dims{};
  for (int i = 0; i < rank(); ++i) {
    dims[static_cast<size_t>(i)] = i == 0 ? end - begin : dim(i);
  }
  const int64_t items = rank() >= 2 ? row_stride_ : 1;
  Tensor view(advanced(data_, begin * items, dtype_), dtype_,
              Shape(std::span<const int64_t>(dims.data(), static_cast<size_t>(rank()))), device_);
  view.row_stride_ = row_stride_;
  return view;
}

Tensor Tensor::columns(int64_t begin, int64_t end) const {
  RW_ASSERT(defined_ && rank() == 2, "{}", to_string(shape_));
  RW_ASSERT(0 <= begin && begin <= end && end <= dim(1), "columns [{}, {}) of {}", begin, end,
            to_string(shape_));
  Tensor view(advanced(data_, begin, dtype_), dtype_, Shape{dim(0), end - begin}, device_);
  view.row_stride_ = row_stride_;
  return view;
}

}  // namespace rankwise
