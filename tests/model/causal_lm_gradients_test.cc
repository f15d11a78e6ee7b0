// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <string>
#include <vector>

#include "model/causal_lm.h"
#include "model/hf_folder.h"
#include "runtime/rng.h"
#include "tests/model/tiny_config.h"
#include "tests/model/training_rig.h"

namespace rankwise {
namespace {

using testing::batch_of;
using testing::everything_trained;
using testing::LossSums;
using testing::random_sample;
using testing::RigOptions;
using testing::three_documents;
using testing::tiny_config;
using testing::TrainingRig;
using testing::with_adapters;

constexpr uint64_t kWeightSeed = 11;

using Gradients = std::map<std::string, std::vector<float>>;

Gradients gradients(const TrainingRig& rig) {
  Gradients out;
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
  rig.randomise_lora_b();
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
  const auto accumulate = [](TrainingRig& rig) {
    rig.randomise_lora_b();
    rig.accumulate({three_documents(), batch_of({random_sample(5, 9)})}, 4);
    return gradients(rig);
  };
  for (RigOptions options :
       {everything_trained(0.3f), with_adapters({.method = AdapterMethod::kDora, .rank = 2})}) {
    TrainingRig kept(config, *weights, options);
    const auto expected = accumulate(kept);
    for (const Recompute recompute : {Recompute::kSelective, Recompute::kFull}) {
      options.plan.recompute = recompute;
      TrainingRig recomputed(config, *weights, options);
      for (const auto& [name, gradient] : accumulate(recomputed)) {
        EXPECT_TRUE(identical(gradient, expected.at(name))) << name;
      }
    }
  }
}

// The norms are constants in backward, so of DoRA's parameters only m has this gradient.
TEST_P(CausalLmGradients, OfMagnitudesMatchFiniteDifferences) {
  const ModelConfig config = tiny_config(GetParam().changes);
  const auto weights = make_random_weights(config, kWeightSeed);
  TrainingRig rig(config, *weights,
                  with_adapters({.method = AdapterMethod::kDora, .rank = 2, .alpha = 4.0}));
  rig.randomise_lora_b();
  const MicroBatch batch = three_documents();
  const LossSums sums = rig.accumulate({batch});
  for (Parameter* parameter : rig.trained()) {
    if (parameter->role != ParameterRole::kMagnitude) continue;
    const int64_t i = parameter->dense().numel() / 3;
    float& m = parameter->dense().data<float>()[i];
    const float kept = m;
    const auto loss_at = [&](float value) {
      m = value;
      rig.model().parameters_changed();
      return rig.evaluate(batch).loss;
    };
    const float step = 0.02f * kept;
    const double difference = (loss_at(kept + step) - loss_at(kept - step)) / (2.0 * step);
    loss_at(kept);
    const double gradient = parameter->gradient.data<float>()[i] * sums.tokens;
    EXPECT_NEAR(gradient, difference, 2e-2 * std::abs(difference) + 2e-3) << parameter->name;
  }
}

}  // namespace
}  // namespace rankwise
