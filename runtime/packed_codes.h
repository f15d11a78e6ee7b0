// SPDX-License-Identifier: Apache-2.0
// Packed 4-bit codes, two per byte, the even element in the high nibble; copying runs of them.
#pragma once

#include <algorithm>
#include <cstdint>

namespace rankwise {

// The codes from `element` on.
template <class Byte>
struct PackedCodes {
  Byte* bytes;
  int64_t element;
};

// to = from (count). The code beside them in the first and in the last byte of `to` stays.
inline void copy_codes(PackedCodes<uint8_t> to, PackedCodes<const uint8_t> from, int64_t count) {
  const auto copy_one = [&](int64_t i) {
    const int64_t source = from.element + i, target = to.element + i;
    const int code = source % 2 == 0 ? from.bytes[source / 2] >> 4 : from.bytes[source / 2] & 15;
    uint8_t& pair = to.bytes[target / 2];
    pair = static_cast<uint8_t>(target % 2 == 0 ? code << 4 | (pair & 15) : (pair & 0xf0) | code);
  };
  int64_t i = 0;
  if (to.element % 2 == from.element % 2) {
    if (count > 0 && to.element % 2 != 0) copy_one(i++);
    const int64_t pairs = (count - i) / 2;
    std::copy_n(from.bytes + (from.element + i) / 2, pairs, to.bytes + (to.element + i) / 2);
    i += 2 * pairs;
  }
  for (; i < count; ++i) copy_one(i);
}

// A slice of an odd number of elements ends with half a byte: it gets the code of the value 0.
inline void pad_codes(uint8_t* bytes, int64_t count) {
  constexpr int kZero = 7;
  if (count % 2 != 0) bytes[count / 2] = static_cast<uint8_t>((bytes[count / 2] & 0xf0) | kZero);
}

}  // namespace rankwise
