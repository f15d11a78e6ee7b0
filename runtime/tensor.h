// SPDX-License-Identifier: Apache-2.0
// Tensor: a non-owning view of memory on one device. Never allocates and never copies silently.
#pragma once

#include <cstdint>

#include "runtime/device.h"
#include "runtime/dtype.h"
#include "runtime/errors.h"
#include "runtime/shape.h"

namespace rankwise {

// Row-major. Contiguous, except that a tensor of rank 2 or more may be a block of columns of a wider
// matrix: its items along dimension 0 are contiguous but lie row_stride() elements apart. Kernels
// refuse such views unless their header says they accept them.
// Whoever allocated the memory (usually an Arena) must outlive the view.
class Tensor {
 public:
  Tensor() = default;  // undefined: "absent"
  Tensor(void* data, DType dtype, Shape shape, Device device = {});

  bool defined() const { return defined_; }
  DType dtype() const { return dtype_; }
  Device device() const { return device_; }
  const Shape& shape() const { return shape_; }
  int rank() const { return shape_.rank(); }
  int64_t dim(int index) const { return shape_.dim(index); }
  int64_t numel() const { return shape_.numel(); }
  int64_t bytes() const { return (numel() * bits_of(dtype_) + 7) / 8; }  // of a contiguous tensor
  // Elements from one item of dimension 0 to the next; rank 2 or more.
  int64_t row_stride() const { return row_stride_; }
  bool is_contiguous() const;

  void* raw() const { return data_; }
  // Aborts when T is not the element type. Null in measuring mode.
  template <class T>
  T* data() const {
    RW_ASSERT(dtype_of<T>() == dtype_, "tensor holds {}", name_of(dtype_));
    return static_cast<T*>(data_);
  }

  // Same memory, other shape of equal numel. A view with a row stride must keep dimension 0.
  Tensor reshaped(Shape shape) const;
  // Items [begin, end) of dimension 0.
  Tensor rows(int64_t begin, int64_t end) const;
  // Columns [begin, end) of a rank-2 tensor: a strided view.
  Tensor columns(int64_t begin, int64_t end) const;

 private:
  void* data_ = nullptr;
  DType dtype_ = DType::kF32;
  Device device_;
  Shape shape_;
  int64_t row_stride_ = 0;
  bool defined_ = false;
};

}  // namespace rankwise
