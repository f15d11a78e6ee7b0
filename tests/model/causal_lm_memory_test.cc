// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "model/causal_lm.h"
#include "model/hf_folder.h"
#include "tests/model/tiny_config.h"
#include "tests/model/training_rig.h"

namespace rankwise {
namespace {

using testing::everything_trained;
using testing::random_sample;
using testing::RigOptions;
using testing::three_documents;
using testing::tiny_config;
using testing::TrainingRig;

constexpr uint64_t kWeightSeed = 11;

// With this vocabulary the logits are computed in chunks of 128 tokens.
class LossChunks : public ::testing::Test {
 protected:
  static constexpr int64_t kTokens = 300;
  LossChunks()
      : config(
            tiny_config({{"vocab_size", 65536}, {"hidden_size", 8}, {"initializer_range", 1.0}})),
        weights(make_random_weights(config, kWeightSeed)),
        rig(config, *weights, testing::with_lora({.rank = 2})) {
    Sample sample = random_sample(kTokens, 4, 65536);
    std::fill_n(sample.labels.begin(), 150, kIgnoredLabel);
    sample.labels[200] = kIgnoredLabel;
    batch = testing::batch_of({sample});
  }

  ModelConfig config;
  std::unique_ptr<WeightSource> weights;
  TrainingRig rig;
  MicroBatch batch;
};

TEST_F(LossChunks, AddUpToTheLossOfAllLogits) {
  const testing::LossSums sums = rig.evaluate(batch);
  const Tensor logits = rig.logits(batch);  // (T, V)
  double expected = 0.0;
  double hits = 0.0;
  for (int64_t t = 0; t < kTokens; ++t) {
    const int32_t target = batch.targets[static_cast<size_t>(t)];
    if (target < 0) continue;
    const float* row = logits.data<float>() + t * config.vocab_size;
    const float* largest = std::max_element(row, row + config.vocab_size);
    double sum = 0.0;
    for (int64_t v = 0; v < config.vocab_size; ++v) sum += std::exp(double{row[v]} - *largest);
    expected += std::log(sum) + *largest - row[target];
    hits += largest - row == target ? 1.0 : 0.0;
  }
  EXPECT_EQ(sums.tokens, static_cast<double>(batch.trained_tokens));
  EXPECT_EQ(sums.tokens, 149.0);
  EXPECT_NEAR(sums.loss, expected, 1e-5 * expected);
  EXPECT_EQ(sums.hits, hits);
}

TEST_F(LossChunks, BoundMemoryAndSkipChunksWithoutTargets) {
  const auto scope = rig.arena().scope("activations");
  ForwardContext context = rig.model().forward(batch, true, 0, rig.stream());
  const Tensor sums = context.allocate(DType::kF64, {3});
  std::fill_n(sums.data<double>(), 3, 0.0);
  rig.model().loss(context, sums, rig.stream());
  for (const Arena::Usage& usage : rig.arena().usage()) {
    if (usage.purpose != "workspace") continue;
    EXPECT_GT(usage.peak_bytes, 31 << 20);
    EXPECT_LT(usage.peak_bytes, 33 << 20);
  }
  const auto row_is_zero = [&](int64_t t) {
    const float* row = context.dhidden.data<float>() + t * config.hidden_size;
    return std::all_of(row, row + config.hidden_size, [](float d) { return d == 0.0f; });
  };
  for (int64_t t = 0; t < kTokens; ++t) {
    EXPECT_EQ(row_is_zero(t), batch.targets[static_cast<size_t>(t)] < 0) << t;
  }
}

struct MeasuredCase {
  std::string name;
  RigOptions options;
};

class MeasuredStep : public ::testing::TestWithParam<MeasuredCase> {};

RigOptions lora_case(Recompute recompute, bool nf4, float dropout) {
  RigOptions options = testing::with_lora({.rank = 2, .dropout = dropout});
  options.plan.recompute = recompute;
  options.plan.quantize_nf4 = nf4;
  return options;
}

RigOptions dora_case(Recompute recompute) {
  RigOptions options = testing::with_adapters({.method = AdapterMethod::kDora, .rank = 2});
  options.plan.recompute = recompute;
  options.plan.quantize_nf4 = true;
  return options;
}

INSTANTIATE_TEST_SUITE_P(
    Cases, MeasuredStep,
    ::testing::Values(MeasuredCase{"Lora", lora_case(Recompute::kNone, false, 0.0f)},
                      MeasuredCase{"LoraRecomputed", lora_case(Recompute::kFull, false, 0.0f)},
                      MeasuredCase{"LoraSelective", lora_case(Recompute::kSelective, false, 0.0f)},
                      MeasuredCase{"QLoraDropout", lora_case(Recompute::kFull, true, 0.1f)},
                      MeasuredCase{"Dora", dora_case(Recompute::kNone)},
                      MeasuredCase{"DoraRecomputed", dora_case(Recompute::kFull)},
                      MeasuredCase{"Everything", everything_trained()}),
    [](const auto& tested) { return tested.param.name; });

TEST_P(MeasuredStep, PeaksEqualThoseOfARealStep) {
  const ModelConfig config = tiny_config();
  const auto weights = make_random_weights(config, kWeightSeed);
  std::vector<std::vector<Arena::Usage>> usages;
  std::vector<int64_t> peaks;
  for (const Arena::Mode mode : {Arena::Mode::kReserve, Arena::Mode::kMeasure}) {
    RigOptions options = GetParam().options;
    options.arena_mode = mode;
    TrainingRig rig(config, *weights, options);
    rig.start_adamw(0.0);
    rig.train_step(three_documents(), 1e-3, 1.0, 0);
    rig.evaluate(three_documents());
    peaks.push_back(rig.arena().peak_bytes());
    usages.push_back(rig.arena().usage());
  }
  EXPECT_GT(peaks[0], 0);
  EXPECT_EQ(peaks[0], peaks[1]);
  ASSERT_EQ(usages[0].size(), usages[1].size());
  for (size_t i = 0; i < usages[0].size(); ++i) {
    EXPECT_EQ(usages[0][i].purpose, usages[1][i].purpose);
    EXPECT_EQ(usages[0][i].peak_bytes, usages[1][i].peak_bytes) << usages[0][i].purpose;
    EXPECT_EQ(usages[0][i].current_bytes, usages[1][i].current_bytes) << usages[0][i].purpose;
  }
}

int64_t activation_peak(const ModelConfig& config, const RigOptions& options) {
  RigOptions measuring = options;
  measuring.arena_mode = Arena::Mode::kMeasure;
  TrainingRig rig(config, *make_random_weights(config, kWeightSeed), measuring);
  rig.accumulate({three_documents()});
  for (const Arena::Usage& usage : rig.arena().usage()) {
    if (usage.purpose == "activations") return usage.peak_bytes;
  }
  return 0;
}

TEST(CausalLmMemory, RecomputationKeepsOneBlockAtATime) {
  const ModelConfig few = tiny_config({{"num_hidden_layers", 4}});
  const ModelConfig many = tiny_config({{"num_hidden_layers", 12}});
  const RigOptions kept = lora_case(Recompute::kNone, false, 0.0f);
  const RigOptions recomputed = lora_case(Recompute::kFull, false, 0.0f);
  const int64_t tokens = three_documents().tokens();
  const int64_t block_input = (tokens * few.hidden_size * 4 + 63) / 64 * 64;
  EXPECT_EQ(activation_peak(many, recomputed) - activation_peak(few, recomputed), 8 * block_input);
  EXPECT_GT(activation_peak(many, kept) - activation_peak(few, kept), 8 * 8 * block_input);
}

TEST(CausalLmMemory, SelectiveRecomputationKeepsNeitherNormalisedInputsNorUpAndGate) {
  const ModelConfig few = tiny_config({{"num_hidden_layers", 4}});
  const ModelConfig many = tiny_config({{"num_hidden_layers", 12}});
  const auto per_block = [&](Recompute recompute) {
    const RigOptions options = lora_case(recompute, false, 0.0f);
    return (activation_peak(many, options) - activation_peak(few, options)) / 8;
  };
  const int64_t tokens = three_documents().tokens();
  const int64_t spared = tokens * (2 * few.hidden_size + 2 * few.intermediate_size) * 4;
  const int64_t difference = per_block(Recompute::kNone) - per_block(Recompute::kSelective);
  EXPECT_GE(difference, spared);
  EXPECT_LT(difference, spared + spared / 4);
}

TEST(CausalLmMemory, BlocksBelowTheFirstTrainedOneKeepNothing) {
  const ModelConfig config = tiny_config({{"num_hidden_layers", 12}});
  RigOptions last_block;
  last_block.lora = [](const LinearSite& site) -> std::optional<LoraOptions> {
    if (site.module.find("layers.11.") == std::string::npos) return std::nullopt;
    return LoraOptions{.rank = 2};
  };
  const ModelConfig one = tiny_config({{"num_hidden_layers", 1}});
  EXPECT_EQ(activation_peak(config, last_block),
            activation_peak(one, testing::with_lora({.rank = 2})));
}

// On a GPU that is not there: nothing is read.
TEST(CausalLmMemory, TrainedMatricesAreOfTheComputeTypeWhereThePlanStoresThemSo) {
  const std::string exact = "model.layers.1.mlp.up_proj.weight";
  for (const bool tied : {false, true}) {
    const ModelConfig config = tiny_config({{"tie_word_embeddings", tied}});
    RigOptions options = testing::with_all_trained();
    options.device = {DeviceKind::kCuda, 0};
    options.arena_mode = Arena::Mode::kMeasure;
    options.plan.compute = DType::kBF16;
    options.plan.stores_bf16 = [&](const std::string& name) { return name != exact; };
    TrainingRig rig(config, *make_random_weights(config, kWeightSeed), options);
    int stored = 0;
    for (const Parameter* parameter : rig.trained()) {
      const bool is_exact = parameter->dense().rank() == 1 || parameter->name == exact ||
                            parameter->role == ParameterRole::kEmbedding;
      EXPECT_EQ(parameter->dense().dtype(), is_exact ? DType::kF32 : DType::kBF16)
          << parameter->name;
      EXPECT_EQ(parameter->gradient.dtype(), DType::kF32);
      stored += is_exact ? 0 : 1;
    }
    EXPECT_EQ(stored, tied ? 13 : 14);
  }
}

}  // namespace
}  // namespace rankwise
