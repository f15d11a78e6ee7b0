// SPDX-License-Identifier: Apache-2.0
// SampleRows: which samples share a row of at most seq_len tokens.
#pragma once

#include <cstdint>
#include <vector>

#include "runtime/data/sample.h"

namespace rankwise {

// Each row: indices of the samples that lie in it.
using SampleRows = std::vector<std::vector<uint32_t>>;

// First-fit-decreasing in windows of the given order: rows whose samples' lengths add up to at most
// seq_len. Deterministic; every index exactly once. Rows follow the order of their first sample,
// samples in a row the given order. No sample may be longer than seq_len.
SampleRows pack_rows(const std::vector<uint32_t>& order, const std::vector<Sample>& samples,
                     int64_t seq_len);

}  // namespace rankwise
