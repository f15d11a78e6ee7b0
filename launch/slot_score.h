// SPDX-License-Identifier: Apache-2.0
// SlotScore: how many generated "a | b | c" answers are right, as a whole and slot by slot.
#pragma once

#include <cstdint>
#include <string_view>

namespace rankwise {

struct SlotScore {
  int64_t rows = 0;
  int64_t exact_rows = 0;   // equal but for blanks at either end
  int64_t slots = 0;        // of the expected answers
  int64_t right_slots = 0;  // same position, same text

  void add(std::string_view expected, std::string_view generated);
  double exact_match() const;    // 0 without rows
  double slot_accuracy() const;  // 0 without slots
};

}  // namespace rankwise
