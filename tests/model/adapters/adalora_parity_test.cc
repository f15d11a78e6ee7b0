// SPDX-License-Identifier: Apache-2.0
// AdaLoRA's parts put together in the order of a training step, against PEFT: losses, ranks after
// every choice, final adapter.
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "kernels/orthogonality.h"
#include "model/adapters/adalora_adapter.h"
#include "optim/rank_allocator.h"
#include "tests/model/golden_models.h"

namespace rankwise {
namespace {

using testing::golden_batch;
using testing::golden_folder;
using testing::RigOptions;
using testing::TrainingRig;

struct Settings {
  double lr, clip, weight_decay, orth_weight;
  RankScheduleOptions schedule;
  int64_t steps;
  double alpha;
};

RigOptions with_adalora(const Settings& settings) {
  RigOptions options;
  options.adapter = [settings](const LinearSite& site, Arena& arena, Stream& stream) {
    return std::make_unique<AdaLoraAdapter>(
        site, AdaLoraOptions{settings.schedule.init_rank, settings.alpha}, 1, arena, stream);
  };
  return options;
}

// One adapted model with everything that a step needs.
class AdaLoraRun {
 public:
  AdaLoraRun(const ModelConfig& config, const WeightSource& weights, const Settings& settings,
             const std::string& init)
      : settings_(settings),
        rig_(config, weights, with_adalora(settings)),
        groups_{{"adapters", rig_.trained(), 1.0, settings.weight_decay}},
        optimizer_(groups_, optimizer_options(settings), rig_.arena(), rig_.stream()),
        schedule_(settings.schedule, static_cast<int64_t>(rig_.model().adapters().size()),
                  settings.steps),
        allocator_(matrices(), schedule_, rig_.mesh(), rig_.arena(), rig_.stream()),
        sums_(rig_.arena().allocate("test", DType::kF64, {2})) {
    const SafetensorsFile file(init + "/adapter_model.safetensors");
    for (Parameter* parameter : rig_.trained()) {
      file.read(file.at("base_model.model." + parameter->name), parameter->dense());
    }
  }

  // Returns the loss with the regulariser, as PEFT reports it.
  double step(const MicroBatch& batch, int64_t t) {
    Stream& stream = rig_.stream();
    const double loss = rig_.accumulate({batch}, static_cast<uint64_t>(t)).mean();
    const double all = loss + regulariser();
    const ClipResult clip = clip_gradients(groups_, settings_.clip, rig_.mesh(), sums_, stream);
    optimizer_.measure_importance(schedule_.measures(t));
    optimizer_.step(groups_, settings_.lr, clip.scale, stream);
    allocator_.step(t, stream);
    return all;
  }

  // Its gradient is added to that of the loss.
  double regulariser() {
    std::vector<OrthogonalityTerm> terms;
    for (Parameter* parameter : rig_.trained()) {
      if (parameter->role == ParameterRole::kLoraE) continue;
      const bool columns = parameter->role == ParameterRole::kLoraB;
      terms.push_back({parameter->dense(), parameter->gradient, columns});
    }
    const double weight = settings_.orth_weight / static_cast<double>(terms.size());
    fill(sums_, 0.0f, rig_.stream());
    orthogonality(sums_.rows(0, 1), terms, static_cast<float>(weight), rig_.stream());
    return weight * sums_.data<double>()[0];
  }

  // Singular values that are not 0, by module.
  std::map<std::string, int64_t> ranks() {
    std::map<std::string, int64_t> out;
    for (const Parameter* parameter : rig_.trained()) {
      if (parameter->role != ParameterRole::kLoraE) continue;
      const float* e = parameter->dense().data<float>();
      out[parameter->name] = std::count_if(e, e + parameter->dense().numel(),
                                           [](float value) { return value != 0.0f; });
    }
    return out;
  }

  TrainingRig& rig() { return rig_; }
  const RankAllocator& allocator() const { return allocator_; }

 private:
  static AdamWOptions optimizer_options(const Settings& settings) {
    AdamWOptions options;
    options.importance = {[](const Parameter&) { return true; }, settings.schedule.beta1,
                          settings.schedule.beta2};
    return options;
  }

