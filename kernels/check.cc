// SPDX-License-Identifier: Apache-2.0
#include "kernels/check.h"

#include "runtime/errors.h"

namespace rankwise::check {

void shape(std::string_view op, std::string_view argument, const Tensor& actual,
           const Shape& expected) {
  RW_ASSERT(actual.defined(), "{}: {} is undefined, expected {}", op, argument,
            to_string(expected));
  RW_ASSERT(actual.shape() == expected, "{}: {} has shape {}, expected {}", op, argument,
            to_string(actual.shape()), to_string(expected));
}

void dtype(std::string_view op, std::string_view argument, const Tensor& actual, DType expected) {
  RW_ASSERT(actual.defined(), "{}: {} is undefined, expected {}", op, argument, name_of(expected));
  RW_ASSERT(actual.dtype() == expected, "{}: {} is {}, expected {}", op, argument,
            name_of(actual.dtype()), name_of(expected));
}

void contiguous(std::string_view op, std::string_view argument, const Tensor& actual) {
  RW_ASSERT(actual.defined(), "{}: {} is undefined", op, argument);
  RW_ASSERT(actual.is_contiguous(), "{}: {} {} has row stride {}, expected contiguous", op,
            argument, to_string(actual.shape()), actual.rank() >= 2 ? actual.row_stride() : 0);
}

void f32(std::string_view op, std::string_view argument, const Tensor& actual,
         const Shape& expected) {
  dtype(op, argument, actual, DType::kF32);
  shape(op, argument, actual, expected);
  contiguous(op, argument, actual);
}

void activation(std::string_view op, std::string_view argument, const Tensor& actual,
                const Shape& expected) {
  if (!actual.device().is_cuda()) return f32(op, argument, actual, expected);
  shape(op, argument, actual, expected);
  RW_ASSERT(actual.dtype() == DType::kF32 || actual.dtype() == DType::kBF16,
            "{}: {} is {}, expected F32 or BF16", op, argument, name_of(actual.dtype()));
}

void activation(std::string_view op, std::string_view argument, const Tensor& actual,
                const Shape& expected, const Tensor& like) {
  activation(op, argument, actual, expected);
  dtype(op, argument, actual, like.dtype());
}

void nf4(std::string_view op, const QuantizedTensor& actual) {
  RW_ASSERT(actual.scheme == QuantScheme::kNf4, "{}: scheme {}, expected NF4", op,
            static_cast<int>(actual.scheme));
  RW_ASSERT(actual.shape.rank() == 2, "{}: quantized {}, expected rank 2", op,
            to_string(actual.shape));
  RW_ASSERT(actual.block_size > 0 && actual.block_size % 2 == 0, "{}: block size {}", op,
            actual.block_size);
  RW_ASSERT(
      actual.first >= 0 && (actual.row_stride == 0 || actual.row_stride >= actual.shape.dim(1)),
      "{}: slice {} from {} with rows {} apart", op, to_string(actual.shape), actual.first,
      actual.row_stride);
  dtype(op, "codes", actual.codes, DType::kU8);
  shape(op, "codes", actual.codes, {(actual.shape.numel() + 1) / 2});
  dtype(op, "absmax", actual.absmax, actual.nested() ? DType::kU8 : DType::kF32);
  shape(op, "absmax", actual.absmax, {actual.blocks()});
  if (!actual.nested()) return;
  f32(op, "nested_absmax", actual.nested_absmax, {actual.groups()});
  f32(op, "nested_map", actual.nested_map, {256});
}

}  // namespace rankwise::check
