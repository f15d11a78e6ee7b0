// SPDX-License-Identifier: Apache-2.0
#include "kernels/scratch_products.h"

#include "kernels/cpu/matmul.h"
#include "kernels/cuda/matmul.h"
#include "kernels/elementwise.h"

namespace rankwise {

ScratchProducts::ScratchProducts(std::initializer_list<Item> items, Stream& stream)
    : stream_(&stream) {
  constexpr int64_t kAlignment = 256;
  std::vector<size_t> begin;
  size_t bytes = stream.is_cuda() ? cuda::kMatmulWorkspaceBytes : 0;
  for (const Item& item : items) {
    begin.push_back(bytes);
    const int64_t own = item.shape.numel() * bits_of(item.type) / 8;
    bytes += static_cast<size_t>((own + kAlignment - 1) / kAlignment * kAlignment);
  }
  memory_ = static_cast<std::byte*>(stream.scratch(bytes));
  for (const Item& item : items) {
    std::byte* address = memory_ == nullptr ? nullptr : memory_ + begin[tensors_.size()];
    tensors_.emplace_back(address, item.type, item.shape, stream.device());
  }
}

void ScratchProducts::multiply(const Tensor& c, const Tensor& a, const Tensor& b,
                               const MatmulParams& params) const {
  if constexpr (kHasCuda) {
    if (stream_->is_cuda()) return cuda::product(c, a, b, params, c, memory_, *stream_);
  }
  cpu::matmul(c, a, b, params);
}

const Tensor& ScratchProducts::in_type(DType type, const Tensor& x, size_t item) const {
  if (!x.defined() || x.dtype() == type) return x;
  cast(tensors_[item], x, *stream_);
  return tensors_[item];
}

ScratchProducts::Item ScratchProducts::copy_of(const Tensor& x, DType type) {
  if (!x.defined() || x.dtype() == type) return {};
  return {type, x.shape()};
}

}  // namespace rankwise
