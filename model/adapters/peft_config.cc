// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <array>
#include <cmath>
#include <filesystem>
#include <regex>
#include <string_view>

#include "model/adapters/peft_folder.h"
#include "model/config_reader.h"
#include "runtime/errors.h"

#ifdef __GNUC__  // GCC 12 warns of its own <regex> when it compiles with sanitizers.
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif

namespace rankwise {
namespace {

// What PEFT 0.21 writes for a LoRA config with default settings.
const char* const kDefaults = R"({
  "alora_invocation_tokens": null, "alpha_pattern": {}, "arrow_config": null,
  "auto_mapping": null, "base_model_name_or_path": null, "bias": "none", "corda_config": null,
  "ensure_weight_tying": false, "eva_config": null, "exclude_modules": null,
  "fan_in_fan_out": false, "inference_mode": true, "init_lora_weights": true,
  "kasa_config": null, "layer_replication": null, "layers_pattern": null,
  "layers_to_transform": null, "loftq_config": {}, "lora_alpha": 8, "lora_bias": false,
  "lora_dropout": 0.0, "lora_ga_config": null, "megatron_config": null,
  "megatron_core": "megatron.core", "modules_to_save": null, "monteclora_config": null,
  "peft_type": "LORA", "peft_version": "0.21.0", "qalora_group_size": 16, "r": 8,
  "rank_pattern": {}, "revision": null, "target_modules": null, "target_parameters": null,
  "task_type": "CAUSAL_LM", "trainable_token_indices": null, "use_bdlora": null,
  "use_dora": false, "use_qalora": false, "use_rslora": false, "velora_config": null
})";

constexpr std::string_view kTriplets = ".lora_E";  // ends the keys of AdaLoRA's rank_pattern

// Keys whose value must be null, false, empty or "none": anything else changes what is computed or
// which tensors belong to the adapter.
constexpr std::array kUnsupported = {
    "alora_invocation_tokens", "arrow_config",        "bias",
    "fan_in_fan_out",          "kasa_config",         "layer_replication",
    "layers_pattern",          "layers_to_transform", "lora_bias",
    "modules_to_save",         "monteclora_config",   "target_parameters",
    "trainable_token_indices", "use_bdlora",          "use_qalora",
    "velora_config",
};

// Initialisations that leave the base weights as they were; the others (PiSSA, OLoRA, CorDA, LoftQ,
// LoRA-GA) train beside a changed base that the folder does not hold.
constexpr std::array kPlainInitialisations = {"gaussian", "eva", "orthogonal"};

bool is_off(const Json& value) {
  return value.is_null() || value == false || value == "none" ||
         (value.is_structured() && value.empty());
}

void refuse_unsupported(const ConfigReader& reader) {
  const std::string type = reader.text("peft_type");
  if (type != "LORA" && type != "ADALORA") {
    reader.fail("peft_type", fmt::format("\"{}\" is not supported; known: LORA, ADALORA", type));
  }
  if (type == "ADALORA" && reader.boolean_or("use_dora", false)) {
    reader.fail("use_dora", "is not supported with peft_type ADALORA");
  }
  for (const char* key : kUnsupported) {
    if (reader.has(key) && !is_off(reader.at(key))) {
      reader.fail(key, fmt::format("{} is not supported", reader.at(key).dump()));
    }
  }
  if (reader.has("init_lora_weights") && reader.at("init_lora_weights").is_string()) {
    const std::string name = reader.text("init_lora_weights");
    if (std::ranges::find(kPlainInitialisations, name) == kPlainInitialisations.end()) {
      reader.fail("init_lora_weights",
                  fmt::format("\"{}\" changes the base weights; convert the adapter first", name));
    }
  }
}

std::regex compile(const std::string& pattern, const ConfigReader& reader, const std::string& key) {
  try {
    return std::regex(pattern);
  } catch (const std::regex_error&) {
    reader.fail(key, fmt::format("\"{}\" is not a regular expression", pattern));
  }
}

// A text is one regular expression, a list holds module suffixes.
void read_modules(const ConfigReader& reader, const std::string& key,
                  std::vector<std::string>& modules, bool& is_regex) {
  if (!reader.has(key)) return;
  const Json& value = reader.at(key);
  if (value.is_string()) {
    modules = {reader.text(key)};
    is_regex = true;
    compile(modules.front(), reader, key);
    return;
  }
  if (!value.is_array()) reader.fail(key, "expected a text or a list of texts");
  for (const Json& entry : value) {
    if (!entry.is_string()) reader.fail(key, "expected a text or a list of texts");
    modules.push_back(entry.get<std::string>());
  }
}

