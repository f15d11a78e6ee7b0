// SPDX-License-Identifier: Apache-2.0
// Element types of tensors, with the names and sizes of the safetensors format.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

namespace rankwise {

// In the order of the safetensors reference implementation, smallest alignment first: its writer,
// and ours, lay out tensors in descending order.
enum class DType : uint8_t {
  kBool,
  kF4,
  kF6E2M3,
  kF6E3M2,
  kU8,
  kI8,
  kF8E5M2,
  kF8E4M3,
  kF8E8M0,
  kF8E4M3Fnuz,
  kF8E5M2Fnuz,
  kI16,
  kU16,
  kF16,
  kBF16,
  kI32,
  kU32,
  kF32,
  kC64,
  kF64,
  kI64,
  kU64
};

// Bits of one element: 4, 6, 8, 16, 32 or 64.
int bits_of(DType dtype);

// safetensors name, e.g. "F32", "BF16".
std::string_view name_of(DType dtype);

// Inverse of name_of; nullopt for an unknown name. Case-sensitive.
std::optional<DType> dtype_from_name(std::string_view name);

// Rounds to nearest even; NaN stays NaN.
uint16_t bf16_from_float(float value);
float float_from_bf16(uint16_t bits);
uint16_t f16_from_float(float value);
float float_from_f16(uint16_t bits);

// DType of a C++ element type, for the checked accessor Tensor::data<T>().
template <class T>
constexpr DType dtype_of();
template <>
constexpr DType dtype_of<float>() {
  return DType::kF32;
}
template <>
constexpr DType dtype_of<double>() {
  return DType::kF64;
}
template <>
constexpr DType dtype_of<int64_t>() {
  return DType::kI64;
}
template <>
constexpr DType dtype_of<int32_t>() {
  return DType::kI32;
}
template <>
constexpr DType dtype_of<uint8_t>() {
  return DType::kU8;
}
template <>
constexpr DType dtype_of<uint16_t>() {
  return DType::kU16;
}
template <>
constexpr DType dtype_of<uint32_t>() {
  return DType::kU32;
}
template <>
constexpr DType dtype_of<uint64_t>() {
  return DType::kU64;
}

}  // namespace rankwise
