// SPDX-License-Identifier: Apache-2.0
// Sample: one tokenised document with its labels.
#pragma once

#include <cstdint>
#include <vector>

namespace rankwise {

inline constexpr int32_t kIgnoredLabel = -100;

// labels[i] belongs to input_ids[i] (not shifted); kIgnoredLabel where nothing is learnt.
struct Sample {
  std::vector<int32_t> input_ids;
  std::vector<int32_t> labels;
};

// Labels that can be learnt: labels[0] never is, no token precedes it.
int64_t trained_tokens(const Sample& sample);

}  // namespace rankwise
