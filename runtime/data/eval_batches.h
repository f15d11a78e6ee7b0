// SPDX-License-Identifier: Apache-2.0
// eval_batches: the micro-batches of one ordered pass over a dataset for one data shard.
#pragma once

#include <cstdint>
#include <vector>

#include "runtime/data/dataset.h"
#include "runtime/data/micro_batch.h"

namespace rankwise {

struct EvalOptions {
  bool packing = true;
  int64_t seq_len = 2048;
  int64_t micro_batch = 1;  // rows per forward pass of one shard
  int64_t batch_rows = 8;   // rows of one evaluation batch over all shards
  int64_t max_batches = 0;  // 0: the whole dataset
  int shard_index = 0;
  int shard_count = 1;
};

// Rows in file order (one sample each, or packed), the first max_batches * batch_rows of them,
// dealt to the shards in contiguous blocks whose sizes differ by at most one row. Which documents
// are evaluated does not depend on the shard count, and none is repeated or padded: the last
// micro-batch may be short, shards may have one micro-batch less than others, even none.
std::vector<MicroBatch> eval_batches(const Dataset& dataset, const EvalOptions& options);

}  // namespace rankwise
