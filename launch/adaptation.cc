// SPDX-License-Identifier: Apache-2.0
#include "launch/adaptation.h"

#include <algorithm>

#include "launch/device_choice.h"
#include "model/hf_folder.h"

namespace rankwise {
namespace {

std::string module_of(const std::string& parameter) {
  return parameter.substr(0, parameter.rfind('.'));
}

AdapterMethod adapter_method(AdaptMethod method) {
  if (method == AdaptMethod::kDora) return AdapterMethod::kDora;
  return method == AdaptMethod::kAdaLora ? AdapterMethod::kAdaLora : AdapterMethod::kLora;
}

std::string_view name_of(AdapterMethod method) {
  if (method == AdapterMethod::kDora) return "dora";
  return method == AdapterMethod::kAdaLora ? "adalora" : "lora";
}

// Matrices of one layer are refreshed in the same step, layers in turn, what lies in no layer at
// last.
int64_t refresh_offset(const std::string& name, int64_t refresh, int64_t layers) {
  constexpr std::string_view kLayers = ".layers.";
  const size_t place = name.find(kLayers);
  const int64_t layer =
      place == std::string::npos ? layers : std::stoll(name.substr(place + kLayers.size()));
  return layer * refresh / (layers + 1);
}

bool is_matrix(ParameterRole role) {
  return role == ParameterRole::kLinear || role == ParameterRole::kHead ||
         role == ParameterRole::kEmbedding;
}

std::string joined(const std::vector<std::string>& patterns) {
  return fmt::format("[{}]", fmt::join(patterns, ", "));
}

}  // namespace

Adaptation::Adaptation(const TrainConfig& config, const ModelConfig& model)
    : config_(&config), layers_(model.num_hidden_layers) {
  for (const AdaptRule& rule : config.adapt) {
    rules_.push_back({&rule, {}});
    if (rule.from) rules_.back().start = read_peft_config(*rule.from);
    check_start(rules_.size() - 1);
  }
  check_one_folder();
  for (const auto& [name, shape] : weight_shapes(model)) {
    if (!name.ends_with(".bias"))
      assign(model, module_of(name), shape);  // a bias follows its weight
  }
  check_rules_in_use();
  check_shard_base();
  check_quantization(model);
}

// Of what trains there is no 4-bit copy: neither a gradient nor an update fits into the codes.
void Adaptation::check_quantization(const ModelConfig& model) const {
  if (config_->model.quant == BaseQuantization::kNone) return;
  for (const auto& [name, shape] : weight_shapes(model)) {
    const std::string module = module_of(name);
    if (!is_block_linear(model, module, shape)) continue;
    const Rule* rule = rule_of(module);
    if (rule == nullptr || !rule->options->trains_weights()) return;
  }
  const bool projected = projects();
  throw ConfigError(fmt::format(
      "model.quant: nf4 is for frozen weights, as codes take no updates, but method {} under adapt "
      "trains every linear layer; set model.quant: none, or freeze layers or give them adapters",
      projected ? "galore" : "full"));
}

void Adaptation::check_shard_base() const {
  if (!config_->parallel.shard_base) return;
  if (config_->model.quant == BaseQuantization::kNone) {
    throw ConfigError(
        "parallel.shard_base: data splits a 4-bit base, but model.quant is none; set model.quant: "
        "nf4");
  }
  if (trains_weights_) {
    throw ConfigError(
        "parallel.shard_base: data needs a frozen base, but a rule under adapt trains weights "
        "(method full or galore)");
  }
}

void Adaptation::check_start(size_t index) const {
  const auto& [rule, start] = rules_[index];
  if (!start) return;
  const AdapterMethod held = adapter_options(*start, "").method;
  if (held == adapter_method(rule->method)) return;
  throw ConfigError(
      fmt::format("adapt.{}.from: '{}' holds an adapter of method {}, the rule has method {}",
                  index, *rule->from, name_of(held), name_of(adapter_method(rule->method))));
}

// A PEFT folder has one method and one such setting for all its modules, and the budget of AdaLoRA
// is one for all.
void Adaptation::check_one_folder() {
  const Rule* first = nullptr;
  for (const Rule& rule : rules_) {
    if (!rule.options->has_adapter()) continue;
    if (first == nullptr) first = &rule;
    if (rule.options->method != first->options->method) {
      throw ConfigError(fmt::format(
          "adapt: rules of method {} and {} cannot share one PEFT folder; choose one of them",
          name_of(adapter_method(first->options->method)),
          name_of(adapter_method(rule.options->method))));
    }
    const AdapterOptions own = options_of(rule, "");
    const AdapterOptions other = options_of(*first, "");
    if (own.rslora != other.rslora) {
      throw ConfigError("adapt: rules with and without rslora cannot share one PEFT folder");
    }
    if (rule.options->method != AdaptMethod::kAdaLora) continue;
    AdaLoraSection section = rule.options->adalora;
    section.init_rank = own.rank;
    if (adalora_ && (!(section == *adalora_) || own.alpha != other.alpha)) {
      throw ConfigError(
          "adapt: rules of method adalora share one budget and one PEFT folder; "
          "their alpha and adalora settings must be equal");
    }
    adalora_ = section;
  }
}

AdapterOptions Adaptation::options_of(const Rule& rule, const std::string& module) {
  const AdaptRule& own = *rule.options;
  AdapterOptions options;
  if (rule.start) {
    options = adapter_options(*rule.start, module);
  } else {
    options = {.method = adapter_method(own.method),
               .rank = own.method == AdaptMethod::kAdaLora ? own.adalora.init_rank : own.rank,
               .alpha = own.alpha,
               .rslora = own.rslora};
  }
  options.dropout = static_cast<float>(own.dropout);
  return options;
}

// `shape` is that of the module's weight.
void Adaptation::assign(const ModelConfig& model, const std::string& module, const Shape& shape) {
  const ModuleKind kind =
      is_block_linear(model, module, shape) ? ModuleKind::kBlockLinear : ModuleKind::kOther;
  for (size_t i = 0; i < rules_.size(); ++i) {
    const AdaptRule& rule = *rules_[i].options;
    if (!matches(rule, module, kind)) continue;
    if (rule.has_adapter() && kind == ModuleKind::kOther) {
      if (shape.rank() < 2) continue;  // a glob may sweep over norms
      throw ConfigError(fmt::format(
          "adapt.{}.match: {} matches '{}'; {} applies to the linear layers of blocks only", i,
          joined(rule.match), module, name_of(adapter_method(rule.method))));
    }
    rule_of_module_.emplace(module, i);
    has_adapters_ = has_adapters_ || has_adapter(rules_[i], module);
    trains_weights_ = trains_weights_ || rule.trains_weights();
    return;
  }
}

void Adaptation::check_rules_in_use() const {
  for (size_t i = 0; i < rules_.size(); ++i) {
    const AdaptRule& rule = *rules_[i].options;
    bool matched = false;
    bool adapted = false;
    for (const auto& [module, index] : rule_of_module_) {
      if (index != i) continue;
      matched = true;
      adapted = adapted || has_adapter(rules_[i], module);
    }
    if (!matched) {
      throw ConfigError(fmt::format(
          "adapt.{}.match: no module of this model falls under {} that an earlier rule leaves", i,
          joined(rule.match)));
    }
    if (rule.from && !adapted) {
      throw ConfigError(fmt::format("adapt.{}.from: the adapter '{}' targets no module under {}", i,
                                    *rule.from, joined(rule.match)));
    }
  }
  if (!has_adapters_ && !trains_weights_) {
    throw ConfigError("adapt: every module is frozen, nothing would be trained");
  }
}

bool Adaptation::has_adapter(const Rule& rule, const std::string& module) {
  if (!rule.options->has_adapter()) return false;
  return !rule.start || rule.start->targets(module);
}

const Adaptation::Rule* Adaptation::rule_of(const std::string& module) const {
  const auto found = rule_of_module_.find(module);
  return found == rule_of_module_.end() ? nullptr : &rules_[found->second];
}

ModelPlan Adaptation::plan(Arena& arena, Stream& stream) const {
  ModelPlan plan;
  plan.seed = static_cast<uint64_t>(config_->train.seed);
  plan.quantize_nf4 = config_->model.quant == BaseQuantization::kNf4;
  plan.double_quant = config_->model.double_quant;
  plan.shard_base = config_->parallel.shard_base;
  plan.recompute = config_->train.recompute.value_or(Recompute::kNone);
  plan.compute = choose_compute(config_->model.compute, arena.device());
  plan.deterministic = config_->train.deterministic;
  plan.logits_bytes = logits_bytes(arena.device());
  plan.make_adapter = [this, &arena, &stream,
                       seed = plan.seed](const LinearSite& site) -> std::unique_ptr<Adapter> {
    const Rule* rule = rule_of(site.module);
    if (rule == nullptr || !has_adapter(*rule, site.module)) return nullptr;
    return make_adapter(site, options_of(*rule, site.module), seed, arena, stream);
  };
  plan.is_trained = [this](const std::string& name) {
    const Rule* rule = rule_of(module_of(name));
    return rule != nullptr && rule->options->trains_weights();
  };
  plan.stores_bf16 = [this, compute = plan.compute](const std::string& name) -> bool {
    const Rule* rule = rule_of(module_of(name));
    return rule != nullptr && rule->options->method == AdaptMethod::kGaLore &&
           stores_bf16(*rule, compute);
  };
  return plan;
}

void Adaptation::load_starting_points(CausalLm& model, Stream& stream) const {
  for (const Rule& rule : rules_) {
    if (!rule.start) continue;
    std::vector<std::pair<std::string, Adapter*>> chosen;
    for (const auto& entry : model.adapters()) {
      if (rule_of(entry.first) == &rule) chosen.push_back(entry);
    }
    load_peft_weights(*rule.options->from, chosen, stream);
  }
}

std::vector<ParameterGroup> Adaptation::groups(CausalLm& model) const {
  std::map<std::pair<double, double>, ParameterGroup> by_setting;
  for (Parameter* parameter : model.trained_parameters()) {
    double factor = 1.0;
    const ParameterRole role = parameter->role;
    if (role == ParameterRole::kLoraB || role == ParameterRole::kMagnitude) {
      // "<module>.lora_B.weight", "<module>.lora_magnitude_vector"
      const Rule* rule = rule_of(parameter->name.substr(0, parameter->name.rfind(".lora_")));
      RW_ASSERT(rule != nullptr, "{}", parameter->name);
      factor = rule->options->lr_ratio_b;
    }
    const bool decays = role != ParameterRole::kNorm && role != ParameterRole::kBias &&
                        role != ParameterRole::kMagnitude;
    const double decay = decays ? config_->optim.weight_decay : 0.0;
    ParameterGroup& group = by_setting[{factor, decay}];
    group.name = fmt::format("lr x{} decay {}", factor, decay);
    group.lr_factor = factor;
    group.weight_decay = decay;
    group.parameters.push_back(parameter);
  }
  std::vector<ParameterGroup> groups;
  for (auto& [setting, group] : by_setting) groups.push_back(std::move(group));
  return groups;
}

bool Adaptation::stores_bf16(const Rule& rule, DType compute) const {
  const GaLoreWeights choice = rule.options->galore.weights;
  if (choice == GaLoreWeights::kBf16 && compute != DType::kBF16) {
    throw ConfigError(fmt::format("adapt.{}.galore.weights: bf16 needs model.compute: bf16",
                                  &rule - rules_.data()));
  }
  return compute == DType::kBF16 && choice != GaLoreWeights::kFp32;
}

bool Adaptation::projects() const {
  return std::ranges::any_of(
      rules_, [](const Rule& rule) { return rule.options->method == AdaptMethod::kGaLore; });
}

ProjectionRule Adaptation::projection_rule() const {
  return [this](const Parameter& parameter) -> std::optional<ProjectionOptions> {
    if (!is_matrix(parameter.role)) return std::nullopt;
    const Rule* rule = rule_of(module_of(parameter.name));
    if (rule == nullptr || rule->options->method != AdaptMethod::kGaLore) return std::nullopt;
    const GaLoreSection& galore = rule->options->galore;
    return ProjectionOptions{.type = galore.projection,
                             .rank = galore.rank,
                             .refresh = galore.refresh,
                             .offset = refresh_offset(parameter.name, galore.refresh, layers_),
                             .scale = galore.scale,
                             .exact = galore.exact,
                             .rotate_moments = galore.rotate_moments,
                             .seed = static_cast<uint64_t>(config_->train.seed)};
  };
}

}  // namespace rankwise
