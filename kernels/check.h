// SPDX-License-Identifier: Apache-2.0
// Argument checks of operations: the message names op, argument, expected and actual.
#pragma once

#include <source_location>
#include <string_view>

#include "runtime/quantized_tensor.h"
#include "runtime/tensor.h"

namespace rankwise::check {

// Abort (RW_ASSERT): a wrong shape inside the program is our own mistake; user input was checked
// where it was read.
void shape(std::string_view op, std::string_view argument, const Tensor& actual,
           const Shape& expected);
void dtype(std::string_view op, std::string_view argument, const Tensor& actual, DType expected);
void contiguous(std::string_view op, std::string_view argument, const Tensor& actual);
// F32, contiguous and of this shape.
void f32(std::string_view op, std::string_view argument, const Tensor& actual,
         const Shape& expected);
// Of this shape, F32, or BF16 on a CUDA device; contiguous on the CPU, on CUDA rows may be strided.
void activation(std::string_view op, std::string_view argument, const Tensor& actual,
                const Shape& expected);
// The same, and of the type of `like`.
void activation(std::string_view op, std::string_view argument, const Tensor& actual,
                const Shape& expected, const Tensor& like);
// Rank 2, and codes and scales have the types and sizes that shape, place in the whole matrix and
// block size demand.
void nf4(std::string_view op, const QuantizedTensor& actual);

}  // namespace rankwise::check
