// SPDX-License-Identifier: Apache-2.0
// What tests of loaders compare: which documents micro-batches hold, when each repeats one id.
#pragma once

#include <vector>

#include "runtime/data/micro_batch.h"

namespace rankwise::testing {

// The first id of every document, in order.
inline std::vector<int32_t> documents(const std::vector<MicroBatch>& batches) {
  std::vector<int32_t> out;
  for (const MicroBatch& batch : batches) {
    for (size_t d = 0; d + 1 < batch.document_offsets.size(); ++d) {
      out.push_back(batch.input_ids[static_cast<size_t>(batch.document_offsets[d])]);
    }
  }
  return out;
}

}  // namespace rankwise::testing
