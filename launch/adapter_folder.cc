// SPDX-License-Identifier: Apache-2.0
#include "launch/adapter_folder.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <numeric>
#include <set>
#include <sstream>

#include "runtime/errors.h"

namespace rankwise {
namespace {

constexpr std::string_view kPrefix = "base_model.model.";
constexpr std::string_view kMarker = ".lora_";

PeftConfig config_of(const std::string& folder) {
  if (!std::filesystem::exists(folder)) {
    throw ConfigError(fmt::format("'{}' does not exist", folder));
  }
  return read_peft_config(folder);
}

// The first number in the path is that of the layer.
void split_name(AdaptedModule& module) {
  std::istringstream path(module.name);
  for (std::string part; std::getline(path, part, '.');) {
    if (!std::ranges::all_of(part, [](unsigned char c) { return std::isdigit(c) != 0; })) continue;
    module.layer = part;
    std::getline(path, module.kind, '\0');
    return;
  }
  module.kind = module.name;
}

double scale_of(const PeftConfig& config, const std::string& module, int64_t rank) {
  const double alpha = config.alpha_of(module);
  if (config.adalora) return alpha / (static_cast<double>(config.adalora->init_r) + 1e-5);
  const auto r = static_cast<double>(rank);
  return alpha / (config.use_rslora ? std::sqrt(r) : r);
}

// Shorter numbers first, so that layer 10 follows layer 9.
bool is_before(const AdaptedModule& a, const AdaptedModule& b) {
  return std::tuple(a.layer.size(), a.layer, a.name) < std::tuple(b.layer.size(), b.layer, b.name);
}

}  // namespace

AdapterFolder::AdapterFolder(const std::string& folder)
    : config_(config_of(folder)), file_(folder + "/adapter_model.safetensors") {
  std::set<std::string> names;
  for (const SafetensorsEntry& entry : file_.entries()) {
    const size_t marker = entry.name.rfind(kMarker);
    if (!entry.name.starts_with(kPrefix) || marker == std::string::npos) {
      throw FormatError(
          fmt::format("{}: {} is no tensor of LoRA, DoRA or AdaLoRA", file_.path(), entry.name));
    }
    names.insert(entry.name.substr(kPrefix.size(), marker - kPrefix.size()));
  }
  if (names.empty()) throw FormatError(file_.path() + ": no tensors");
  for (const std::string& name : names) add_module(name);
  std::ranges::sort(modules_, is_before);
}

void AdapterFolder::add_module(const std::string& name) {
  const SafetensorsEntry* a = find(name, "A");
  const SafetensorsEntry* b = find(name, "B");
  const SafetensorsEntry* e = find(name, "E");
  const SafetensorsEntry* m = find(name, "magnitude_vector");
  const bool fits = a != nullptr && b != nullptr && a->shape.rank() == 2 && b->shape.rank() == 2 &&
                    a->shape.dim(0) == b->shape.dim(1) && (e != nullptr || a->shape.dim(0) > 0) &&
                    (e != nullptr) == config_.adalora.has_value() &&
                    (e == nullptr || e->shape == Shape{a->shape.dim(0), 1}) &&
                    (m != nullptr) == config_.use_dora &&
                    (m == nullptr || m->shape == Shape{b->shape.dim(0)});
  if (!fits) {
    throw FormatError(fmt::format("{}: {}: its tensors are not lora_A (r, in), lora_B (out, r){}{}",
                                  file_.path(), name, config_.adalora ? ", lora_E (r, 1)" : "",
                                  config_.use_dora ? ", lora_magnitude_vector (out)" : ""));
  }
  Arena arena;
  const Tensor values = e == nullptr ? Tensor() : read(*e, arena);
  AdaptedModule module = {.name = name, .in = a->shape.dim(1), .out = b->shape.dim(0)};
  split_name(module);
  for (int64_t i = 0; i < a->shape.dim(0); ++i) {
    if (e == nullptr || values.data<float>()[i] != 0.0f) ++module.rank;
  }
  modules_.push_back(std::move(module));
}

const SafetensorsEntry* AdapterFolder::find(const std::string& module,
                                            const std::string& part) const {
  const std::string name = fmt::format("{}{}{}{}", kPrefix, module, kMarker, part);
  const SafetensorsEntry* entry = file_.find(name + ".weight");  // AdaLoRA has none of these
  return entry != nullptr ? entry : file_.find(name);
}

Tensor AdapterFolder::read(const SafetensorsEntry& entry, Arena& arena) const {
  const Tensor out = arena.allocate("analysis", DType::kF32, entry.shape);
  file_.read(entry, out);
  const auto* values = out.data<float>();
  if (!std::all_of(values, values + out.numel(), [](float v) { return std::isfinite(v); })) {
    throw FormatError(fmt::format("{}: {}: not finite", file_.path(), entry.name));
  }
  return out;
}

AdapterFactors AdapterFolder::factors(const AdaptedModule& module, Arena& arena) const {
  const SafetensorsEntry* e = find(module.name, "E");
  const SafetensorsEntry* m = find(module.name, "magnitude_vector");
  const AdapterFactors out = {read(*find(module.name, "A"), arena),
                              read(*find(module.name, "B"), arena),
                              m == nullptr ? Tensor() : read(*m, arena)};
  const float scale = static_cast<float>(scale_of(config_, module.name, out.a.dim(0)));
  for (int64_t i = 0; i < out.b.numel(); ++i) out.b.data<float>()[i] *= scale;
  if (e == nullptr) return out;
  const Tensor values = read(*e, arena);
  for (int64_t i = 0; i < out.a.numel(); ++i) {
    out.a.data<float>()[i] *= values.data<float>()[i / module.in];
  }
  return out;
}

}  // namespace rankwise
