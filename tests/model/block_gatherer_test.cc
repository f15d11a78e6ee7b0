// SPDX-License-Identifier: Apache-2.0
#include "model/block_gatherer.h"

#include <gtest/gtest.h>

#include "model/hf_folder.h"
#include "tests/model/slice_loading.h"
#include "tests/model/tiny_config.h"
#include "tests/model/training_rig.h"
#include "tests/support/thread_ranks.h"

namespace rankwise {
namespace {

using testing::CountingSource;
using testing::RigOptions;
using testing::TrainingRig;

// Four blocks.
ModelConfig config() { return testing::tiny_config({{"num_hidden_layers", 4}}); }

RigOptions options(Communicator* world, bool shard_base, int tensor = 1) {
  RigOptions out = testing::with_lora({.rank = 2});
  out.plan.quantize_nf4 = true;
  out.plan.shard_base = shard_base;
  out.world = world;
  out.tensor = tensor;
  return out;
}

int64_t bytes_of(const Arena& arena, std::string_view purpose) {
  for (const Arena::Usage& usage : arena.usage()) {
    if (usage.purpose == purpose) return usage.peak_bytes;
  }
  return 0;
}

TEST(BlockGatherer, GatheredWeightsAreThoseOfOneRank) {
  const auto weights = make_random_weights(config(), 3);
  TrainingRig alone(config(), *weights, options(nullptr, false));
  const Tensor expected = alone.logits(testing::three_documents());
  for (const int ranks : {2, 3}) {
    run_ranks_as_threads(ranks, [&](Communicator& world) {
      TrainingRig rig(config(), *weights, options(&world, true));
      for (int pass = 0; pass < 2; ++pass) {  // the second finds the last two blocks in memory
        EXPECT_TRUE(testing::same_bits(rig.logits(testing::three_documents()), expected));
      }
    });
  }
}

TEST(BlockGatherer, RanksHoldTheirShareAndTwoBlocks) {
  const auto weights = make_random_weights(config(), 3);
  TrainingRig alone(config(), *weights, options(nullptr, false));
  run_ranks_as_threads(4, [&](Communicator& world) {
    TrainingRig whole(config(), *weights, options(&world, false));
    TrainingRig rig(config(), *weights, options(&world, true));
    const int64_t all = bytes_of(whole.arena(), "weights");
    const int64_t halves = bytes_of(rig.arena(), "gathered weights");
    const int64_t dense = all - 2 * halves;  // four blocks are two times two
    EXPECT_GT(halves, 0);
    EXPECT_LE(bytes_of(rig.arena(), "weights"), dense + 2 * halves / 4 + 16 * Arena::kAlignment);
  });
}

TEST(BlockGatherer, RanksTakeTurnsInReading) {
  const auto weights = make_random_weights(config(), 3);
  int64_t of_linears = 0;
  int64_t of_others = 0;
  for (const auto& [name, shape] : weight_shapes(config())) {
    (is_block_linear(config(), name, shape) ? of_linears : of_others) += shape.numel();
  }
  run_ranks_as_threads(2, [&](Communicator& world) {
    const CountingSource counting(*weights);
    TrainingRig rig(config(), counting, options(&world, true));
    // 28 matrices of different sizes, dealt one by one.
    EXPECT_LE(counting.elements, of_others + of_linears * 6 / 10);
    EXPECT_GE(counting.elements, of_others + of_linears * 4 / 10);
  });
}

TEST(BlockGatherer, OneDataRankKeepsItsWeights) {
  const auto weights = make_random_weights(config(), 3);
  run_ranks_as_threads(2, [&](Communicator& world) {
    TrainingRig rig(config(), *weights, options(&world, true, /*tensor=*/2));
    EXPECT_EQ(bytes_of(rig.arena(), "gathered weights"), 0);
    rig.logits(testing::three_documents());
  });
}

}  // namespace
}  // namespace rankwise
