// SPDX-License-Identifier: Apache-2.0
#include "runtime/quantized_tensor.h"

namespace rankwise {

int64_t QuantizedTensor::blocks() const {
  if (shape.numel() == 0) return 0;
  const int64_t last = first + (shape.dim(0) - 1) * whole_in() + shape.dim(1) - 1;
  return last / block_size - first_block() + 1;
}

int64_t QuantizedTensor::groups() const {
  if (blocks() == 0) return 0;
  return (first_block() + blocks() - 1) / kNestedBlock - first_group() + 1;
}

int64_t QuantizedTensor::bytes() const {
  return codes.bytes() + absmax.bytes() + (nested() ? nested_absmax.bytes() : 0);
}

const Shape& shape_of(const Weight& weight) {
  if (const auto* quantized = std::get_if<QuantizedTensor>(&weight)) return quantized->shape;
  return std::get<Tensor>(weight).shape();
}

bool is_quantized(const Weight& weight) { return std::holds_alternative<QuantizedTensor>(weight); }

}  // namespace rankwise
