// SPDX-License-Identifier: Apache-2.0
// Conversion of stored elements (little-endian, unaligned) into a tensor of another element type.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "runtime/tensor.h"

namespace rankwise {

// Whether elements of type `from` can be read into a tensor of type `to`: the same type, any real
// or integer type into F32 or F64, any integer type into I32 or I64.
bool is_convertible(DType from, DType to);

// Fills `out` (contiguous, CPU) from exactly out.numel() elements. FormatError beginning with
// `source` when the types do not convert or a value does not fit. In measuring mode (null address)
// it only checks the types.
void convert_elements(std::span<const std::byte> bytes, DType from, const Tensor& out,
                      std::string_view source);

}  // namespace rankwise