std::string pattern_expression(const std::string& key) { return "(.*\\.)?(" + key + ")$"; }

template <class T, class Read>
void read_patterns(const ConfigReader& reader, const std::string& key, PatternTable<T>& patterns,
                   const Read& read) {
  if (!reader.has(key)) return;
  const ConfigReader table = reader.object(key);
  for (const auto& [pattern, value] : reader.at(key).items()) {
    compile(pattern_expression(pattern), reader, key);
    patterns[pattern] = read(table, pattern);
  }
}

int64_t count_or(const ConfigReader& reader, const std::string& key, int64_t otherwise) {
  if (reader.has(key) && reader.at(key) == 0) return 0;
  return reader.positive_or(key, otherwise);
}

std::vector<bool> read_mask(const ConfigReader& table, const std::string& key, int64_t length) {
  const Json& value = table.at(key);
  if (!value.is_array() || !std::ranges::all_of(value, &Json::is_boolean)) {
    table.fail(key, "expected a list of true and false");
  }
  if (std::ssize(value) != length) {
    table.fail(key, fmt::format("{} values, init_r is {}", value.size(), length));
  }
  return value.get<std::vector<bool>>();
}

AdaLoraSettings read_adalora(const ConfigReader& reader) {
  AdaLoraSettings out;
  out.init_r = reader.positive_or("init_r", out.init_r);
  out.target_r = count_or(reader, "target_r", out.target_r);
  out.tinit = count_or(reader, "tinit", out.tinit);
  out.tfinal = count_or(reader, "tfinal", out.tfinal);
  out.delta_t = reader.positive_or("deltaT", out.delta_t);
  out.beta1 = reader.real_or("beta1", out.beta1);
  out.beta2 = reader.real_or("beta2", out.beta2);
  out.orth_reg_weight = reader.real_or("orth_reg_weight", out.orth_reg_weight);
  out.total_step = reader.positive("total_step");
  if (out.tinit >= out.total_step - out.tfinal) {
    reader.fail("total_step", fmt::format("{} steps leave none between tinit {} and tfinal {}",
                                          out.total_step, out.tinit, out.tfinal));
  }
  if (!(reader.real_or("lora_alpha", 8.0) > 0.0)) {
    reader.fail("lora_alpha", "must be greater than 0 with peft_type ADALORA");
  }
  if (!reader.has("rank_pattern")) return out;
  const ConfigReader table = reader.object("rank_pattern");
  for (const auto& [key, value] : reader.at("rank_pattern").items()) {
    if (!key.ends_with(kTriplets)) table.fail(key, "expected a name that ends in .lora_E");
    out.kept[key.substr(0, key.size() - kTriplets.size())] = read_mask(table, key, out.init_r);
  }
  return out;
}

template <class T>
T first_match(const PatternTable<T>& patterns, const std::string& module, T otherwise) {
  for (const auto& [pattern, value] : patterns) {
    if (std::regex_match(module, std::regex(pattern_expression(pattern)))) return value;
  }
  return otherwise;
}

bool matches(const std::vector<std::string>& modules, bool is_regex, const std::string& module) {
  if (is_regex) {
    return modules.front() == "all-linear" || std::regex_match(module, std::regex(modules.front()));
  }
  return std::ranges::any_of(modules, [&](const std::string& entry) {
    return module == entry || module.ends_with("." + entry);
  });
}

// Python writes whole numbers of the type int without a point, and so does PEFT's default alpha.
nlohmann::json number(double value) {
  if (value == std::floor(value) && std::abs(value) < 1e15) return static_cast<int64_t>(value);
  return value;
}

nlohmann::json modules_json(const std::vector<std::string>& modules, bool is_regex) {
  if (modules.empty()) return nullptr;
  return is_regex ? nlohmann::json(modules.front()) : nlohmann::json(modules);
}

template <class T>
nlohmann::json patterns_json(const PatternTable<T>& patterns) {
  nlohmann::json out = nlohmann::json::object();
  for (const auto& [pattern, value] : patterns) out[pattern] = number(static_cast<double>(value));
  return out;
}

// Leaves the source's spelling (16 or 16.0) alone when it says the same.
void set(nlohmann::json& json, const char* key, const nlohmann::json& value) {
  if (json[key] != value) json[key] = value;
}

