// SPDX-License-Identifier: Apache-2.0
// Adaptation: the adapt rules of a run, applied to one model: adapters, full training, groups,
// export.
#pragma once

#include <map>
#include <set>
#include <string>
#include <vector>

#include "launch/config/module_pattern.h"
#include "launch/config/train_config.h"
#include "model/adapters/adapter_registry.h"
#include "model/causal_lm.h"
#include "optim/parameter_group.h"
#include "optim/projected_optimizer.h"

namespace rankwise {

class Adaptation {
 public:
  // Resolves every rule against the model before anything is allocated, and reads the
  // adapter_config of each `from` folder. ConfigError for a rule that no module falls under, or
  // none that its `from` targets, for an adapter on a matrix that is no linear layer of a block,
  // for adapters that one PEFT folder cannot hold together, and for rules that train nothing.
  // Linear layers trained in full stay dense whatever model.quant says.
  Adaptation(const TrainConfig& config, const ModelConfig& model);

  // What CausalLm asks while it is built, on the arena's device; train.recompute auto is none here.
  // Adapters are allocated in `arena`; both must outlive the model's construction, as must this
  // object.
  ModelPlan plan(Arena& arena, Stream& stream) const;
  // Copies the tensors of `from` folders into the model's adapters.
  void load_starting_points(CausalLm& model, Stream& stream) const;
  // Trained parameters by learning-rate factor and weight decay. Norms and biases are not decayed;
  // with lr_ratio_b (LoRA+) matrices B and magnitudes form a group of their own.
  std::vector<ParameterGroup> groups(CausalLm& model) const;
  // adapter_config.json of a model's adapters, in model order, after a run of total_steps; of
  // AdaLoRA as if all triplets were kept.
  PeftConfig peft_config(const std::vector<std::pair<std::string, Adapter*>>& adapters,
                         const ModelConfig& model, int64_t total_steps) const;
  // Of weights under rules of method galore: matrices only. Layers are refreshed in turn.
  ProjectionRule projection_rule() const;
  // Of all AdaLoRA rules, which agree about it; null when there is none.
  const AdaLoraSection* adalora() const { return adalora_ ? &*adalora_ : nullptr; }

  bool projects() const;  // some rule of method galore
  bool has_adapters() const { return has_adapters_; }
  bool trains_weights() const { return trains_weights_; }  // some base tensor, in full

 private:
  struct Rule {
    const AdaptRule* options;
    std::optional<PeftConfig> start;  // of `from`
  };
  static bool has_adapter(const Rule& rule, const std::string& module);
  static AdapterOptions options_of(const Rule& rule, const std::string& module);
  void check_start(size_t index) const;
  void check_one_folder();
  void assign(const ModelConfig& model, const std::string& module, const Shape& shape);
  void check_rules_in_use() const;
  void check_shard_base() const;
  void check_quantization(const ModelConfig& model) const;
  const Rule* rule_of(const std::string& module) const;
  bool stores_bf16(const Rule& rule, DType compute) const;

  const TrainConfig* config_;
  int64_t layers_;
  std::vector<Rule> rules_;
  std::map<std::string, size_t> rule_of_module_;  // modules no rule matches are absent: frozen
  std::optional<AdaLoraSection> adalora_;
  bool has_adapters_ = false;
  bool trains_weights_ = false;
};

}  // namespace rankwise
