// SPDX-License-Identifier: Apache-2.0
#include "launch/slot_score.h"

#include <vector>

namespace rankwise {
namespace {

std::string_view trimmed(std::string_view text) {
  constexpr std::string_view kBlanks = " \t\r\n";
  const size_t begin = text.find_first_not_of(kBlanks);
  if (begin == std::string_view::npos) return {};
  return text.substr(begin, text.find_last_not_of(kBlanks) - begin + 1);
}

std::vector<std::string_view> slots_of(std::string_view text) {
  std::vector<std::string_view> slots;
  while (true) {
    const size_t bar = text.find('|');
    slots.push_back(trimmed(text.substr(0, bar)));
    if (bar == std::string_view::npos) return slots;
    text.remove_prefix(bar + 1);
  }
}

double share(int64_t part, int64_t whole) {
  return whole == 0 ? 0.0 : static_cast<double>(part) / static_cast<double>(whole);
}

}  // namespace

void SlotScore::add(std::string_view expected, std::string_view generated) {
  const std::vector<std::string_view> wanted = slots_of(expected);
  const std::vector<std::string_view> given = slots_of(generated);
  ++rows;
  if (trimmed(expected) == trimmed(generated)) ++exact_rows;
  slots += static_cast<int64_t>(wanted.size());
  for (size_t i = 0; i < wanted.size() && i < given.size(); ++i) {
    if (wanted[i] == given[i]) ++right_slots;
  }
}

double SlotScore::exact_match() const { return share(exact_rows, rows); }
double SlotScore::slot_accuracy() const { return share(right_slots, slots); }

}  // namespace rankwise
