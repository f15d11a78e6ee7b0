// SPDX-License-Identifier: Apache-2.0
// How PEFT describes the adapters of an Adaptation.
#include <set>

#include "launch/adaptation.h"
#include "model/hf_folder.h"

namespace rankwise {
namespace {

std::string last_component(const std::string& module) {
  return module.substr(module.rfind('.') + 1);
}

// Suffixes describe the set when every linear of that suffix is adapted; otherwise whole paths do.
void set_targets(PeftConfig& peft, const std::set<std::string>& adapted, const ModelConfig& model) {
  std::set<std::string> suffixes;
  bool exact = true;
  for (const std::string& module : adapted) suffixes.insert(last_component(module));
  for (const auto& [name, shape] : weight_shapes(model)) {
    const std::string module = name.substr(0, name.rfind('.'));
    if (!is_block_linear(model, module, shape)) continue;
    exact = exact && (!suffixes.contains(last_component(module)) || adapted.contains(module));
  }
  const std::set<std::string>& targets = exact ? suffixes : adapted;
  peft.target_modules.assign(targets.begin(), targets.end());
}

}  // namespace

PeftConfig Adaptation::peft_config(const std::vector<std::pair<std::string, Adapter*>>& adapters,
                                   const ModelConfig& model, int64_t total_steps) const {
  PeftConfig peft;
  peft.base_model_name_or_path = config_->model.path;
  bool first = true;
  std::set<std::string> adapted;
  for (const auto& [module, adapter] : adapters) {
    const AdapterOptions options = options_of(*rule_of(module), module);
    adapted.insert(module);
    if (first) {
      peft.r = options.rank;
      peft.lora_alpha = options.alpha;
      peft.lora_dropout = options.dropout;
      peft.use_rslora = options.rslora;
      peft.use_dora = options.method == AdapterMethod::kDora;
      first = false;
    }
    if (options.rank != peft.r) peft.rank_pattern[module] = options.rank;
    if (options.alpha != peft.lora_alpha) peft.alpha_pattern[module] = options.alpha;
  }
  if (adalora_) {
    peft.peft_type = "ADALORA";
    peft.r = PeftConfig{}.r;  // has no meaning there
    peft.adalora = AdaLoraSettings{.init_r = adalora_->init_rank,
                                   .target_r = adalora_->target_rank,
                                   .tinit = adalora_->warmup.steps(total_steps),
                                   .tfinal = adalora_->final.steps(total_steps),
                                   .delta_t = adalora_->interval,
                                   .beta1 = adalora_->beta1,
                                   .beta2 = adalora_->beta2,
                                   .orth_reg_weight = adalora_->orth_weight,
                                   .total_step = total_steps,
                                   .kept = {}};
  }
  set_targets(peft, adapted, model);
  return peft;
}

}  // namespace rankwise
