// SPDX-License-Identifier: Apache-2.0
#include "runtime/io/element_conversion.h"

#include <bit>
#include <cstring>
#include <type_traits>
#include <utility>

namespace rankwise {
namespace {

static_assert(std::endian::native == std::endian::little, "files are read as they lie in memory");

// How an element lies in the file, and its value.
struct Half {
  static constexpr DType kType = DType::kF16;
  using Stored = uint16_t;
  static float value(Stored bits) { return float_from_f16(bits); }
};
struct Bfloat {
  static constexpr DType kType = DType::kBF16;
  using Stored = uint16_t;
  static float value(Stored bits) { return float_from_bf16(bits); }
};
template <class T, DType type>
struct Plain {
  static constexpr DType kType = type;
  using Stored = T;
  static T value(T stored) { return stored; }
};

template <class Element, class Visit>
bool visit_if(DType dtype, Visit visit) {
  if (dtype == Element::kType) visit(Element{});
  return dtype == Element::kType;
}

// Calls visit(Element{}) for the types whose values convert; false for all others.
template <class Visit>
bool visit_element(DType dtype, Visit visit) {
  return visit_if<Half>(dtype, visit) || visit_if<Bfloat>(dtype, visit) ||
         visit_if<Plain<float, DType::kF32>>(dtype, visit) ||
         visit_if<Plain<double, DType::kF64>>(dtype, visit) ||
         visit_if<Plain<uint8_t, DType::kBool>>(dtype, visit) ||
         visit_if<Plain<uint8_t, DType::kU8>>(dtype, visit) ||
         visit_if<Plain<int8_t, DType::kI8>>(dtype, visit) ||
         visit_if<Plain<uint16_t, DType::kU16>>(dtype, visit) ||
         visit_if<Plain<int16_t, DType::kI16>>(dtype, visit) ||
         visit_if<Plain<uint32_t, DType::kU32>>(dtype, visit) ||
         visit_if<Plain<int32_t, DType::kI32>>(dtype, visit) ||
         visit_if<Plain<uint64_t, DType::kU64>>(dtype, visit) ||
         visit_if<Plain<int64_t, DType::kI64>>(dtype, visit);
}

template <class Element, class To>
void convert(std::span<const std::byte> bytes, To* out, std::string_view source) {
  using Stored = typename Element::Stored;
  const size_t count = bytes.size() / sizeof(Stored);
  for (size_t i = 0; i < count; ++i) {
    Stored stored;
    std::memcpy(&stored, bytes.data() + i * sizeof(Stored), sizeof(Stored));
    const auto value = Element::value(stored);
    if constexpr (std::is_integral_v<To> && std::is_integral_v<decltype(value)>) {
      if (!std::in_range<To>(value)) {
        throw FormatError(fmt::format("{}: element {} is {}, out of range for {}", source, i, value,
                                      name_of(dtype_of<To>())));
      }
    }
    out[i] = static_cast<To>(value);
  }
}

template <class To>
void convert_to(std::span<const std::byte> bytes, DType from, const Tensor& out,
                std::string_view source) {
  visit_element(
      from, [&]<class Element>(Element) { convert<Element, To>(bytes, out.data<To>(), source); });
}

}  // namespace

bool is_convertible(DType from, DType to) {
  if (from == to) return true;
  if (!visit_element(from, [](auto) {})) return false;
  if (to == DType::kF32 || to == DType::kF64) return true;
  return !is_floating(from) && (to == DType::kI32 || to == DType::kI64);
}

void convert_elements(std::span<const std::byte> bytes, DType from, const Tensor& out,
                      std::string_view source) {
  RW_ASSERT(out.is_contiguous() && !out.device().is_cuda(), "{}", to_string(out.shape()));
  if (!is_convertible(from, out.dtype())) {
    throw FormatError(
        fmt::format("{}: {} cannot be read as {}", source, name_of(from), name_of(out.dtype())));
  }
  if (out.raw() == nullptr) return;
  RW_ASSERT(static_cast<int64_t>(bytes.size()) == (out.numel() * bits_of(from) + 7) / 8,
            "{} bytes of {} for {}", bytes.size(), name_of(from), to_string(out.shape()));
  if (from == out.dtype()) {
    if (!bytes.empty()) std::memcpy(out.raw(), bytes.data(), bytes.size());
    return;
  }
  switch (out.dtype()) {
    case DType::kF32:
      return convert_to<float>(bytes, from, out, source);
    case DType::kF64:
      return convert_to<double>(bytes, from, out, source);
    case DType::kI32:
      return convert_to<int32_t>(bytes, from, out, source);
    case DType::kI64:
      return convert_to<int64_t>(bytes, from, out, source);
    default:
      RW_ASSERT(false, "{}", name_of(out.dtype()));
  }
}

}  // namespace rankwise
