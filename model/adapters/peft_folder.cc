// SPDX-License-Identifier: Apache-2.0
#include "model/adapters/peft_folder.h"

#include <algorithm>
#include <cstring>
#include <filesystem>
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

void check_shape(const SafetensorsFile& file, const SafetensorsEntry& entry,
                 const Shape& expected) {
  if (!(entry.shape == expected)) {
    throw FormatError(fmt::format("{}: tensor {} has shape {}, the adapter needs {}", file.path(),
                                  entry.name, to_string(entry.shape), to_string(expected)));
  }
}

// On the host: views, or copies in `arena` of what lies on a GPU.
std::vector<NamedTensor> named_tensors(const Adapters& adapters, Arena& arena, Stream& stream) {
  std::vector<NamedTensor> tensors;
  for (const auto& [module, adapter] : adapters) {
    for (const Parameter* parameter : adapter->parameters()) {
      Tensor tensor = parameter->dense();
      if (tensor.device().is_cuda()) {
        tensor = arena.allocate("adapters", DType::kF32, tensor.shape());
        download(tensor.raw(), parameter->dense(), stream);
      }
      tensors.push_back({kPrefix + parameter->name, tensor});
    }
  }
  return tensors;
}

// PEFT builds its modules from the config alone: ranks that it cannot give would load nowhere.
void verify_config(const std::string& folder, const Adapters& adapters) {
  const PeftConfig config = read_peft_config(folder);
  for (const auto& [module, adapter] : adapters) {
    if (!config.targets(module)) {
      throw FormatError(
          fmt::format("{}: target_modules leaves out {}", file_in(folder, kConfigFile), module));
    }
    for (const Parameter* parameter : adapter->parameters()) {
      if (parameter->role != ParameterRole::kLoraA) continue;
      const int64_t rank = parameter->dense().dim(0);
      if (config.rank_of(module) == rank) continue;
      throw FormatError(fmt::format("{}: rank_pattern gives {} rank {}, its adapter has {}",
                                    file_in(folder, kConfigFile), module, config.rank_of(module),
                                    rank));
    }
  }
}

void verify_tensors(const std::string& folder, const std::vector<NamedTensor>& tensors) {
  const SafetensorsFile file(file_in(folder, kTensorFile));
  if (file.entries().size() != tensors.size()) {
    throw DiskError(fmt::format("{}: {} tensors read back, {} written", file.path(),
                                file.entries().size(), tensors.size()));
  }
  for (const NamedTensor& expected : tensors) {
    const SafetensorsEntry& entry = file.at(expected.name);
    check_shape(file, entry, expected.tensor.shape());
    const std::vector<std::byte> bytes = file.read_bytes(entry);
    if (std::memcmp(bytes.data(), expected.tensor.raw(), bytes.size()) != 0) {
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
  const SafetensorsFile file(file_in(folder, kTensorFile));
  std::set<std::string, std::less<>> wanted;
  for (const auto& [module, adapter] : adapters) {
    for (const Parameter* parameter : adapter->parameters())
      wanted.insert(kPrefix + parameter->name);
  }
  // Everything is checked before the first adapter changes.
  for (const SafetensorsEntry& entry : file.entries()) {
    if (!wanted.contains(entry.name)) {
      throw FormatError(fmt::format("{}: tensor {} belongs to no adapter of this model",
                                    file.path(), entry.name));
    }
  }
  for (const auto& [module, adapter] : adapters) {
    for (const Parameter* parameter : adapter->parameters()) {
      check_shape(file, file.at(kPrefix + parameter->name), parameter->dense().shape());
    }
  }
  for (const auto& [module, adapter] : adapters) {
    for (const Parameter* parameter : adapter->parameters()) {
      const SafetensorsEntry& entry = file.at(kPrefix + parameter->name);
      std::vector<float> values(static_cast<size_t>(entry.shape.numel()));
      file.read(entry, Tensor(values.data(), DType::kF32, entry.shape));
      upload(parameter->dense(), values.data(), stream);
    }
  }
}

void write_peft_folder(const std::string& folder, const PeftConfig& config,
                       const Adapters& adapters,
                       const std::vector<std::pair<std::string, std::string>>& extra_files,
                       Stream& stream) {
  refuse_foreign_folder(folder);
  Arena host;
  const std::vector<NamedTensor> tensors = named_tensors(adapters, host, stream);
  AtomicFolder staged(folder);
  for (const auto& [name, content] : extra_files) staged.write(name, content);
  staged.write(kConfigFile, peft_config_text(config));
  write_safetensors(file_in(staged.temporary_path(), kTensorFile), tensors);
  verify_config(staged.temporary_path(), adapters);
  verify_tensors(staged.temporary_path(), tensors);
  staged.commit();
}

}  // namespace rankwise
