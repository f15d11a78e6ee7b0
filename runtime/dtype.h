// SPDX-License-Identifier: Apache-2.0
// Element types of tensors, with the names and sizes of the safetensors format.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>
#include <type_traits>

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

// Whether elements are real numbers of 16 bits or more.
bool is_floating(DType dtype);

template <class T>
concept TensorElement = std::is_same_v<T, float> || std::is_same_v<T, double> ||
    (std::is_integral_v<T> && !std::is_same_v<T, bool> &&
     (sizeof(T) >= 4 || std::is_unsigned_v<T>));

// DType of a C++ element type, for the checked accessor Tensor::data<T>().
template <TensorElement T>
constexpr DType dtype_of() {
  if constexpr (std::is_same_v<T, float>) return DType::kF32;
  if constexpr (std::is_same_v<T, double>) return DType::kF64;
  if constexpr (std::is_same_v<T, int64_t>) return DType::kI64;
  if constexpr (std::is_same_v<T, int32_t>) return DType::kI32;
  if constexpr (std::is_same_v<T, uint8_t>) return DType::kU8;
  if constexpr (std::is_same_v<T, uint16_t>) return DType::kU16;
  if constexpr (std::is_same_v<T, uint32_t>) return DType::kU32;
  if constexpr (std::is_same_v<T, uint64_t>) return DType::kU64;
}

}  // namespace rankwise
