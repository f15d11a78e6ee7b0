// SPDX-License-Identifier: Apache-2.0
#include "model/causal_lm.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <string>
#include <vector>

#include "model/hf_folder.h"
#include "runtime/rng.h"
#include "tests/model/tiny_config.h"
#include "tests/model/training_rig.h"
#include "tests/support/golden.h"

namespace rankwise {
namespace {

using testing::batch_of;
using testing::random_sample;
using testing::relative_l2;
using testing::RigOptions;
using testing::tiny_config;
using testing::TrainingRig;

constexpr uint64_t kWeightSeed = 11;

MicroBatch three_documents() {
  return batch_of({random_sample(9, 1), random_sample(4, 2), random_sample(7, 3)});
}

// LoRA starts with B = 0, which would hide errors in the gradient of A.
void randomise_lora_b(TrainingRig& rig) {
  for (Parameter* parameter : rig.trained()) {
    if (parameter->role != ParameterRole::kLoraB) continue;
    const Tensor b = parameter->dense();
    Rng(5, parameter->name)
        .fill_normal({b.data<float>(), static_cast<size_t>(b.numel())}, 0.0f, 0.2f);
  }
}

RigOptions everything_trained(float dropout = 0.0f) {
  RigOptions options = testing::with_all_trained();
  options.lora = testing::with_lora({.rank = 2, .alpha = 3.0, .dropout = dropout}).lora;
  return options;
}

std::map<std::string, std::vector<float>> gradients(const TrainingRig& rig) {
  std::map<std::string, std::vector<float>> out;
  for (const Parameter* parameter : rig.trained()) {
    const float* values = parameter->gradient.data<float>();
    out[parameter->name].assign(values, values + parameter->gradient.numel());
  }
  return out;
}

bool identical(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

struct Variant {
  std::string name;
  Json changes;
};

class CausalLmGradients : public ::testing::TestWithParam<Variant> {};

INSTANTIATE_TEST_SUITE_P(
    Variants, CausalLmGradients,
    ::testing::Values(Variant{"Biases", {{"attention_bias", true}, {"mlp_bias", true}}},
                      Variant{"Tied", {{"tie_word_embeddings", true}}},
                      Variant{"SlidingWindow", {{"model_type", "mistral"}, {"sliding_window", 3}}},
                      Variant{"OneKeyHead", {{"num_key_value_heads", 1}, {"head_dim", 4}}}),
    [](const auto& tested) { return tested.param.name; });

// Moves every parameter along its gradient and across it: both slopes of the loss are known.
TEST_P(CausalLmGradients, MatchFiniteDifferences) {
  const ModelConfig config = tiny_config(GetParam().changes);
  TrainingRig rig(config, *make_random_weights(config, kWeightSeed), everything_trained());
  randomise_lora_b(rig);
  const MicroBatch batch = three_documents();
  rig.accumulate({batch});
  const auto slopes = gradients(rig);
  ASSERT_EQ(slopes.size(), rig.trained().size());
  for (Parameter* parameter : rig.trained()) {
    const std::vector<float>& gradient = slopes.at(parameter->name);
    std::vector<float> other(gradient.size());
    Rng(3, parameter->name).fill_normal(other, 0.0f, 1.0f);
    float* weights = parameter->dense().data<float>();
    const std::vector<float> kept(weights, weights + gradient.size());
    for (const std::vector<float>& direction : {gradient, other}) {
      double length = 0.0;
      double along = 0.0;
      for (size_t i = 0; i < gradient.size(); ++i) {
        length += std::pow(direction[i], 2.0);
        along += static_cast<double>(direction[i]) * gradient[i];
      }
      length = std::sqrt(length);
      ASSERT_GT(length, 1e-4) << parameter->name;
      const double step = 0.01;
      double loss[2];
      for (const int side : {0, 1}) {
        const double factor = (side == 0 ? step : -step) / length;
        for (size_t i = 0; i < kept.size(); ++i) {
          weights[i] = kept[i] + static_cast<float>(factor * direction[i]);
        }
        loss[side] = rig.evaluate(batch).mean();
      }
      std::ranges::copy(kept, weights);
      const double expected = along / length;
      EXPECT_NEAR((loss[0] - loss[1]) / (2.0 * step), expected, 2e-4 + 0.01 * std::abs(expected))
          << parameter->name;
    }
  }
}

// What is not trained costs no gradient, and what is left out below and between changes nothing.
TEST_P(CausalLmGradients, OfOneParameterAloneEqualThoseOfAll) {
  const ModelConfig config = tiny_config(GetParam().changes);
  const auto weights = make_random_weights(config, kWeightSeed);
  const MicroBatch batch = three_documents();
  TrainingRig all(config, *weights, testing::with_all_trained());
  all.accumulate({batch});
  for (const auto& [name, expected] : gradients(all)) {
    RigOptions options;
    options.plan.is_trained = [&name](const std::string& tensor) { return tensor == name; };
    TrainingRig rig(config, *weights, options);
    ASSERT_EQ(rig.trained().size(), 1u);
    rig.accumulate({batch});
    EXPECT_TRUE(identical(gradients(rig).at(name), expected)) << name;
  }
}

TEST_P(CausalLmGradients, OfOneAdapterAloneEqualThoseOfAll) {
  const ModelConfig config = tiny_config(GetParam().changes);
  const auto weights = make_random_weights(config, kWeightSeed);
  const MicroBatch batch = three_documents();
  const LoraOptions lora{.rank = 2, .alpha = 3.0};  // B = 0: the adapters change no activation
  TrainingRig all(config, *weights, testing::with_lora(lora));
  all.accumulate({batch});
  const auto expected = gradients(all);
  for (const auto& [module, adapter] : all.model().adapters()) {
    RigOptions options;
    options.lora = [&, wanted = module](const LinearSite& site) {
      return site.module == wanted ? std::optional(lora) : std::nullopt;
    };
    TrainingRig rig(config, *weights, options);
    ASSERT_EQ(rig.trained().size(), 2u);
    rig.accumulate({batch});
    for (const auto& [name, gradient] : gradients(rig)) {
      EXPECT_TRUE(identical(gradient, expected.at(name))) << name;
    }
  }
}

TEST_P(CausalLmGradients, AreBitIdenticalWithRecomputation) {
  const ModelConfig config = tiny_config(GetParam().changes);
  const auto weights = make_random_weights(config, kWeightSeed);
  RigOptions options = everything_trained(0.3f);
  TrainingRig kept(config, *weights, options);
  options.plan.recompute = Recompute::kFull;
  TrainingRig recomputed(config, *weights, options);
  for (TrainingRig* rig : {&kept, &recomputed}) {
    randomise_lora_b(*rig);
    rig->accumulate({three_documents(), batch_of({random_sample(5, 9)})}, 4);
  }
  const auto expected = gradients(kept);
  for (const auto& [name, gradient] : gradients(recomputed)) {
    EXPECT_TRUE(identical(gradient, expected.at(name))) << name;
  }
}

TEST(CausalLm, PackedDocumentsEqualSeparateOnes) {
  const ModelConfig config = tiny_config();
  const auto weights = make_random_weights(config, kWeightSeed);
  std::vector<MicroBatch> separate;
  for (const Sample& sample : {random_sample(9, 1), random_sample(4, 2), random_sample(7, 3)}) {
    separate.push_back(batch_of({sample}));
    separate.back().first_token = separate.size() == 1 ? 0 : separate.size() == 2 ? 9 : 13;
  }
  TrainingRig packed_rig(config, *weights, everything_trained(0.3f));
  TrainingRig separate_rig(config, *weights, everything_trained(0.3f));
  randomise_lora_b(packed_rig);
  randomise_lora_b(separate_rig);
  const auto packed = packed_rig.accumulate({three_documents()});
  const auto parts = separate_rig.accumulate(separate);
  EXPECT_NEAR(packed.loss, parts.loss, 1e-5 * packed.loss);
  EXPECT_EQ(packed.tokens, parts.tokens);
  for (size_t i = 0; i < packed_rig.trained().size(); ++i) {
    const Parameter& parameter = *packed_rig.trained()[i];
    EXPECT_LT(relative_l2(separate_rig.trained()[i]->gradient, parameter.gradient), 1e-5)
        << parameter.name;
  }
}

TEST(CausalLm, AnAdapterThatStartsAtZeroChangesNothing) {
  const ModelConfig config = tiny_config();
  const auto weights = make_random_weights(config, kWeightSeed);
  TrainingRig plain(config, *weights, {});
  TrainingRig adapted(config, *weights, testing::with_lora({.rank = 2}));
  const MicroBatch batch = three_documents();
  EXPECT_EQ(testing::max_abs_difference(plain.logits(batch), adapted.logits(batch)), 0.0);
  adapted.accumulate({batch});
  for (const auto& [name, gradient] : gradients(adapted)) {
    const bool zero = std::ranges::all_of(gradient, [](float g) { return g == 0.0f; });
    EXPECT_EQ(zero, name.ends_with("lora_A.weight")) << name;
  }
}

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
    batch = batch_of({sample});
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

INSTANTIATE_TEST_SUITE_P(
    Cases, MeasuredStep,
    ::testing::Values(MeasuredCase{"Lora", lora_case(Recompute::kNone, false, 0.0f)},
                      MeasuredCase{"LoraRecomputed", lora_case(Recompute::kFull, false, 0.0f)},
                      MeasuredCase{"QLoraDropout", lora_case(Recompute::kFull, true, 0.1f)},
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

TEST(CausalLm, QuantisesOnlyFrozenLinearsOfBlocks) {
  const ModelConfig config = tiny_config();
  RigOptions options;
  options.plan.quantize_nf4 = true;
  options.plan.is_trained = [](const std::string& name) {
    return name == "model.layers.1.mlp.up_proj.weight";
  };
  TrainingRig rig(config, *make_random_weights(config, kWeightSeed), options);
  int quantised = 0;
  for (const Parameter* parameter : rig.model().parameters()) {
    const bool expected = parameter->role == ParameterRole::kLinear && !parameter->trainable;
    EXPECT_EQ(is_quantized(parameter->weight), expected) << parameter->name;
    quantised += expected ? 1 : 0;
  }
  EXPECT_EQ(quantised, 13);
}

template <class Body>
std::string format_error(const Body& body) {
  try {
    body();
  } catch (const FormatError& error) {
    return error.what();
  }
  return "";
}

TEST(CausalLm, NamesTheTensorThatIsMissingOrIllShaped) {
  const ModelConfig untied = tiny_config();
  const ModelConfig tied = tiny_config({{"tie_word_embeddings", true}});
  const ModelConfig wider = tiny_config({{"intermediate_size", 32}});
  EXPECT_NE(format_error([&] {
              TrainingRig(untied, *make_random_weights(tied, 1), {});
            }).find("lm_head.weight"),
            std::string::npos);
  const std::string message =
      format_error([&] { TrainingRig(untied, *make_random_weights(wider, 1), {}); });
  EXPECT_NE(message.find("model.layers.0.mlp.gate_proj.weight has shape (32, 16)"),
            std::string::npos)
      << message;
  EXPECT_NE(message.find("(24, 16)"), std::string::npos) << message;
}

TEST(CausalLm, RefusesASplitOverTensorRanks) {
  const ModelConfig config = tiny_config();
  EXPECT_THROW(run_ranks_as_threads(2,
                                    [&](Communicator& world) {
                                      const DeviceMesh mesh(world, 2);
                                      Arena arena;
                                      Stream stream;
                                      CausalLm(config, *make_random_weights(config, 1), {}, mesh,
                                               arena, stream);
                                    }),
               ConfigError);
}

}  // namespace
}  // namespace rankwise
