// SPDX-License-Identifier: Apache-2.0
#include "runtime/quantized_tensor.h"

namespace rankwise {

int64_t QuantizedTensor::bytes() const {
  return codes.bytes() + absmax.bytes() + (nested() ? nested_absmax.bytes() : 0);
}

const Shape& shape_of(const Weight& weight) {
  if (const auto* quantized = std::get_if<QuantizedTensor>(&weight)) return quantized->shape;
  return std::get<Tensor>(weight).shape();
}

bool is_quantized(const Weight& weight) { return std::holds_alternative<QuantizedTensor>(weight); }

}  // namespace rankwise
