// SPDX-License-Identifier: Apache-2.0
#include "runtime/data/data_loader.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <map>
#include <set>

#include "runtime/errors.h"
#include "runtime/rng.h"
#include "tests/runtime/data/documents.h"
#include "tests/support/error_of.h"

namespace rankwise {
namespace {

using testing::documents;
using testing::error_of;
using Ids = std::vector<int32_t>;

// Sample i holds the id i, one to `longest` times.
std::shared_ptr<const Dataset> numbered_dataset(int32_t count, uint64_t longest) {
  const Rng rng(11, "lengths");
  auto dataset = std::make_shared<Dataset>();
  for (int32_t i = 0; i < count; ++i) {
    const size_t length = 1 + rng.below(static_cast<uint64_t>(i), longest);
    dataset->samples.push_back({Ids(length, i), Ids(length, i)});
  }
  return dataset;
}

Ids epoch_documents(DataLoader& loader, int64_t steps) {
  Ids out;
  for (int64_t step = 0; step < steps; ++step) {
    const Ids documents_of_step = documents(loader.next_step());
    out.insert(out.end(), documents_of_step.begin(), documents_of_step.end());
  }
  return out;
}

LoaderOptions small_options() {
  LoaderOptions options;
  options.seq_len = 16;
  options.global_batch = 8;
  options.packing = false;
  return options;
}

TEST(DataLoader, WithoutShuffleAndPackingRowsKeepFileOrder) {
  LoaderOptions options = small_options();
  options.shuffle = false;
  options.global_batch = 4;
  DataLoader loader(numbered_dataset(6, 3), options);
  EXPECT_EQ(documents(loader.next_step()), (Ids{0, 1, 2, 3}));
  EXPECT_EQ(documents(loader.next_step()), (Ids{4, 5, 0, 1}));
  EXPECT_EQ(documents(loader.next_step()), (Ids{2, 3, 4, 5}));
}

TEST(DataLoader, EveryEpochVisitsEverySampleOnceInAnotherOrder) {
  for (const bool packing : {false, true}) {
    LoaderOptions options = small_options();
    options.packing = packing;
    options.global_batch = 1;
    DataLoader loader(numbered_dataset(50, 9), options);
    const Ids first = epoch_documents(loader, loader.rows_per_epoch());
    const Ids second = epoch_documents(loader, loader.rows_per_epoch());
    EXPECT_NE(first, second);
    for (Ids seen : {first, second}) {
      std::sort(seen.begin(), seen.end());
      for (int32_t i = 0; i < 50; ++i) EXPECT_EQ(seen[static_cast<size_t>(i)], i);
      EXPECT_EQ(seen.size(), 50U);
    }
  }
}

TEST(DataLoader, RowsAreTheSameForEveryShardCountAndAccumulation) {
  const auto dataset = numbered_dataset(37, 9);
  for (const bool packing : {false, true}) {
    LoaderOptions options = small_options();
    options.packing = packing;
    DataLoader whole(dataset, options);
    std::vector<Ids> expected;
    for (int step = 0; step < 20; ++step) expected.push_back(documents(whole.next_step()));

    for (const int shards : {1, 2, 4, 8}) {
      for (int64_t micro_batch = 1; micro_batch * shards <= 8; micro_batch *= 2) {
        std::vector<Ids> found(expected.size());
        for (int shard = 0; shard < shards; ++shard) {
          options.shard_index = shard;
          options.shard_count = shards;
          options.micro_batch = micro_batch;
          DataLoader loader(dataset, options);
          for (Ids& step : found) {
            const auto batches = loader.next_step();
            EXPECT_EQ(batches.size(), static_cast<size_t>(8 / shards / micro_batch));
            const Ids part = documents(batches);
            step.insert(step.end(), part.begin(), part.end());
          }
        }
        EXPECT_EQ(found, expected) << shards << " shards, micro-batch " << micro_batch;
      }
    }
  }
}

TEST(DataLoader, FirstTokenIsThePlaceInTheGlobalBatchForEveryShardCount) {
  const auto dataset = numbered_dataset(20, 9);
  LoaderOptions options = small_options();
  options.packing = true;
  for (const int shards : {1, 2, 4}) {
    options.shard_count = shards;
    for (int64_t step = 0; step < 5; ++step) {
      int64_t tokens = 0;
      for (int shard = 0; shard < shards; ++shard) {
        options.shard_index = shard;
        DataLoader loader(dataset, options);
        loader.seek(step);
        for (const MicroBatch& batch : loader.next_step()) {
          EXPECT_EQ(batch.first_token, tokens);
          tokens += batch.tokens();
        }
      }
    }
  }
}

TEST(DataLoader, SeekContinuesExactlyThere) {
  const auto dataset = numbered_dataset(23, 9);
  LoaderOptions options = small_options();
  options.packing = true;
  DataLoader loader(dataset, options);
  std::vector<Ids> steps;
  for (int i = 0; i < 30; ++i) steps.push_back(documents(loader.next_step()));
  EXPECT_EQ(loader.position(), 30);
  for (const int64_t position : {29, 0, 17, 4}) {
    loader.seek(position);
    EXPECT_EQ(documents(loader.next_step()), steps[static_cast<size_t>(position)]);
    DataLoader fresh(dataset, options);
    fresh.seek(position);
    EXPECT_EQ(documents(fresh.next_step()), steps[static_cast<size_t>(position)]);
    EXPECT_EQ(fresh.position(), position + 1);
  }
}

TEST(DataLoader, SeedDecidesTheOrder) {
  const auto dataset = numbered_dataset(64, 1);
  LoaderOptions options = small_options();
  const Ids first = documents(DataLoader(dataset, options).next_step());
  EXPECT_EQ(documents(DataLoader(dataset, options).next_step()), first);
  options.seed = 43;
  EXPECT_NE(documents(DataLoader(dataset, options).next_step()), first);
}

TEST(DataLoader, GlobalBatchMayHoldSeveralEpochs) {
  LoaderOptions options = small_options();
  DataLoader loader(numbered_dataset(3, 2), options);
  std::map<int32_t, int> times;
  for (const int32_t id : epoch_documents(loader, 3)) ++times[id];  // 24 rows, 8 epochs
  EXPECT_EQ(times, (std::map<int32_t, int>{{0, 8}, {1, 8}, {2, 8}}));
}

TEST(DataLoader, PackedAndUnpackedEpochsHoldTheSameTokensAndTargets) {
  const auto dataset = numbered_dataset(40, 9);
  const auto epoch = [&](bool packing) {
    LoaderOptions options = small_options();
    options.packing = packing;
    options.global_batch = 1;
    DataLoader loader(dataset, options);
    std::vector<std::array<int32_t, 3>> tokens;  // id, target, position
    for (int64_t row = 0; row < loader.rows_per_epoch(); ++row) {
      for (const MicroBatch& batch : loader.next_step()) {
        EXPECT_LE(batch.tokens(), options.seq_len);
        for (size_t t = 0; t < batch.input_ids.size(); ++t) {
          tokens.push_back({batch.input_ids[t], batch.targets[t], batch.positions[t]});
        }
      }
    }
    std::sort(tokens.begin(), tokens.end());
    return tokens;
  };
  EXPECT_EQ(epoch(true), epoch(false));
}

TEST(DataLoader, PackingNeedsFewerRows) {
  LoaderOptions options = small_options();
  options.packing = true;
  DataLoader loader(numbered_dataset(100, 4), options);
  EXPECT_LT(loader.rows_per_epoch(), 25);
}

TEST(DataLoader, SeedDecidesWhichSamplesShareARow) {
  const auto dataset = numbered_dataset(60, 9);
  const auto rows = [&](uint64_t seed, bool shuffle) {
    LoaderOptions options = small_options();
    options.packing = true;
    options.global_batch = 1;
    options.seed = seed;
    options.shuffle = shuffle;
    DataLoader loader(dataset, options);
    std::set<std::set<int32_t>> out;
    for (int64_t row = 0; row < loader.rows_per_epoch(); ++row) {
      const Ids ids = documents(loader.next_step());
      out.insert(std::set<int32_t>(ids.begin(), ids.end()));
    }
    return out;
  };
  EXPECT_EQ(rows(1, true), rows(1, true));
  EXPECT_NE(rows(1, true), rows(2, true));
  EXPECT_EQ(rows(1, false), rows(2, false));
}

TEST(DataLoader, MicroBatchHoldsItsRowsAsDocuments) {
  LoaderOptions options = small_options();
  options.shuffle = false;
  options.micro_batch = 2;
  options.global_batch = 2;
  auto dataset = std::make_shared<Dataset>();
  dataset->samples = {{{5, 6}, {5, 6}}, {{7, 8, 9}, {kIgnoredLabel, kIgnoredLabel, 9}}};
  const auto batches = DataLoader(dataset, options).next_step();
  ASSERT_EQ(batches.size(), 1U);
  EXPECT_EQ(batches[0].input_ids, (Ids{5, 6, 7, 8, 9}));
  EXPECT_EQ(batches[0].targets, (Ids{6, kIgnoredLabel, kIgnoredLabel, 9, kIgnoredLabel}));
  EXPECT_EQ(batches[0].positions, (Ids{0, 1, 0, 1, 2}));
  EXPECT_EQ(batches[0].document_offsets, (Ids{0, 2, 5}));
  EXPECT_EQ(batches[0].trained_tokens, 2);
}

TEST(DataLoader, EpochsAreCountedWithTheirFraction) {
  LoaderOptions options = small_options();
  const DataLoader loader(numbered_dataset(32, 1), options);
  EXPECT_EQ(loader.rows_per_epoch(), 32);
  EXPECT_DOUBLE_EQ(loader.epochs_at(0), 0.0);
  EXPECT_DOUBLE_EQ(loader.epochs_at(3), 0.75);
  EXPECT_DOUBLE_EQ(loader.epochs_at(6), 1.5);
}

TEST(DataLoader, BatchThatRanksDoNotDivideNamesKeysAndValues) {
  LoaderOptions options = small_options();
  options.global_batch = 12;
  options.micro_batch = 2;
  options.shard_count = 4;
  const auto dataset = numbered_dataset(4, 1);
  RW_EXPECT_HAS(
      error_of<ConfigError>([&] { DataLoader(dataset, options); }),
      "train.global_batch 12 is not a multiple of train.micro_batch 2 times 4 data ranks");
  options.shard_count = 5;
  EXPECT_THROW(DataLoader(dataset, options), ConfigError);
  options.shard_count = 6;
  EXPECT_NO_THROW(DataLoader(dataset, options));
  options.micro_batch = 0;
  RW_EXPECT_HAS(error_of<ConfigError>([&] { DataLoader(dataset, options); }),
                "train.micro_batch 0");
}

TEST(DataLoader, EmptyDatasetIsRefused) {
  EXPECT_THROW(DataLoader(std::make_shared<Dataset>(), small_options()), DataError);
}

}  // namespace
}  // namespace rankwise
