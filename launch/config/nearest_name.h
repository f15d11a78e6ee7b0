// SPDX-License-Identifier: Apache-2.0
// The valid name a misspelt one was most likely meant to be.
#pragma once

#include <span>
#include <string>
#include <string_view>

namespace rankwise {

// Levenshtein distance in which two swapped neighbours count as one edit (optimal string
// alignment).
int edit_distance(std::string_view a, std::string_view b);

// The nearest candidate when it is near enough to be a misspelling (about a third of the letters
// differ), otherwise "". The first of equally near ones.
std::string nearest_name(std::string_view name, std::span<const std::string> candidates);

}  // namespace rankwise
