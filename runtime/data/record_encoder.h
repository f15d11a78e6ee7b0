// SPDX-License-Identifier: Apache-2.0
// encode_record: one record of a data file made into a sample of any length.
#pragma once

#include <string>

#include "runtime/data/dataset.h"
#include "runtime/data/record_reader.h"

namespace rankwise {

// place ("file:row") begins every DataError. Without tokens when the record holds nothing to learn
// (empty completion, output, text or input_ids).
Sample encode_record(const Record& record, const DataSource& source, const Tokenizer* tokenizer,
                     const DatasetOptions& options);

// Plain text (paragraphs) instead of JSON records: format text, file name ending in ".txt".
bool is_plain_text(const DataSource& source);

}  // namespace rankwise
