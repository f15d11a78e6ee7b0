// SPDX-License-Identifier: Apache-2.0
// DataLoader: packed micro-batches of one data shard; its position is one counter.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "runtime/data/dataset.h"
#include "runtime/data/micro_batch.h"
#include "runtime/data/pack_rows.h"

namespace rankwise {

struct LoaderOptions {
  uint64_t seed = 42;
  bool shuffle = true;
  bool packing = true;
  int64_t seq_len = 2048;
  int64_t global_batch = 8;  // rows (samples, or packed rows of at most seq_len tokens) per step
  int64_t micro_batch = 1;   // rows per forward pass of one shard
  int shard_index = 0;
  int shard_count = 1;  // global_batch must be a multiple of micro_batch * shard_count
};

// Rows are made once: packed from the samples in an order drawn from the seed (file order without
// shuffle), or one sample each without packing. Every epoch visits every row once, in an order that
// is a function of (seed, epoch) (always the same without shuffle); a global batch may run across
// the end of an epoch into the next. The rows of step s are therefore a pure function of (seed,
// samples, options without shard), the same for every shard count: shard i takes rows
// [i * per_shard, (i + 1) * per_shard) of each global batch, with
// per_shard = global_batch / shard_count.
class DataLoader {
 public:
  // ConfigError when the shards and micro-batches do not divide the global batch; DataError when
  // there is no row.
  DataLoader(std::shared_ptr<const Dataset> dataset, const LoaderOptions& options);

  // The micro-batches of this shard for the step at position(), then position() + 1.
  std::vector<MicroBatch> next_step();
  int64_t position() const { return position_; }  // steps taken
  void seek(int64_t position) { position_ = position; }
  int64_t rows_per_epoch() const { return static_cast<int64_t>(rows_.size()); }
  double epochs_at(int64_t position) const;  // epochs consumed, with fraction

 private:
  // The sample indices of row `index`, counted through all epochs.
  const std::vector<uint32_t>& row_at(int64_t index);

  std::shared_ptr<const Dataset> dataset_;
  LoaderOptions options_;
  SampleRows rows_;
  int64_t position_ = 0;
  int64_t epoch_ = -1;                 // whose order is kept
  std::vector<uint32_t> epoch_order_;  // of rows_; empty without shuffle
};

}  // namespace rankwise
