// SPDX-License-Identifier: Apache-2.0
#include "runtime/data/eval_batches.h"

#include <gtest/gtest.h>

#include "tests/runtime/data/documents.h"

namespace rankwise {
namespace {

using testing::documents;
using Ids = std::vector<int32_t>;

// Sample i: the id i twice.
Dataset numbered_dataset(int32_t count) {
  Dataset dataset;
  for (int32_t i = 0; i < count; ++i) dataset.samples.push_back({{i, i}, {i, i}});
  return dataset;
}

Ids documents_of_all_shards(const Dataset& dataset, EvalOptions options, int shards) {
  Ids out;
  options.shard_count = shards;
  for (int shard = 0; shard < shards; ++shard) {
    options.shard_index = shard;
    const Ids part = documents(eval_batches(dataset, options));
    out.insert(out.end(), part.begin(), part.end());
  }
  return out;
}

EvalOptions unpacked(int64_t micro_batch) {
  EvalOptions options;
  options.packing = false;
  options.micro_batch = micro_batch;
  return options;
}

TEST(EvalBatches, OnePassInOrderWithAShortLastBatch) {
  const auto batches = eval_batches(numbered_dataset(5), unpacked(2));
  ASSERT_EQ(batches.size(), 3U);
  EXPECT_EQ(batches[2].input_ids, (Ids{4, 4}));
  EXPECT_EQ(batches[2].targets, (Ids{4, kIgnoredLabel}));
  EXPECT_EQ(documents(batches), (Ids{0, 1, 2, 3, 4}));
}

TEST(EvalBatches, DocumentsDoNotDependOnShardsOrMicroBatch) {
  const Dataset dataset = numbered_dataset(13);
  for (const int64_t limit : {0, 1, 2, 3, 100}) {
    EvalOptions options = unpacked(1);
    options.max_batches = limit;
    options.batch_rows = 4;
    const Ids expected = documents(eval_batches(dataset, options));
    EXPECT_EQ(expected.size(), limit == 0 || limit * 4 > 13 ? 13U : static_cast<size_t>(limit * 4));
    for (const int shards : {1, 2, 3, 16}) {
      for (const int64_t micro_batch : {1, 2, 5}) {
        options.micro_batch = micro_batch;
        EXPECT_EQ(documents_of_all_shards(dataset, options, shards), expected);
      }
    }
  }
}

TEST(EvalBatches, ShardsDifferByAtMostOneRow) {
  const Dataset dataset = numbered_dataset(10);
  EvalOptions options = unpacked(1);
  options.shard_count = 4;
  for (int shard = 0; shard < 4; ++shard) {
    options.shard_index = shard;
    const size_t rows = eval_batches(dataset, options).size();
    EXPECT_TRUE(rows == 2 || rows == 3) << rows;
  }
}

TEST(EvalBatches, HugeLimitMeansEverything) {
  EvalOptions options = unpacked(1);
  options.max_batches = INT64_MAX;
  EXPECT_EQ(eval_batches(numbered_dataset(5), options).size(), 5U);
}

TEST(EvalBatches, PackedRowsHoldAtMostSeqLenTokens) {
  EvalOptions options;
  options.seq_len = 5;
  const auto batches = eval_batches(numbered_dataset(5), options);
  ASSERT_EQ(batches.size(), 3U);
  for (const MicroBatch& batch : batches) EXPECT_LE(batch.tokens(), 5);
  EXPECT_EQ(documents(batches), (Ids{0, 1, 2, 3, 4}));
}

TEST(EvalBatches, EmptyDatasetHasNone) {
  EXPECT_TRUE(eval_batches(Dataset(), EvalOptions()).empty());
}

}  // namespace
}  // namespace rankwise