void set_adalora(nlohmann::json& json, const AdaLoraSettings& settings) {
  set(json, "init_r", settings.init_r);
  set(json, "target_r", settings.target_r);
  set(json, "tinit", settings.tinit);
  set(json, "tfinal", settings.tfinal);
  set(json, "deltaT", settings.delta_t);
  set(json, "beta1", settings.beta1);
  set(json, "beta2", settings.beta2);
  set(json, "orth_reg_weight", settings.orth_reg_weight);
  set(json, "total_step", settings.total_step);
  nlohmann::json pattern;  // null when nothing was pruned
  for (const auto& [module, kept] : settings.kept) pattern[module + std::string(kTriplets)] = kept;
  set(json, "rank_pattern", pattern);
}

}  // namespace

int64_t PeftConfig::rank_of(const std::string& module) const {
  if (adalora) return adalora->init_r;
  return first_match(rank_pattern, module, r);
}

double PeftConfig::alpha_of(const std::string& module) const {
  if (adalora) return lora_alpha;
  return first_match(alpha_pattern, module, lora_alpha);
}

bool PeftConfig::targets(const std::string& module) const {
  if (!exclude_modules.empty() && matches(exclude_modules, exclude_is_regex, module)) return false;
  return !target_modules.empty() && matches(target_modules, target_is_regex, module);
}

PeftConfig parse_peft_config(const Json& json, const std::string& source) {
  const ConfigReader reader(json, source);
  refuse_unsupported(reader);
  PeftConfig config;
  config.source = json;
  config.peft_type = reader.text("peft_type");
  config.base_model_name_or_path = reader.text_or("base_model_name_or_path", "");
  config.r = reader.positive_or("r", config.r);
  config.lora_alpha = reader.real_or("lora_alpha", config.lora_alpha);
  config.lora_dropout = reader.real_or("lora_dropout", config.lora_dropout);
  if (!(config.lora_dropout >= 0.0 && config.lora_dropout < 1.0)) {
    reader.fail("lora_dropout", "must be at least 0 and less than 1");
  }
  config.use_rslora = reader.boolean_or("use_rslora", false);
  config.use_dora = reader.boolean_or("use_dora", false);
  read_modules(reader, "target_modules", config.target_modules, config.target_is_regex);
  if (config.target_modules.empty()) reader.fail("target_modules", "missing");
  read_modules(reader, "exclude_modules", config.exclude_modules, config.exclude_is_regex);
  if (config.peft_type == "ADALORA") {
    config.adalora = read_adalora(reader);
  } else {
    read_patterns(
        reader, "rank_pattern", config.rank_pattern,
        [](const ConfigReader& table, const std::string& key) { return table.positive(key); });
  }
  read_patterns(reader, "alpha_pattern", config.alpha_pattern,
                [](const ConfigReader& table, const std::string& key) { return table.real(key); });
  return config;
}

PeftConfig read_peft_config(const std::string& folder) {
  const std::string path = (std::filesystem::path(folder) / "adapter_config.json").string();
  return parse_peft_config(read_json_file(path), path);
}

std::string peft_config_text(const PeftConfig& config) {
  RW_ASSERT((config.peft_type == "ADALORA") == config.adalora.has_value(), "{}", config.peft_type);
  nlohmann::json json = nlohmann::json::parse(kDefaults);  // sorted by key, nested objects too
  if (config.source.is_object()) json.update(nlohmann::json(config.source));
  const std::string& base = config.base_model_name_or_path;
  set(json, "base_model_name_or_path", base.empty() ? nlohmann::json() : nlohmann::json(base));
  set(json, "inference_mode", true);
  set(json, "peft_type", config.peft_type);
  set(json, "r", config.r);
  set(json, "lora_alpha", number(config.lora_alpha));
  set(json, "lora_dropout", config.lora_dropout);
  set(json, "use_rslora", config.use_rslora);
  set(json, "use_dora", config.use_dora);
  set(json, "target_modules", modules_json(config.target_modules, config.target_is_regex));
  set(json, "exclude_modules", modules_json(config.exclude_modules, config.exclude_is_regex));
  set(json, "alpha_pattern", patterns_json(config.alpha_pattern));
  if (config.adalora) {
    set_adalora(json, *config.adalora);
  } else {
    set(json, "rank_pattern", patterns_json(config.rank_pattern));
  }
  return json.dump(2, ' ', true);
}

}  // namespace rankwise
