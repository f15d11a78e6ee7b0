// SPDX-License-Identifier: Apache-2.0
// ScratchProducts: what an operation made of several matrix products needs, in one request of
// scratch memory.
#pragma once

#include <initializer_list>
#include <vector>

#include "kernels/matmul.h"

namespace rankwise {

// Valid until the stream's scratch is asked for again. In measuring mode the tensors have null
// addresses, and nothing may be multiplied.
class ScratchProducts {
 public:
  struct Item {
    DType type = DType::kF32;
    Shape shape = {0};
  };
  ScratchProducts(std::initializer_list<Item> items, Stream& stream);

  // The tensor of an item, contiguous, uninitialised.
  const Tensor& operator[](size_t item) const { return tensors_[item]; }
  // matmul() of kernels/matmul.h, which itself may ask for scratch; its arguments are not checked.
  void multiply(const Tensor& c, const Tensor& a, const Tensor& b,
                const MatmulParams& params = {}) const;
  // x, or its copy in the item that copy_of(x, type) made room for.
  const Tensor& in_type(DType type, const Tensor& x, size_t item) const;
  static Item copy_of(const Tensor& x, DType type);

 private:
  Stream* stream_;
  std::byte* memory_;
  std::vector<Tensor> tensors_;
};

}  // namespace rankwise
