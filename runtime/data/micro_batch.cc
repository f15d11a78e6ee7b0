// SPDX-License-Identifier: Apache-2.0
#include "runtime/data/micro_batch.h"

#include <algorithm>
#include <limits>

#include "runtime/errors.h"

namespace rankwise {

int64_t MicroBatch::longest_document() const {
  int64_t longest = 0;
  for (size_t d = 1; d < document_offsets.size(); ++d) {
    longest = std::max<int64_t>(longest, document_offsets[d] - document_offsets[d - 1]);
  }
  return longest;
}

void append_document(MicroBatch& batch, const Sample& sample) {
  const size_t length = sample.input_ids.size();
  RW_ASSERT(length > 0 && sample.labels.size() == length, "{} ids, {} labels", length,
            sample.labels.size());
  const size_t end = batch.input_ids.size() + length;
  RW_ASSERT(end <= std::numeric_limits<int32_t>::max(), "{} tokens", end);

  if (batch.document_offsets.empty()) batch.document_offsets.push_back(0);
  batch.input_ids.insert(batch.input_ids.end(), sample.input_ids.begin(), sample.input_ids.end());
  batch.targets.insert(batch.targets.end(), sample.labels.begin() + 1, sample.labels.end());
  batch.targets.push_back(kIgnoredLabel);
  for (size_t i = 0; i < length; ++i) batch.positions.push_back(static_cast<int32_t>(i));
  batch.document_offsets.push_back(static_cast<int32_t>(end));
  batch.trained_tokens += trained_tokens(sample);
}

void append_documents(MicroBatch& batch, const std::vector<Sample>& samples,
                      std::span<const uint32_t> indices) {
  for (const uint32_t index : indices) append_document(batch, samples[index]);
}

}  // namespace rankwise
