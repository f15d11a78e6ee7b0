// SPDX-License-Identifier: Apache-2.0
// The tensor ranks of a mesh together are the model of one rank.
#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <vector>

#include "model/block_sites.h"
#include "model/hf_folder.h"
#include "tests/model/tiny_config.h"
#include "tests/model/training_rig.h"
#include "tests/support/error_of.h"
#include "tests/support/golden.h"
#include "tests/support/thread_ranks.h"

namespace rankwise {
namespace {

using testing::everything_trained;
using testing::max_abs_difference;
using testing::RigOptions;
using testing::tiny_config;
using testing::TrainingRig;

constexpr uint64_t kWeightSeed = 11;

// Biases everywhere, sizes that no number of ranks divides.
Json odd_sizes() {
  return {
      {"vocab_size", 31}, {"intermediate_size", 23}, {"attention_bias", true}, {"mlp_bias", true}};
}

MicroBatch documents() {
  return testing::batch_of(
      {testing::random_sample(9, 1), testing::random_sample(4, 2), testing::random_sample(7, 3)});
}

// All values that a run leaves, those of split parameters put together again.
struct Outcome {
  testing::LossSums sums;
  std::vector<float> logits;
  std::vector<std::pair<std::string, std::vector<float>>> gradients;
};

std::vector<float> values_of(const Tensor& x) {
  return {x.data<float>(), x.data<float>() + x.numel()};
}

// The whole gradient on every rank.
std::vector<float> whole_gradient(const Parameter& parameter, const Shape& whole,
                                  const DeviceMesh& mesh) {
  if (parameter.spec.kind != ShardSpec::Kind::kSharded) return values_of(parameter.gradient);
  std::vector<float> out(static_cast<size_t>(whole.numel()), 0.0f);
  const int64_t width = whole.rank() == 1 ? 1 : whole.dim(1);
  const ShardSpec::Range own =
      parameter.spec.range(whole, mesh.tensor().rank(), mesh.tensor().size(), parameter.name);
  const Shape& shape = parameter.gradient.shape();
  const int64_t local_width = whole.rank() == 1 ? 1 : shape.dim(1);
  const bool rows = parameter.spec.dim == 0;
  for (int64_t i = 0; i < shape.numel(); ++i) {
    const int64_t row = i / local_width + (rows ? own.begin : 0);
    const int64_t column = i % local_width + (rows ? 0 : own.begin);
    out[static_cast<size_t>(row * width + column)] = parameter.gradient.data<float>()[i];
  }
  Stream stream;
  mesh.tensor().all_reduce(Tensor(out.data(), DType::kF32, {whole.numel()}), ReduceOp::kSum,
                           "test gradient", stream);
  return out;
}

Outcome outcome(const ModelConfig& config, RigOptions options) {
  const auto weights = make_random_weights(config, kWeightSeed);
  TrainingRig rig(config, *weights, std::move(options));
  rig.randomise_lora_b();
  Outcome out;
  out.logits = values_of(rig.logits(documents()));
  const DeviceMesh& mesh = rig.mesh();
  const std::vector<MicroBatch> batches = mesh.data().size() == 1
                                              ? std::vector<MicroBatch>{documents(), documents()}
                                              : std::vector<MicroBatch>{documents()};
  out.sums = rig.accumulate(batches);
  for (const Parameter* parameter : rig.trained()) {
    const bool of_base = weights->contains(parameter->name);
    const Shape whole = of_base ? weights->shape(parameter->name) : parameter->dense().shape();
    out.gradients.emplace_back(parameter->name, whole_gradient(*parameter, whole, mesh));
  }
  return out;
}

double relative_l2(const std::vector<float>& a, const std::vector<float>& b) {
  double difference = 0.0;
  double size = 0.0;
  for (size_t i = 0; i < b.size(); ++i) {
    difference += (a[i] - b[i]) * (a[i] - b[i]);
    size += b[i] * b[i];
  }
  return std::sqrt(difference / (size + 1e-30));
}

void expect_equal(const Outcome& actual, const Outcome& expected, double batches) {
  EXPECT_NEAR(actual.sums.loss * batches, expected.sums.loss, 2e-6 * expected.sums.loss);
  EXPECT_EQ(actual.sums.tokens * batches, expected.sums.tokens);
  EXPECT_EQ(actual.sums.hits * batches, expected.sums.hits);
  EXPECT_LT(relative_l2(actual.logits, expected.logits), 2e-6);
  ASSERT_EQ(actual.gradients.size(), expected.gradients.size());
  for (size_t i = 0; i < expected.gradients.size(); ++i) {
    const auto& [name, gradient] = expected.gradients[i];
    EXPECT_EQ(actual.gradients[i].first, name);
    ASSERT_EQ(actual.gradients[i].second.size(), gradient.size()) << name;
    EXPECT_LT(relative_l2(actual.gradients[i].second, gradient), 2e-5) << name;
  }
}

// On `ranks` ranks, `tensor` of which share the model.
void expect_same_on(int ranks, int tensor, const ModelConfig& config, const RigOptions& options) {
  SCOPED_TRACE(fmt::format("{} ranks, tensor {}", ranks, tensor));
  const Outcome alone = outcome(config, options);
  run_ranks_as_threads(ranks, [&](Communicator& world) {
    RigOptions shared = options;
    shared.world = &world;
    shared.tensor = tensor;
    expect_equal(outcome(config, shared), alone, ranks / tensor > 1 ? 2.0 : 1.0);
  });
}

TEST(TensorParallel, AdaptersGetTheGradientsOfOneRank) {
  for (const bool nf4 : {false, true}) {
    RigOptions options = testing::with_lora({.rank = 3, .alpha = 5.0});
    options.plan.quantize_nf4 = nf4;
    const ModelConfig config = tiny_config(odd_sizes());
    expect_same_on(2, 2, config, options);
    expect_same_on(4, 2, config, options);
    expect_same_on(4, 4, config, options);  // two ranks to a key/value head
  }
}

TEST(TensorParallel, SingularValuesAndMagnitudesGetTheGradientsOfOneRank) {
  for (const AdapterMethod method : {AdapterMethod::kAdaLora, AdapterMethod::kDora}) {
    RigOptions options = testing::with_adapters({.method = method, .rank = 3, .alpha = 5.0});
    for (const bool nf4 : {false, true}) {
      options.plan.quantize_nf4 = nf4;
      const ModelConfig config = tiny_config(odd_sizes());
      expect_same_on(2, 2, config, options);
      expect_same_on(4, 2, config, options);
      expect_same_on(4, 4, config, options);
    }
    options.plan.recompute = Recompute::kSelective;
    expect_same_on(2, 2, tiny_config(odd_sizes()), options);
    options.plan.recompute = Recompute::kFull;
    expect_same_on(2, 2, tiny_config(odd_sizes()), options);
  }
}

TEST(TensorParallel, DropoutMasksDoNotDependOnTheSplit) {
  const RigOptions options = testing::with_lora({.rank = 3, .alpha = 5.0, .dropout = 0.4f});
  expect_same_on(2, 2, tiny_config(odd_sizes()), options);
  expect_same_on(4, 4, tiny_config(odd_sizes()), options);
}

TEST(TensorParallel, EveryWeightGetsTheGradientOfOneRank) {
  expect_same_on(2, 2, tiny_config(odd_sizes()), everything_trained());
  expect_same_on(4, 2, tiny_config(odd_sizes()), everything_trained());
  Json four_heads = odd_sizes();
  four_heads["num_key_value_heads"] = 4;
  expect_same_on(4, 4, tiny_config(four_heads), everything_trained());
}

TEST(TensorParallel, TiedHeadSharesTheSplitEmbedding) {
  Json tied = odd_sizes();
  tied["tie_word_embeddings"] = true;
  expect_same_on(2, 2, tiny_config(tied), everything_trained());
}

TEST(TensorParallel, RecomputationChangesNothing) {
  for (const Recompute recompute : {Recompute::kSelective, Recompute::kFull}) {
    RigOptions options = testing::with_lora({.rank = 3, .alpha = 5.0});
    options.plan.recompute = recompute;
    expect_same_on(2, 2, tiny_config(odd_sizes()), options);
  }
}

TEST(TensorParallel, LossRunsOverChunksOfASplitVocabulary) {
  RigOptions options = testing::with_lora({.rank = 3, .alpha = 5.0});
  options.plan.logits_bytes = 7 * 31 * 4;
  expect_same_on(4, 4, tiny_config(odd_sizes()), options);
}

TEST(TensorParallel, HeadsThatCannotBeSharedAreRefused) {
  const auto refusal = [](const Json& changes, int tensor) {
    return testing::error_of<ConfigError>([&] { check_tensor_size(tiny_config(changes), tensor); });
  };
  EXPECT_EQ(refusal({}, 3), "parallel.tensor: 3 ranks cannot share num_attention_heads 4");
  EXPECT_EQ(refusal({{"num_attention_heads", 6}, {"num_key_value_heads", 3}}, 2),
            "parallel.tensor: 2 ranks cannot share num_key_value_heads 3");
  EXPECT_EQ(refusal({{"intermediate_size", 3}}, 4),
            "parallel.tensor: 4 ranks cannot share intermediate_size 3");
  EXPECT_NO_THROW(check_tensor_size(tiny_config(), 4));
}

}  // namespace
}  // namespace rankwise
