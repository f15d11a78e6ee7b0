// SPDX-License-Identifier: Apache-2.0
// DataLoader: packed micro-batches of one data shard; its position is one counter.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "runtime/data/dataset.h"
#include "runtime/data/micro_batch.h"

namespace rankwise {

struct LoaderOptions {
  uint64_t seed = 42;
  bool shuffle = true;
  bool packing = true;
  int64_t seq_len = 2048;
  int64_t global_batch = 8;  // rows (samples, or packed rows of at most seq_len tokens) per step
  int64_t micro_batch = 1;   // rows per forward pass of one shard
  int shard_index = 0;
  int shard_count = 1;       // global_batch must be a multiple of micro_batch * shard_count
};

// The rows of step s are a pure function of (seed, samples, options without shard), the same for
// every shard count: shard i takes rows [i * per_shard, (i + 1) * per_shard) of each global batch.
// Row order within an epoch is a function of (seed, epoch). A global batch may run across the end of
// an epoch into the next. ConfigError when ranks do not divide the batch.
class DataLoader {
 public:
  DataLoader(std::shared_ptr<const Dataset> dataset, const LoaderOptions& options);
  ~DataLoader();

  // The micro-batches of this shard for the step at position(), then position() + 1.
  std::vector<MicroBatch> next_step();
  int64_t position() const { return position_; }  // steps taken
  void seek(int64_t position) { position_ = position; }
  int64_t rows_per_epoch() const;  // of epoch 0; packed rows when packing
  double epochs_at(int64_t position) const;  // fraction of epochs consumed

 private:
  struct EpochRows;
  const EpochRows& epoch(int64_t index);

  std::shared_ptr<const Dataset> dataset_;
  LoaderOptions options_;
  int64_t position_ = 0;
  int64_t rows_in_first_epoch_ = 0;
  std::unique_ptr<EpochRows> cache_[2];
};

// First-fit-decreasing in windows of the given order: rows of sample indices whose lengths add up to
// at most seq_len. Deterministic; every index exactly once.
std::vector<std::vector<uint32_t>> pack_rows(const std::vector<uint32_t>& order,
                                             const std::vector<Sample>& samples, int64_t seq_len);

}  // namespace rankwise
