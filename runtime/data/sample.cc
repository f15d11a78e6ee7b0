// SPDX-License-Identifier: Apache-2.0
#include "runtime/data/sample.h"

#include <algorithm>

namespace rankwise {

int64_t trained_tokens(const Sample& sample) {
  if (sample.labels.empty()) return 0;
  return std::count_if(sample.labels.begin() + 1, sample.labels.end(),
                       [](int32_t label) { return label != kIgnoredLabel; });
}

}  // namespace rankwise
