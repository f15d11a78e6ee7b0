// SPDX-License-Identifier: Apache-2.0
#include "runtime/data/eval_batches.h"

#include <algorithm>
#include <numeric>

#include "runtime/data/pack_rows.h"
#include "runtime/errors.h"

namespace rankwise {
namespace {

SampleRows ordered_rows(const std::vector<Sample>& samples, const EvalOptions& options) {
  std::vector<uint32_t> order(samples.size());
  std::iota(order.begin(), order.end(), 0U);
  if (options.packing) return pack_rows(order, samples, options.seq_len);
  SampleRows rows;
  for (const uint32_t index : order) rows.push_back({index});
  return rows;
}

}  // namespace

std::vector<MicroBatch> eval_batches(const Dataset& dataset, const EvalOptions& options) {
  RW_ASSERT(0 <= options.shard_index && options.shard_index < options.shard_count, "shard {} of {}",
            options.shard_index, options.shard_count);
  RW_ASSERT(options.micro_batch > 0 && options.batch_rows > 0 && options.max_batches >= 0,
            "{} {} {}", options.micro_batch, options.batch_rows, options.max_batches);
  const SampleRows rows = ordered_rows(dataset.samples, options);

  auto count = static_cast<int64_t>(rows.size());
  // Compared by division: a huge limit must not overflow.
  if (options.max_batches > 0 && options.max_batches < count / options.batch_rows + 1) {
    count = std::min(count, options.max_batches * options.batch_rows);
  }
  const int64_t begin = count * options.shard_index / options.shard_count;
  const int64_t end = count * (options.shard_index + 1) / options.shard_count;
  std::vector<MicroBatch> batches;
  for (int64_t row = begin; row < end; ++row) {
    if ((row - begin) % options.micro_batch == 0) batches.emplace_back();
    append_documents(batches.back(), dataset.samples, rows[static_cast<size_t>(row)]);
  }
  return batches;
}

}  // namespace rankwise
