// SPDX-License-Identifier: Apache-2.0
#include "runtime/data/data_loader.h"

#include <limits>
#include <numeric>

#include "runtime/errors.h"
#include "runtime/rng.h"

namespace rankwise {
namespace {

void check_options(const LoaderOptions& options) {
  RW_ASSERT(0 <= options.shard_index && options.shard_index < options.shard_count, "shard {} of {}",
            options.shard_index, options.shard_count);
  if (options.global_batch < 1 || options.micro_batch < 1) {
    throw ConfigError(fmt::format("train.global_batch {} and train.micro_batch {} must be positive",
                                  options.global_batch, options.micro_batch));
  }
  // Divided one by one: the product of two large values would overflow.
  if (options.global_batch % options.shard_count != 0 ||
      options.global_batch / options.shard_count % options.micro_batch != 0) {
    throw ConfigError(fmt::format(
        "train.global_batch {} is not a multiple of train.micro_batch {} times {} data ranks",
        options.global_batch, options.micro_batch, options.shard_count));
  }
}

}  // namespace

DataLoader::DataLoader(std::shared_ptr<const Dataset> dataset, const LoaderOptions& options)
    : dataset_(std::move(dataset)), options_(options) {
  check_options(options_);
  const size_t samples = dataset_->samples.size();
  if (samples == 0) throw DataError("data.train: no sample to train on");
  if (samples > std::numeric_limits<uint32_t>::max()) {
    throw DataError(fmt::format("data.train: {} samples are more than 2^32 - 1", samples));
  }
  const auto count = static_cast<uint32_t>(samples);
  std::vector<uint32_t> order(count);
  std::iota(order.begin(), order.end(), 0U);
  if (!options_.packing) {
    for (const uint32_t index : order) rows_.push_back({index});
    return;
  }
  if (options_.shuffle) order = Rng(options_.seed, "packing").permutation(count);
  rows_ = pack_rows(order, dataset_->samples, options_.seq_len);
}

std::vector<MicroBatch> DataLoader::next_step() {
  const int64_t per_shard = options_.global_batch / options_.shard_count;
  const int64_t batch_begin = position_ * options_.global_batch;
  const int64_t shard_begin = batch_begin + options_.shard_index * per_shard;
  int64_t first_token = 0;
  for (int64_t index = batch_begin; index < shard_begin; ++index) {
    for (const uint32_t sample : row_at(index)) {
      first_token += static_cast<int64_t>(dataset_->samples[sample].input_ids.size());
    }
  }
  std::vector<MicroBatch> batches(static_cast<size_t>(per_shard / options_.micro_batch));
  int64_t index = shard_begin;
  for (MicroBatch& batch : batches) {
    batch.first_token = first_token;
    for (int64_t i = 0; i < options_.micro_batch; ++i) {
      append_documents(batch, dataset_->samples, row_at(index++));
    }
    first_token += batch.tokens();
  }
  ++position_;
  return batches;
}

double DataLoader::epochs_at(int64_t position) const {
  return static_cast<double>(position) * static_cast<double>(options_.global_batch) /
         static_cast<double>(rows_per_epoch());
}

const std::vector<uint32_t>& DataLoader::row_at(int64_t index) {
  const int64_t epoch = index / rows_per_epoch();
  const auto place = static_cast<size_t>(index % rows_per_epoch());
  if (!options_.shuffle) return rows_[place];
  if (epoch != epoch_) {
    epoch_order_ = Rng(options_.seed, "epoch", static_cast<uint64_t>(epoch))
                       .permutation(static_cast<uint32_t>(rows_.size()));
    epoch_ = epoch;
  }
  return rows_[epoch_order_[place]];
}

}  // namespace rankwise