  std::vector<RankedMatrix> matrices() {
    std::vector<RankedMatrix> out;
    for (const auto& [module, adapter] : rig_.model().adapters()) {
      RankedMatrix matrix{.name = module, .e = {}, .importance = {}};
      for (Parameter* parameter : adapter->parameters()) {
        const Importance& importance = optimizer_.importance_of(*parameter);
        if (parameter->role == ParameterRole::kLoraA) matrix.importance.a = importance;
        if (parameter->role == ParameterRole::kLoraB) matrix.importance.b = importance;
        if (parameter->role != ParameterRole::kLoraE) continue;
        matrix.importance.e = importance;
        matrix.e = parameter->dense();
      }
      out.push_back(matrix);
    }
    return out;
  }

  Settings settings_;
  TrainingRig rig_;
  std::vector<ParameterGroup> groups_;
  AdamWOptimizer optimizer_;
  RankSchedule schedule_;
  RankAllocator allocator_;
  Tensor sums_;
};

TEST(AdaLoraParity, TinyLlamaHasTheLossesRanksAndAdapterOfPeft) {
  RW_REQUIRE_SHARED();
  testing::TinyModel tiny("llama");
  testing::GoldenValues expected("tiny/llama/adalora");
  const Settings settings{
      .lr = 2e-3,
      .clip = 1.0,
      .weight_decay = 0.01,
      .orth_weight = 0.5,
      .schedule = {.init_rank = 6, .target_rank = 3, .warmup = 6, .final = 12, .interval = 3},
      .steps = 48,
      .alpha = 16.0};
  AdaLoraRun run(tiny.config, *tiny.weights, settings,
                 golden_folder("tiny/llama/adalora/adapter_init"));
  const Tensor ids = expected.i64("train_ids");
  const Tensor labels = expected.i64("train_labels");
  const auto losses = expected.values["losses"].get<std::vector<double>>();
  const Json& ranks = expected.values["ranks"];
  ASSERT_EQ(losses.size(), 48u);
  for (int64_t t = 0; t < 48; ++t) {
    const MicroBatch batch = golden_batch(ids, labels, t * ids.dim(1), ids.dim(1));
    const auto i = static_cast<size_t>(t);
    EXPECT_NEAR(run.step(batch, t), losses[i], 2e-4 * losses[i]) << "step " << t;
    for (const auto& [name, rank] : run.ranks()) {
      EXPECT_EQ(rank, ranks[i].at("base_model.model." + name + ".default").get<int64_t>())
          << name << " after step " << t;
    }
  }
  for (const Parameter* parameter : run.rig().trained()) {
    const Tensor final = expected.f32("final.base_model.model." + parameter->name + ".default");
    EXPECT_LT(testing::relative_l2(parameter->dense(), final), 1e-3) << parameter->name;
  }
}

TEST(AdaLoraParity, Stories260kEndsWhereThatOfPeftDoes) {
  RW_REQUIRE_SHARED();
  testing::StoriesModel stories;
  const Json& golden = stories.expected.values["adalora"];
  const Settings settings{
      .lr = golden["lr"].get<double>(),
      .clip = golden["clip"].get<double>(),
      .weight_decay = golden["weight_decay"].get<double>(),
      .orth_weight = 0.5,
      .schedule = {.init_rank = 8, .target_rank = 4, .warmup = 10, .final = 15, .interval = 5},
      .steps = 60,
      .alpha = 16.0};
  AdaLoraRun run(stories.config, *stories.weights, settings,
                 golden_folder("stories260k/adalora_init"));
  const Tensor ids = stories.expected.i64("train_ids");
  const Tensor labels = stories.expected.i64("train_labels");
  const auto losses = golden["losses"].get<std::vector<double>>();
  const auto active = golden["active_ranks"].get<std::vector<int64_t>>();
  for (int64_t t = 0; t < 60; ++t) {
    const MicroBatch batch = golden_batch(ids, labels, t * ids.dim(1), ids.dim(1), true);
    const auto i = static_cast<size_t>(t);
    EXPECT_NEAR(run.step(batch, t), losses[i], 2e-4 * losses[i]) << "step " << t;
    EXPECT_EQ(run.allocator().active(), active[i]) << "after step " << t;
  }
  // PEFT adds the regulariser to the loss of an evaluation, too.
  EXPECT_NEAR(stories.evaluate(run.rig()) + run.regulariser(),
              golden["final_eval_loss"].get<double>(), 0.01);
}

}  // namespace
}  // namespace rankwise
