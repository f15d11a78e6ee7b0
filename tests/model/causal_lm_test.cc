// SPDX-License-Identifier: Apache-2.0
#include "model/causal_lm.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <variant>
#include <vector>

#include "model/hf_folder.h"
#include "runtime/io/quantized_store.h"
#include "tests/model/tiny_config.h"
#include "tests/model/training_rig.h"
#include "tests/support/error_of.h"
#include "tests/support/golden.h"
#include "tests/support/scratch_folder.h"
#include "tests/support/thread_ranks.h"

namespace rankwise {
namespace {

using testing::batch_of;
using testing::everything_trained;
using testing::random_sample;
using testing::relative_l2;
using testing::RigOptions;
using testing::three_documents;
using testing::tiny_config;
using testing::TrainingRig;

constexpr uint64_t kWeightSeed = 11;

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
  packed_rig.randomise_lora_b();
  separate_rig.randomise_lora_b();
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
  for (const Parameter* parameter : adapted.trained()) {
    const float* gradient = parameter->gradient.data<float>();
    const bool zero = std::all_of(gradient, gradient + parameter->gradient.numel(),
                                  [](float g) { return g == 0.0f; });
    EXPECT_EQ(zero, parameter->role == ParameterRole::kLoraA) << parameter->name;
  }
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

TEST(CausalLm, AStoreGivesTheWeightsThatQuantisingAtStartGives) {
  const testing::ScratchFolder scratch;
  const std::string path = scratch.file("model.h5");
  const ModelConfig config = tiny_config();
  const auto weights = make_random_weights(config, kWeightSeed);
  RigOptions options;
  options.plan.quantize_nf4 = true;
  TrainingRig at_start(config, *weights, options);
  QuantizedStoreWriter writer(path);
  for (const Parameter* parameter : at_start.model().parameters()) {
    std::visit([&](const auto& weight) { writer.add(parameter->name, weight); }, parameter->weight);
  }
  writer.add_file("config.json", config.source.dump());
  writer.commit();

  TrainingRig stored(load_model_config(path), *open_weights(path), {});
  EXPECT_TRUE(is_quantized(stored.parameter("model.layers.0.self_attn.o_proj.weight").weight));
  const MicroBatch batch = three_documents();
  EXPECT_EQ(testing::max_abs_difference(stored.logits(batch), at_start.logits(batch)), 0.0);
}

TEST(CausalLm, NamesTheTensorThatIsMissingOrIllShaped) {
  const ModelConfig untied = tiny_config();
  const ModelConfig tied = tiny_config({{"tie_word_embeddings", true}});
  const ModelConfig wider = tiny_config({{"intermediate_size", 32}});
  EXPECT_NE(testing::error_of<FormatError>([&] {
              TrainingRig(untied, *make_random_weights(tied, 1), {});
            }).find("lm_head.weight"),
            std::string::npos);
  const std::string message = testing::error_of<FormatError>(
      [&] { TrainingRig(untied, *make_random_weights(wider, 1), {}); });
  EXPECT_NE(message.find("model.layers.0.mlp.gate_proj.weight has shape (32, 16)"),
            std::string::npos)
      << message;
  EXPECT_NE(message.find("(24, 16)"), std::string::npos) << message;
}

TEST(CausalLm, RefusesATensorDegreeThatItsHeadsCannotShare) {
  const ModelConfig config = tiny_config();
  EXPECT_THROW(run_ranks_as_threads(3,
                                    [&](Communicator& world) {
                                      const DeviceMesh mesh(world, 3);
                                      Arena arena;
                                      Stream stream;
                                      CausalLm(config, *make_random_weights(config, 1), {}, mesh,
                                               arena, stream);
                                    }),
               ConfigError);
}

}  // namespace
}  // namespace rankwise
