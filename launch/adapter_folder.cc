// SPDX-License-Identifier: Apache-2.0
#include "launch/adapter_folder.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <span>
#include <sstream>
#include <string_view>
#include <tuple>

#include "model/adapters/adapter_registry.h"
#include "runtime/io/safetensors.h"

namespace rankwise {
namespace {

constexpr std::string_view kPrefix = "base_model.model.";
constexpr std::string_view kMatrix = ".lora_A";

// The first number in the path is that of the layer.
void split_name(AdaptedModule& module) {
  module.kind = module.name;
  std::istringstream path(module.name);
  for (std::string part; std::getline(path, part, '.');) {
    if (part.find_first_not_of("0123456789") != std::string::npos) continue;
    module.layer = part;
    std::getline(path, module.kind, '\0');
    return;
  }
}

// Sizes by those of lora_A (r, in) and lora_B (out, r); loading compares the rest.
AdaptedModule module_of(const SafetensorsFile& file, const SafetensorsEntry& a, size_t marker) {
  std::string name = a.name;
  name[marker + kMatrix.size() - 1] = 'B';
  const SafetensorsEntry& b = file.at(name);
  if (a.shape.rank() != 2 || b.shape.rank() != 2) {
    throw FormatError(fmt::format("{}: {} and {} are not matrices", file.path(), a.name, b.name));
  }
  AdaptedModule module;
  module.name = name.substr(kPrefix.size(), marker - kPrefix.size());
  module.in = a.shape.dim(1);
  module.out = b.shape.dim(0);
  split_name(module);
  return module;
}

int64_t rank_of(Adapter& adapter, const std::string& path) {
  int64_t rank = adapter.rank();
  for (const Parameter* parameter : adapter.parameters()) {
    const std::span values(parameter->dense().data<float>(),
                           static_cast<size_t>(parameter->dense().numel()));
    if (!std::ranges::all_of(values, [](float value) { return std::isfinite(value); })) {
      throw FormatError(fmt::format("{}: {}: not finite", path, parameter->name));
    }
    if (parameter->role == ParameterRole::kLoraE) rank -= std::ranges::count(values, 0.0f);
  }
  return rank;
}

}  // namespace

AdapterFolder::AdapterFolder(const std::string& given) : path_(given) {
  if (!std::filesystem::exists(given)) {
    throw ConfigError(fmt::format("'{}' does not exist", given));
  }
  if (std::filesystem::exists(given + "/adapter/adapter_config.json")) path_ += "/adapter";
  const std::string& folder = path_;
  const PeftConfig config = read_peft_config(folder);
  const SafetensorsFile file(folder + "/adapter_model.safetensors");
  Stream stream;
  std::vector<std::pair<std::string, Adapter*>> adapters;
  for (const SafetensorsEntry& entry : file.entries()) {
    const size_t marker = entry.name.rfind(kMatrix);
    if (!entry.name.starts_with(kPrefix) || marker == std::string::npos) continue;
    AdaptedModule module = module_of(file, entry, marker);
    const LinearSite site = {module.name, module.in, module.out, ShardSpec::replicated()};
    module.adapter =
        make_adapter(site, adapter_options(config, module.name), /*seed=*/0, arena_, stream);
    adapters.emplace_back(module.name, module.adapter.get());
    modules_.push_back(std::move(module));
  }
  load_peft_weights(folder, adapters, stream);
  if (modules_.empty()) throw FormatError(file.path() + ": no tensors");
  for (AdaptedModule& module : modules_) module.rank = rank_of(*module.adapter, file.path());
  // Shorter numbers first, so that layer 10 follows layer 9.
  std::ranges::sort(modules_, {}, [](const AdaptedModule& module) {
    return std::tuple(module.layer.size(), module.layer, module.name);
  });
}

}  // namespace rankwise
