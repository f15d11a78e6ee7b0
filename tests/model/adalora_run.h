// SPDX-License-Identifier: Apache-2.0
// AdaLoRA's parts put together in the order of a training step, and PEFT's runs that they must
// equal on every device.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <string>
#include <vector>

#include "optim/adalora.h"
#include "tests/model/golden_models.h"

namespace rankwise::testing {

struct AdaLoraRunSettings {
  double lr, clip, weight_decay;
  AdaLoraTraining training;
  int64_t steps;
  double alpha;
};

// One adapted model with everything that a step needs.
class AdaLoraRun {
 public:
  AdaLoraRun(const ModelConfig& config, const WeightSource& weights,
             const AdaLoraRunSettings& settings, const std::string& init, const GoldenPlace& place)
      : settings_(settings),
        rig_(config, weights,
             on(place, with_adapters({.method = AdapterMethod::kAdaLora,
                                      .rank = settings.training.schedule.init_rank,
                                      .alpha = settings.alpha}))),
        groups_{{"adapters", rig_.trained(), 1.0, settings.weight_decay}},
        optimizer_(groups_, optimizer_options(settings.training.schedule), rig_.arena(),
                   rig_.stream()),
        adalora_(triplets(), settings.training, settings.steps, optimizer_, rig_.mesh(),
                 rig_.arena(), rig_.stream()),
        sums_(rig_.arena().allocate("test", DType::kF64, {2})) {
    load_peft_weights(init, rig_.model().adapters(), rig_.stream());
  }

  // Returns the loss with the regulariser, as PEFT reports it.
  double step(const MicroBatch& batch, int64_t t) {
    Stream& stream = rig_.stream();
    const double loss = rig_.accumulate({batch}, static_cast<uint64_t>(t)).mean();
    const double all = loss + regulariser();
    const ClipResult clip = clip_gradients(groups_, settings_.clip, rig_.mesh(), sums_, stream);
    adalora_.before_update(t);
    optimizer_.step(groups_, settings_.lr, clip.scale, stream);
    adalora_.after_update(t, stream);
    return all;
  }

  // Its gradient is added to that of the loss.
  double regulariser() {
    adalora_.add_regulariser(rig_.stream());
    return adalora_.regulariser(rig_.stream());
  }

  // Singular values that are not 0, by module.
  std::map<std::string, int64_t> ranks() {
    std::map<std::string, int64_t> out;
    for (const Parameter* parameter : rig_.trained()) {
      if (parameter->role != ParameterRole::kLoraE) continue;
      const Tensor host = rig_.host_copy(parameter->dense());
      const float* e = host.data<float>();
      out[parameter->name] =
          std::count_if(e, e + host.numel(), [](float value) { return value != 0.0f; });
    }
    return out;
  }

  TrainingRig& rig() { return rig_; }
  const RankAllocator& allocator() { return adalora_.allocator(); }

 private:
  static AdamWOptions optimizer_options(const RankScheduleOptions& schedule) {
    AdamWOptions options;
    options.importance = {[](const Parameter&) { return true; }, schedule.beta1, schedule.beta2};
    return options;
  }

  std::vector<SingularTriplets> triplets() {
    std::vector<SingularTriplets> out;
    for (const auto& [module, adapter] : rig_.model().adapters()) {
      const std::vector<Parameter*> parameters = adapter->parameters();  // B, E, A
      out.push_back({module, parameters[2], parameters[1], parameters[0]});
    }
    return out;
  }

  AdaLoraRunSettings settings_;
  TrainingRig rig_;
  std::vector<ParameterGroup> groups_;
  AdamWOptimizer optimizer_;
  AdaLora adalora_;
  Tensor sums_;
};

// Losses, ranks after every choice and final adapter of PEFT.
inline void expect_tiny_adalora(const GoldenPlace& place) {
  TinyModel tiny("llama");
  GoldenValues expected("tiny/llama/adalora");
  const AdaLoraRunSettings settings{
      .lr = 2e-3,
      .clip = 1.0,
      .weight_decay = 0.01,
      .training =
          {.schedule = {.init_rank = 6, .target_rank = 3, .warmup = 6, .final = 12, .interval = 3},
           .orth_weight = 0.5},
      .steps = 48,
      .alpha = 16.0};
  AdaLoraRun run(tiny.config, *tiny.weights, settings,
                 golden_folder("tiny/llama/adalora/adapter_init"), place);
  const Tensor ids = expected.i64("train_ids");
  const Tensor labels = expected.i64("train_labels");
  const auto losses = expected.values["losses"].get<std::vector<double>>();
  const Json& ranks = expected.values["ranks"];
  ASSERT_EQ(losses.size(), 48u);
  for (int64_t t = 0; t < 48; ++t) {
    const MicroBatch batch = golden_batch(ids, labels, t * ids.dim(1), ids.dim(1));
    const auto i = static_cast<size_t>(t);
    EXPECT_NEAR(run.step(batch, t), losses[i], place.loosen * 2e-4 * losses[i]) << "step " << t;
    for (const auto& [name, rank] : run.ranks()) {
      EXPECT_EQ(rank, ranks[i].at("base_model.model." + name + ".default").get<int64_t>())
          << name << " after step " << t;
    }
  }
  for (const Parameter* parameter : run.rig().trained()) {
    const Tensor final = expected.f32("final.base_model.model." + parameter->name + ".default");
    EXPECT_LT(relative_l2(run.rig().host_copy(parameter->dense()), final), place.loosen * 1e-3)
        << parameter->name;
  }
}

// Losses, active triplets and final loss of PEFT.
inline void expect_stories_adalora(const GoldenPlace& place) {
  StoriesModel stories;
  const Json& golden = stories.expected.values["adalora"];
  const AdaLoraRunSettings settings{
      .lr = golden["lr"].get<double>(),
      .clip = golden["clip"].get<double>(),
      .weight_decay = golden["weight_decay"].get<double>(),
      .training =
          {.schedule = {.init_rank = 8, .target_rank = 4, .warmup = 10, .final = 15, .interval = 5},
           .orth_weight = 0.5},
      .steps = 60,
      .alpha = 16.0};
  AdaLoraRun run(stories.config, *stories.weights, settings,
                 golden_folder("stories260k/adalora_init"), place);
  const Tensor ids = stories.expected.i64("train_ids");
  const Tensor labels = stories.expected.i64("train_labels");
  const auto losses = golden["losses"].get<std::vector<double>>();
  const auto active = golden["active_ranks"].get<std::vector<int64_t>>();
  for (int64_t t = 0; t < 60; ++t) {
    const MicroBatch batch = golden_batch(ids, labels, t * ids.dim(1), ids.dim(1), true);
    const auto i = static_cast<size_t>(t);
    EXPECT_NEAR(run.step(batch, t), losses[i], place.loosen * 2e-4 * losses[i]) << "step " << t;
    EXPECT_EQ(run.allocator().active(), active[i]) << "after step " << t;
  }
  // PEFT adds the regulariser to the loss of an evaluation, too.
  EXPECT_NEAR(stories.evaluate(run.rig()) + run.regulariser(),
              golden["final_eval_loss"].get<double>(), 0.01);
}

}  // namespace rankwise::testing
