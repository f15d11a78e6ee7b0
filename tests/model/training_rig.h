// SPDX-License-Identifier: Apache-2.0
// TrainingRig: a model, its gradients and AdamW on one rank of a mesh, stepped by hand as the
// trainer would.
#pragma once

#include <cmath>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "kernels/elementwise.h"
#include "model/adapters/adapter_registry.h"
#include "model/adapters/lora_adapter.h"
#include "model/causal_lm.h"
#include "optim/adamw_optimizer.h"
#include "optim/clip_gradients.h"
#include "runtime/data/micro_batch.h"
#include "runtime/rng.h"
#include "runtime/transfer.h"

namespace rankwise::testing {

struct LossSums {
  double loss = 0.0;
  double tokens = 0.0;
  double hits = 0.0;
  double mean() const { return loss / tokens; }
};

struct RigOptions {
  ModelPlan plan;
  std::function<std::optional<LoraOptions>(const LinearSite&)> lora;
  // In the place of `lora`.
  std::function<std::unique_ptr<Adapter>(const LinearSite&, Arena&, Stream&)> adapter;
  Arena::Mode arena_mode = Arena::Mode::kReserve;
  Device device;  // of model, gradients and optimizer; what the rig returns is on the host
  Communicator* world = nullptr;  // null: one rank
  int tensor = 1;                 // ranks that share the model
};

inline RigOptions with_lora(const LoraOptions& lora) {
  RigOptions options;
  options.lora = [lora](const LinearSite&) { return lora; };
  return options;
}

inline RigOptions with_adapters(const AdapterOptions& adapter) {
  RigOptions options;
  options.adapter = [adapter](const LinearSite& site, Arena& arena, Stream& stream) {
    return make_adapter(site, adapter, /*seed=*/1, arena, stream);
  };
  return options;
}

inline RigOptions with_all_trained() {
  RigOptions options;
  options.plan.is_trained = [](const std::string&) { return true; };
  return options;
}

// Every weight, and LoRA beside each linear layer.
inline RigOptions everything_trained(float dropout = 0.0f) {
  RigOptions options = with_all_trained();
  options.lora = with_lora({.rank = 2, .alpha = 3.0, .dropout = dropout}).lora;
  return options;
}

class TrainingRig {
 public:
  TrainingRig(const ModelConfig& config, const WeightSource& weights, RigOptions options)
      : alone_(make_single_communicator()),
        mesh_(options.world == nullptr ? *alone_ : *options.world, options.tensor),
        arena_(options.device, options.arena_mode),
        host_({}, options.arena_mode),
        stream_(options.device, options.arena_mode == Arena::Mode::kMeasure
                                    ? Stream::Mode::kMeasure
                                    : Stream::Mode::kExecute) {
    ModelPlan plan = options.plan;
    if (options.lora) {
      plan.make_adapter = [this, lora = options.lora,
                           seed = plan.seed](const LinearSite& site) -> std::unique_ptr<Adapter> {
        const auto wanted = lora(site);
        if (!wanted) return nullptr;
        return std::make_unique<LoraAdapter>(site, *wanted, seed, arena_, stream_);
      };
    }
    if (options.adapter) {
      plan.make_adapter = [this, make = options.adapter](const LinearSite& site) {
        return make(site, arena_, stream_);
      };
    }
    model_ = std::make_unique<CausalLm>(config, weights, plan, mesh_, arena_, stream_);
    trained_ = model_->trained_parameters();
    reducer_ = std::make_unique<GradientReducer>(trained_, mesh_, arena_);
  }

  CausalLm& model() { return *model_; }
  const DeviceMesh& mesh() const { return mesh_; }
  Arena& arena() { return arena_; }
  Stream& stream() { return stream_; }
  GradientReducer& reducer() { return *reducer_; }
  const std::vector<Parameter*>& trained() const { return trained_; }

  Parameter& parameter(const std::string& name) {
    for (Parameter* parameter : model_->parameters()) {
      if (parameter->name == name) return *parameter;
    }
    RW_ASSERT(false, "no parameter {}", name);
    std::abort();
  }

