// SPDX-License-Identifier: Apache-2.0
// Training of weights that are held in BF16, and what is exported of them.
#include <gtest/gtest.h>

#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "kernels/elementwise.h"
#include "model/causal_lm.h"
#include "model/hf_folder.h"
#include "model/merged_weights.h"
#include "optim/adamw_optimizer.h"
#include "optim/projected_optimizer.h"
#include "parallel/gradient_reducer.h"
#include "runtime/transfer.h"
#include "tests/model/tiny_config.h"
#include "tests/support/device_memory.h"

namespace rankwise {
namespace {

using testing::kGpu;

ModelConfig small_model() {
  return testing::tiny_config({{"vocab_size", 64},
                               {"hidden_size", 64},
                               {"intermediate_size", 96},
                               {"head_dim", 16},
                               {"initializer_range", 0.05}});
}

bool is_projected(const Parameter& parameter) {
  return parameter.role == ParameterRole::kLinear || parameter.role == ParameterRole::kHead;
}

// A model whose weights all are trained, the matrices in a random subspace.
class Training {
 public:
  explicit Training(bool stores_bf16)
      : weights_(make_random_weights(small_model(), 11)),
        model_(small_model(), *weights_, plan(stores_bf16), mesh_, arena_, stream_),
        parameters_(model_.trained_parameters()),
        group_{"all", parameters_, 1.0, 0.01},
        optimizer_({&group_, 1}, rule(), adamw(), mesh_, arena_, stream_) {
    for (Parameter* parameter : parameters_) {
      parameter->projection = optimizer_.projection_of(*parameter);
      parameter->projected_spec = optimizer_.gradient_spec(*parameter);
    }
    reducer_.emplace(parameters_, mesh_, arena_);
    sums_ = arena_.allocate("metrics", DType::kF64, {3});
  }

  double step(uint64_t step) {
    const MicroBatch batch = testing::batch_of({testing::random_sample(96, 1, 64)});
    const auto scope = arena_.scope("activations");
    fill(sums_, 0.0f, stream_);
    reducer_->begin_step(stream_);
    reducer_->begin_micro_batch(batch.trained_tokens, true);
    ForwardContext context = model_.forward(batch, true, step, stream_);
    model_.loss(context, sums_, stream_);
    model_.backward(context, *reducer_, stream_);
    reducer_->finish_step(stream_);
    optimizer_.step({&group_, 1}, 3e-3, 1.0f, stream_);
    double sums[3] = {};
    download(sums, sums_, stream_);
    return sums[0] / sums[1];
  }
  std::vector<NamedTensor> exported() { return base_weights(model_, host_, stream_); }
  const std::vector<Parameter*>& parameters() const { return parameters_; }

 private:
  static ModelPlan plan(bool stores_bf16) {
    ModelPlan plan;
    plan.compute = DType::kBF16;
    plan.deterministic = true;
    plan.is_trained = [](const std::string&) { return true; };
    plan.stores_bf16 = [stores_bf16](const std::string&) { return stores_bf16; };
    return plan;
  }
  static ProjectionRule rule() {
    return [](const Parameter& parameter) {
      return is_projected(parameter) ? std::optional(ProjectionOptions{.rank = 32, .scale = 1.0})
                                     : std::nullopt;
    };
  }
  OptimizerFactory adamw() {
    return [this](std::span<const ParameterGroup> groups) {
      return std::make_unique<AdamWOptimizer>(groups, AdamWOptions{}, arena_, stream_);
    };
  }

  std::unique_ptr<Communicator> alone_ = make_single_communicator();
  DeviceMesh mesh_{*alone_, 1};
  Arena arena_{kGpu};
  Arena host_;
  Stream stream_{kGpu};
  std::unique_ptr<WeightSource> weights_;
  CausalLm model_;
  std::vector<Parameter*> parameters_;
  ParameterGroup group_;
  ProjectedOptimizer optimizer_;
  std::optional<GradientReducer> reducer_;
  Tensor sums_;
};

TEST(GaLoreWeights, InBf16TrainAsThoseInFp32AndAreExportedAsTheyAre) {
  RW_REQUIRE_GPU();
  Training narrow(true), wide(false), again(true);
  double first = 0.0, last = 0.0;
  for (uint64_t step = 0; step < 40; ++step) {
    last = narrow.step(step);
    const double expected = wide.step(step);
    if (step == 0) first = last;
    EXPECT_NEAR(last, expected, 0.03 * first) << "step " << step;
    again.step(step);
  }
  EXPECT_LT(last, 0.5 * first);

  const std::vector<NamedTensor> weights = narrow.exported(), same = again.exported();
  const auto original = make_random_weights(small_model(), 11);
  testing::GuardedMemory memory;
  ASSERT_EQ(weights.size(), narrow.parameters().size());
  for (size_t i = 0; i < weights.size(); ++i) {
    const auto& [name, tensor] = weights[i];
    SCOPED_TRACE(name);
    ASSERT_EQ(tensor.dtype(), DType::kF32);
    testing::expect_identical(tensor, same[i].tensor);
    const Tensor start = memory.poisoned(tensor.shape());
    original->read(name, start);
    if (tensor.rank() == 1 || name == "model.embed_tokens.weight") continue;
    int64_t changed = 0;
    for (int64_t j = 0; j < tensor.numel(); ++j) {
      const float value = tensor.data<float>()[j];
      ASSERT_EQ(float_from_bf16(bf16_from_float(value)), value) << "not of BF16";
      changed += value != float_from_bf16(bf16_from_float(start.data<float>()[j])) ? 1 : 0;
    }
    EXPECT_GT(changed, tensor.numel() / 2);
  }
}

}  // namespace
}  // namespace rankwise
