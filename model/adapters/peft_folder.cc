// SPDX-License-Identifier: Apache-2.0
#include "model/adapters/peft_folder.h"

#include <algorithm>
#include <filesystem>
#include <optional>
#include <set>

#include "model/atomic_folder.h"
#include "runtime/errors.h"
#include "runtime/io/safetensors.h"
#include "runtime/transfer.h"

namespace rankwise {
namespace {

namespace fs = std::filesystem;

using Adapters = std::vector<std::pair<std::string, Adapter*>>;

const char* const kPrefix = "base_model.model.";
const char* const kTensorFile = "adapter_model.safetensors";
const char* const kConfigFile = "adapter_config.json";

std::string file_in(const std::string& folder, const char* name) {
  return (fs::path(folder) / name).string();
}

// The triplets that a folder holds of a pruned AdaLoRA adapter, by their place among `all`.
struct KeptTriplets {
  int64_t all = 0;
  std::vector<int64_t> places;

  int64_t count() const { return std::ssize(places); }
};
using Kept = std::optional<KeptTriplets>;  // none: the folder holds everything

Kept kept_triplets(const PeftConfig& config, const std::string& module) {
  if (!config.adalora || !config.adalora->kept.contains(module)) return std::nullopt;
  const std::vector<bool>& mask = config.adalora->kept.at(module);
  KeptTriplets kept{std::ssize(mask), {}};
  for (int64_t i = 0; i < kept.all; ++i) {
    if (mask[static_cast<size_t>(i)]) kept.places.push_back(i);
  }
  return kept;
}

// Shape of a matrix of triplets that holds `count`: columns of B, rows of the others.
Shape shape_of_triplets(const Parameter& parameter, int64_t count) {
  const Shape& whole = parameter.dense().shape();
  if (parameter.role == ParameterRole::kLoraB) return {whole.dim(0), count};
  return {count, whole.dim(1)};
}

// visit(place in the whole tensor, place among the kept ones) for every kept element.
template <class Visit>
void for_kept(const Parameter& parameter, const KeptTriplets& kept, const Visit& visit) {
  const Shape& whole = parameter.dense().shape();
  const Shape shape = shape_of_triplets(parameter, kept.count());
  const bool columns = parameter.role == ParameterRole::kLoraB;
  for (int64_t row = 0; row < shape.dim(0); ++row) {
    for (int64_t column = 0; column < shape.dim(1); ++column) {
      const int64_t whole_row = columns ? row : kept.places[static_cast<size_t>(row)];
      const int64_t whole_column = columns ? kept.places[static_cast<size_t>(column)] : column;
      visit(whole_row * whole.dim(1) + whole_column, row * shape.dim(1) + column);
    }
  }
}

// Null when the file has none. A magnitude may have another suffix than PEFT writes today.
const SafetensorsEntry* find_entry(const SafetensorsFile& file, const Parameter& parameter) {
  const std::string name = kPrefix + parameter.name;
  const SafetensorsEntry* entry = file.find(name);
  if (entry == nullptr && parameter.role == ParameterRole::kMagnitude) {
    entry = file.find(name + ".weight");
  }
  return entry;
}

const SafetensorsEntry& entry_of(const SafetensorsFile& file, const Parameter& parameter) {
  const SafetensorsEntry* entry = find_entry(file, parameter);
  return entry != nullptr ? *entry : file.at(kPrefix + parameter.name);  // which tells its name
}

// A tensor of another model says more than one that is missing.
void refuse_foreign_tensors(const SafetensorsFile& file, const Adapters& adapters) {
  std::set<const SafetensorsEntry*> wanted;
  for (const auto& [module, adapter] : adapters) {
    for (const Parameter* parameter : adapter->parameters()) {
      wanted.insert(find_entry(file, *parameter));
    }
  }
  for (const SafetensorsEntry& entry : file.entries()) {
    if (wanted.contains(&entry)) continue;
    throw FormatError(
        fmt::format("{}: tensor {} belongs to no adapter of this model", file.path(), entry.name));
  }
}

void check_shape(const SafetensorsFile& file, const SafetensorsEntry& entry,
                 const Parameter& parameter, const Kept& kept) {
  const Shape& whole = parameter.dense().shape();
  if (kept && !(whole == shape_of_triplets(parameter, kept->all))) {
    throw FormatError(fmt::format("{}: tensor {} is pruned from {} triplets, the adapter needs {}",
                                  file.path(), entry.name, kept->all, to_string(whole)));
  }
  const Shape expected = kept ? shape_of_triplets(parameter, kept->count()) : whole;
  if (entry.shape == expected) return;
  if (parameter.role == ParameterRole::kMagnitude) {
    const int64_t outputs = whole.numel();
    if (entry.shape == Shape{outputs, 1} || entry.shape == Shape{1, outputs}) return;
  }
  const std::string who =
      kept ? fmt::format("rank_pattern keeps {} triplets and", kept->count()) : "the adapter";
  throw FormatError(fmt::format("{}: tensor {} has shape {}, {} needs {}", file.path(), entry.name,
                                to_string(entry.shape), who, to_string(expected)));
}

bool has(Adapter& adapter, ParameterRole role) {
  return std::ranges::any_of(adapter.parameters(),
                             [&](const Parameter* parameter) { return parameter->role == role; });
}

void check_method(const std::string& folder, const PeftConfig& config, const Adapters& adapters) {
  const std::string file = file_in(folder, kConfigFile);
  std::set<std::string> modules;
  for (const auto& [module, adapter] : adapters) {
    modules.insert(module);
    const bool dora = has(*adapter, ParameterRole::kMagnitude);
    const bool adalora = has(*adapter, ParameterRole::kLoraE);
    if (dora == config.use_dora && adalora == config.adalora.has_value()) continue;
    throw FormatError(fmt::format("{}: peft_type {} with use_dora {} does not fit {} of {}", file,
                                  config.peft_type, config.use_dora, adapter->method(), module));
  }
  if (!config.adalora) return;
  for (const auto& [module, mask] : config.adalora->kept) {
    if (modules.contains(module)) continue;
    throw FormatError(fmt::format("{}: rank_pattern: {} has no adapter", file, module));
  }
}

// As the folder holds them, on the host: views, or copies in `arena` of what lies on a GPU or is
// pruned. `config` must fit the adapters.
std::vector<NamedTensor> named_tensors(const PeftConfig& config, const Adapters& adapters,
                                       Arena& arena, Stream& stream) {
  std::vector<NamedTensor> tensors;
  for (const auto& [module, adapter] : adapters) {
    const Kept kept = kept_triplets(config, module);
    for (const Parameter* parameter : adapter->parameters()) {
      Tensor tensor = parameter->dense();
      if (tensor.device().is_cuda()) {
        tensor = arena.allocate("adapters", DType::kF32, tensor.shape());
        download(tensor.raw(), parameter->dense(), stream);
      }
      if (kept) {
        const auto* whole = tensor.data<float>();
        tensor =
            arena.allocate("adapters", DType::kF32, shape_of_triplets(*parameter, kept->count()));
        for_kept(*parameter, *kept,
                 [&, to = tensor.data<float>()](int64_t i, int64_t j) { to[j] = whole[i]; });
      }
      tensors.push_back({kPrefix + parameter->name, tensor});
    }
  }
  return tensors;
}

// PEFT builds its modules from the config alone: a method or ranks that it cannot give would load
// nowhere. Returns what the folder's config says.
PeftConfig verify_config(const std::string& folder, const Adapters& adapters) {
  const PeftConfig config = read_peft_config(folder);
  const std::string file = file_in(folder, kConfigFile);
  for (const auto& [module, adapter] : adapters) {
    if (!config.targets(module)) {
      throw FormatError(fmt::format("{}: target_modules leaves out {}", file, module));
    }
    for (const Parameter* parameter : adapter->parameters()) {
      if (parameter->role != ParameterRole::kLoraA) continue;
      const int64_t rank = parameter->dense().dim(0);
      if (config.rank_of(module) == rank) continue;
      throw FormatError(fmt::format("{}: {} gives {} rank {}, its adapter has {}", file,
                                    config.adalora ? "init_r" : "rank_pattern", module,
                                    config.rank_of(module), rank));
    }
  }
  check_method(folder, config, adapters);
  return config;
}

void verify_tensors(const std::string& folder, const std::vector<NamedTensor>& tensors) {
  const SafetensorsFile file(file_in(folder, kTensorFile));
  if (file.entries().size() != tensors.size()) {
    throw DiskError(fmt::format("{}: {} tensors read back, {} written", file.path(),
                                file.entries().size(), tensors.size()));
  }
  for (const NamedTensor& expected : tensors) {
    const SafetensorsEntry& entry = file.at(expected.name);
    const std::vector<std::byte> bytes = file.read_bytes(entry);
    const auto* written = static_cast<const std::byte*>(expected.tensor.raw());
    if (!(entry.shape == expected.tensor.shape()) ||
        !std::equal(bytes.begin(), bytes.end(), written)) {
      throw DiskError(fmt::format("{}: tensor {} reads back differently", file.path(), entry.name));
    }
  }
}

void refuse_foreign_folder(const std::string& folder) {
  std::error_code ignored;
  if (!fs::exists(folder, ignored)) return;
  const bool replaceable =
      fs::is_directory(folder, ignored) &&
      (fs::is_empty(folder, ignored) || fs::exists(file_in(folder, kConfigFile), ignored));
  if (!replaceable) {
    throw DiskError(fmt::format("{}: exists and is no adapter folder, it is not replaced", folder));
  }
}

}  // namespace

void load_peft_weights(const std::string& folder, const Adapters& adapters, Stream& stream) {
  const PeftConfig config = read_peft_config(folder);
  const SafetensorsFile file(file_in(folder, kTensorFile));
  // Everything is checked before the first adapter changes.
  check_method(folder, config, adapters);
  refuse_foreign_tensors(file, adapters);
  for (const auto& [module, adapter] : adapters) {
    const Kept kept = kept_triplets(config, module);
    for (const Parameter* parameter : adapter->parameters()) {
      check_shape(file, entry_of(file, *parameter), *parameter, kept);
    }
  }
  for (const auto& [module, adapter] : adapters) {
    const Kept kept = kept_triplets(config, module);
    for (const Parameter* parameter : adapter->parameters()) {
      const SafetensorsEntry& entry = entry_of(file, *parameter);
      std::vector<float> values(static_cast<size_t>(entry.shape.numel()));
      file.read(entry, Tensor(values.data(), DType::kF32, entry.shape));
      if (kept) {
        std::vector<float> whole(static_cast<size_t>(parameter->dense().numel()));
        // A and B of the others stay: with zeros in all three a triplet could never be trained.
        if (parameter->role != ParameterRole::kLoraE) {
          download(whole.data(), parameter->dense(), stream);
        }
        for_kept(*parameter, *kept, [&](int64_t i, int64_t j) {
          whole[static_cast<size_t>(i)] = values[static_cast<size_t>(j)];
        });
        values = std::move(whole);
      }
      upload(parameter->dense(), values.data(), stream);
    }
  }
}

void write_peft_folder(const std::string& folder, const PeftConfig& config,
                       const Adapters& adapters,
                       const std::vector<std::pair<std::string, std::string>>& extra_files,
                       Stream& stream) {
  refuse_foreign_folder(folder);
  AtomicFolder staged(folder);
  for (const auto& [name, content] : extra_files) staged.write(name, content);
  staged.write(kConfigFile, peft_config_text(config));
  const PeftConfig written = verify_config(staged.temporary_path(), adapters);
  Arena host;
  const std::vector<NamedTensor> tensors = named_tensors(written, adapters, host, stream);
  write_safetensors(file_in(staged.temporary_path(), kTensorFile), tensors);
  verify_tensors(staged.temporary_path(), tensors);
  staged.commit();
}

}  // namespace rankwise