  // LoRA starts with B = 0, AdaLoRA with E = 0, which would hide errors in the gradient of A.
  void randomise_lora_b() {
    for (Parameter* parameter : trained_) {
      if (parameter->role != ParameterRole::kLoraB && parameter->role != ParameterRole::kLoraE) {
        continue;
      }
      std::vector<float> b(static_cast<size_t>(parameter->dense().numel()));
      Rng(5, parameter->name).fill_normal(b, 0.0f, 0.2f);
      upload(parameter->dense(), b.data(), stream_);
    }
    model_->parameters_changed();
  }

  // Loss without gradients.
  LossSums evaluate(const MicroBatch& batch) {
    const auto scope = arena_.scope("activations");
    ForwardContext context = model_->forward(batch, false, 0, stream_);
    const Tensor sums = zero_sums();
    model_->loss(context, sums, stream_);
    return read(sums);
  }

  // Logits of all tokens, (T, V).
  Tensor logits(const MicroBatch& batch) {
    const auto scope = arena_.scope("activations");
    ForwardContext context = model_->forward(batch, false, 0, stream_);
    return host_copy(model_->logits(context, 0, context.tokens, stream_));
  }

  // F32, contiguous.
  Tensor host_copy(const Tensor& x) {
    const Tensor kept = host_.allocate("golden", DType::kF32, x.shape());
    download(kept.raw(), x, stream_);
    return kept;
  }

  // Gradients of the mean loss over all batches; nothing is updated.
  LossSums accumulate(const std::vector<MicroBatch>& batches, uint64_t step = 0) {
    LossSums total;
    reducer_->begin_step(stream_);
    for (size_t i = 0; i < batches.size(); ++i) {
      const auto scope = arena_.scope("activations");
      ForwardContext context = model_->forward(batches[i], true, step, stream_);
      const Tensor sums = zero_sums();
      model_->loss(context, sums, stream_);
      reducer_->begin_micro_batch(batches[i].trained_tokens, i + 1 == batches.size());
      model_->backward(context, *reducer_, stream_);
      const LossSums part = read(sums);
      total.loss += part.loss;
      total.tokens += part.tokens;
      total.hits += part.hits;
    }
    reducer_->finish_step(stream_);
    return total;
  }

  // LoRA+ when b_factor is not 1.
  void start_adamw(double weight_decay, double b_factor = 1.0) {
    groups_.assign(2, {});
    groups_[0] = {"weights", {}, 1.0, weight_decay};
    groups_[1] = {"lora_B", {}, b_factor, weight_decay};
    for (Parameter* parameter : trained_) {
      groups_[parameter->role == ParameterRole::kLoraB ? 1 : 0].parameters.push_back(parameter);
    }
    adamw_ = std::make_unique<AdamWOptimizer>(groups_, AdamWOptions{}, arena_, stream_);
  }

  struct Step {
    double loss = 0.0;
    double gradient_norm = 0.0;
  };
  Step train_step(const MicroBatch& batch, double lr, double clip, uint64_t step) {
    const LossSums sums = accumulate({batch}, step);
    const auto scope = arena_.scope("activations");
    const Tensor norms = arena_.allocate("activations", DType::kF64, {2});
    const ClipResult clipped = clip_gradients(groups_, clip, mesh_, norms, stream_);
    adamw_->step(groups_, lr, clipped.scale, stream_);
    model_->parameters_changed();
    return {sums.mean(), clipped.norm};
  }

 private:
  Tensor zero_sums() {
    const Tensor sums = arena_.allocate("activations", DType::kF64, {3});
    fill(sums, 0.0f, stream_);
    return sums;
  }
  LossSums read(const Tensor& sums) {
    double values[3] = {};
    download(values, sums, stream_);
    return {values[0], values[1], values[2]};
  }

  std::unique_ptr<Communicator> alone_;
  DeviceMesh mesh_;
  Arena arena_;
  Arena host_;
  Stream stream_;
  std::unique_ptr<CausalLm> model_;
  std::vector<Parameter*> trained_;
  std::unique_ptr<GradientReducer> reducer_;
  std::vector<ParameterGroup> groups_;
  std::unique_ptr<AdamWOptimizer> adamw_;
};

}  // namespace rankwise::testing
