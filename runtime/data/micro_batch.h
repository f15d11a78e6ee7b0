// SPDX-License-Identifier: Apache-2.0
// MicroBatch: the tokens of one forward and backward pass, packed without padding.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "runtime/data/sample.h"

namespace rankwise {

// T tokens of D documents laid end to end. Attention never crosses a document; positions restart at
// 0 in each; the target of a document's last token is kIgnoredLabel.
struct MicroBatch {
  std::vector<int32_t> input_ids;         // (T)
  std::vector<int32_t> targets;           // (T), already shifted: targets[t] follows input_ids[t]
  std::vector<int32_t> positions;         // (T)
  std::vector<int32_t> document_offsets;  // (D + 1), first 0, last T
  int64_t trained_tokens = 0;             // targets that are not ignored
  int64_t first_token = 0;  // place of token 0 in the global batch of the step, for dropout

  int64_t tokens() const { return static_cast<int64_t>(input_ids.size()); }
  int64_t documents() const { return static_cast<int64_t>(document_offsets.size()) - 1; }
  int64_t longest_document() const;
};

// Appends one document (a whole sample).
void append_document(MicroBatch& batch, const Sample& sample);
// Appends the samples with these indices, each a document.
void append_documents(MicroBatch& batch, const std::vector<Sample>& samples,
                      std::span<const uint32_t> indices);

}  // namespace rankwise
