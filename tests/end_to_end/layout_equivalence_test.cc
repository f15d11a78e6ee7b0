// SPDX-License-Identifier: Apache-2.0
// Ring 4: the same global batch gives the same training whatever the ranks, the accumulation, the
// packing and the recomputation.
#include <gtest/gtest.h>

#include "tests/end_to_end/small_run.h"

namespace rankwise::testing {
namespace {

constexpr double kRelative = 1e-5;

void expect_close(const SmallRunResult& actual, const SmallRunResult& expected) {
  ASSERT_EQ(actual.losses.size(), expected.losses.size());
  for (size_t step = 0; step < expected.losses.size(); ++step) {
    EXPECT_NEAR(actual.losses[step], expected.losses[step], kRelative * expected.losses[step])
        << "loss of step " << step;
    EXPECT_NEAR(actual.norms[step], expected.norms[step], 1e-4 * expected.norms[step])
        << "norm of step " << step;
  }
}

SmallRunResult train_alone(const TrainConfig& config) {
  const auto world = make_single_communicator();
  return train(config, *world);
}

TEST(LayoutEquivalence, TrainingLowersTheLoss) {
  const SmallRun run;
  const SmallRunResult result = train_alone(run.config({"train.steps=30"}));
  EXPECT_LT(result.losses.back(), 0.9 * result.losses.front());
}

TEST(LayoutEquivalence, OneTwoAndFourRanksGiveTheSameLosses) {
  const SmallRun run;
  const SmallRunResult alone = train_alone(run.config());
  for (int ranks : {2, 4}) {
    SCOPED_TRACE(ranks);
    expect_close(train_on_threads(run.config(), ranks), alone);
  }
}

TEST(LayoutEquivalence, AccumulationOneTwoAndFourGiveTheSameLosses) {
  const SmallRun run;
  const SmallRunResult one = train_alone(run.config({"train.micro_batch=8"}));
  for (const char* micro_batch : {"train.micro_batch=4", "train.micro_batch=2"}) {
    SCOPED_TRACE(micro_batch);
    expect_close(train_alone(run.config({micro_batch})), one);
  }
}

// One choice of triplets and one regulariser for each optimizer step, not for each micro-batch.
TEST(LayoutEquivalence, AccumulationDoesNotChangeWhatAdaLoraCounts) {
  const SmallRun run;
  const auto train_with = [&](const char* micro_batch) {
    return train_alone(
        run.config({"adapt.0={method: adalora, alpha: 8, adalora: {init_rank: 4, "
                    "target_rank: 2, warmup: 1, final: 2, interval: 1}}",
                    "train.steps=8", micro_batch}));
  };
  const SmallRunResult one = train_with("train.micro_batch=8");
  ASSERT_EQ(one.kept.size(), 8u);
  EXPECT_NE(one.kept.front(), one.kept.back());
  for (const char* micro_batch : {"train.micro_batch=4", "train.micro_batch=2"}) {
    SCOPED_TRACE(micro_batch);
    const SmallRunResult accumulated = train_with(micro_batch);
    expect_close(accumulated, one);
    EXPECT_EQ(accumulated.kept, one.kept);
  }
}

TEST(LayoutEquivalence, RanksTimesAccumulationGiveTheSameLosses) {
  const SmallRun run;
  const SmallRunResult alone = train_alone(run.config({"train.micro_batch=8"}));
  expect_close(train_on_threads(run.config({"train.micro_batch=2"}), 2), alone);
  expect_close(train_on_threads(run.config({"train.micro_batch=1"}), 4), alone);
}

TEST(LayoutEquivalence, PackedEqualsUnpacked) {
  // One global batch holds the whole data either way, so every step sees the same documents.
  const SmallRun run({.rows = 8, .min_length = 16, .max_length = 16});
  const SmallRunResult unpacked = train_alone(run.config({"train.global_batch=8"}));
  const SmallRunResult packed = train_alone(run.config(
      {"data.packing=true", "data.seq_len=64", "train.global_batch=2", "train.micro_batch=2"}));
  expect_close(packed, unpacked);
}

TEST(LayoutEquivalence, RecomputeOnEqualsOffBitForBit) {
  const SmallRun run;
  const std::vector<std::string> dropout = {"adapt.0.dropout=0.1"};
  const SmallRunResult kept = train_alone(run.config(dropout));
  for (const char* recompute : {"train.recompute=selective", "train.recompute=full"}) {
    const SmallRunResult recomputed = train_alone(run.config({"adapt.0.dropout=0.1", recompute}));
    EXPECT_EQ(kept.losses, recomputed.losses);
    EXPECT_EQ(kept.norms, recomputed.norms);
    EXPECT_EQ(kept.adapter, recomputed.adapter);
  }
}

TEST(LayoutEquivalence, QuantisedBaseTrainsTheSameOnTwoRanks) {
  const SmallRun run;
  const std::vector<std::string> nf4 = {"model.quant=nf4"};
  expect_close(train_on_threads(run.config(nf4), 2), train_alone(run.config(nf4)));
}

TEST(LayoutEquivalence, FullTrainingIsTheSameOnTwoRanks) {
  const SmallRun run;
  TrainConfig config = run.config();
  AdaptRule rule;
  rule.match = {"*"};
  rule.method = AdaptMethod::kFull;
  config.adapt = {rule};
  expect_close(train_on_threads(config, 2), train_alone(config));
}

std::vector<std::string> with(std::vector<std::string> overrides, const std::string& one_more) {
  overrides.push_back(one_more);
  return overrides;
}

TEST(LayoutEquivalence, TensorRanksGiveTheSameLosses) {
  const SmallRun run;
  for (const std::vector<std::string>& base : {std::vector<std::string>{},
                                               {"model.quant=nf4"},
                                               {"adapt.0.dropout=0.2"},
                                               {"model.quant=nf4", "train.recompute=full"}}) {
    const SmallRunResult alone = train_alone(run.config(base));
    expect_close(train_on_threads(run.config(with(base, "parallel.tensor=2")), 2), alone);
    expect_close(train_on_threads(run.config(with(base, "parallel.tensor=2")), 4), alone);
    expect_close(train_on_threads(run.config(with(base, "parallel.tensor=4")), 4), alone);
  }
}

TEST(LayoutEquivalence, FullTrainingIsTheSameOnTensorRanks) {
  const SmallRun run;
  TrainConfig config = run.config();
  AdaptRule rule;
  rule.match = {"*"};
  rule.method = AdaptMethod::kFull;
  config.adapt = {rule};
  const SmallRunResult alone = train_alone(config);
  config.parallel.tensor = 2;
  expect_close(train_on_threads(config, 2), alone);
  expect_close(train_on_threads(config, 4), alone);
}

TEST(LayoutEquivalence, BaseSplitOverDataRanksGivesTheSameBits) {
  const SmallRun run;
  for (const char* recompute : {"train.recompute=none", "train.recompute=full"}) {
    const std::vector<std::string> base = {"model.quant=nf4", recompute};
    const std::vector<std::string> split = with(base, "parallel.shard_base=data");
    for (const int ranks : {2, 3, 4}) {
      SCOPED_TRACE(ranks);
      const std::string batch = fmt::format("train.global_batch={}", ranks * 2);
      const SmallRunResult whole = train_on_threads(run.config(with(base, batch)), ranks);
      const SmallRunResult parts = train_on_threads(run.config(with(split, batch)), ranks);
      EXPECT_EQ(parts.losses, whole.losses);
      EXPECT_EQ(parts.adapter, whole.adapter);
    }
    const SmallRunResult mixed = train_on_threads(run.config(with(split, "parallel.tensor=2")), 4);
    expect_close(mixed, train_alone(run.config(base)));
  }
}

TEST(LayoutEquivalence, SameRunTwiceIsTheSameBitForBit) {
  const SmallRun run;
  EXPECT_EQ(train_alone(run.config()).adapter, train_alone(run.config()).adapter);
  EXPECT_EQ(train_on_threads(run.config(), 2).adapter, train_on_threads(run.config(), 2).adapter);
}

}  // namespace
}  // namespace rankwise::testing
