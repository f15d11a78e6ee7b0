// SPDX-License-Identifier: Apache-2.0
#include "model/hf_folder.h"

#include <filesystem>
#include <map>

#include "model/atomic_folder.h"
#include "model/families/family.h"
#include "runtime/errors.h"
#include "runtime/io/safetensors.h"

namespace rankwise {
namespace {

namespace fs = std::filesystem;

void refuse_existing(const std::string& folder) {
  std::error_code ignored;
  if (fs::exists(folder, ignored) &&
      (!fs::is_directory(folder, ignored) || !fs::is_empty(folder, ignored))) {
    throw DiskError(fmt::format("{}: exists and is not empty", folder));
  }
}

// The type of the weights as config.json names it: older files under torch_dtype, newer under
// dtype.
Json with_dtype_of(Json config, const std::vector<NamedTensor>& tensors) {
  if (tensors.empty()) return config;
  const DType dtype = tensors.front().tensor.dtype();
  const char* name = dtype == DType::kBF16  ? "bfloat16"
                     : dtype == DType::kF16 ? "float16"
                                            : "float32";
  for (const char* key : {"torch_dtype", "dtype"}) {
    if (config.contains(key)) config[key] = name;
  }
  return config;
}

void write_tensors(const AtomicFolder& folder, const std::vector<NamedTensor>& tensors,
                   int64_t max_shard_bytes) {
  std::vector<int64_t> sizes;
  for (const NamedTensor& named : tensors) sizes.push_back(named.tensor.bytes());
  const auto shards = split_into_shards(sizes, max_shard_bytes);
  const fs::path path(folder.temporary_path());
  if (shards.size() <= 1) {
    write_safetensors((path / "model.safetensors").string(), tensors);
    return;
  }
  int64_t total_bytes = 0;
  std::map<std::string, std::string> weight_map;
  for (size_t i = 0; i < shards.size(); ++i) {
    const std::string file = fmt::format("model-{:05}-of-{:05}.safetensors", i + 1, shards.size());
    std::vector<NamedTensor> part;
    for (const size_t index : shards[i]) {
      part.push_back(tensors[index]);
      weight_map[tensors[index].name] = file;
      total_bytes += sizes[index];
    }
    write_safetensors((path / file).string(), std::move(part));
  }
  Json index;
  index["metadata"]["total_size"] = total_bytes;
  for (const auto& [name, file] : weight_map) index["weight_map"][name] = file;
  folder.write("model.safetensors.index.json", index.dump(2) + "\n");
}

void add_linear(std::vector<std::pair<std::string, Shape>>& shapes, const std::string& module,
                int64_t out, int64_t in, bool bias) {
  shapes.emplace_back(module + ".weight", Shape{out, in});
  if (bias) shapes.emplace_back(module + ".bias", Shape{out});
}

}  // namespace

void write_hf_folder(const std::string& folder, const ModelConfig& config,
                     const std::vector<NamedTensor>& tensors,
                     const std::vector<std::pair<std::string, std::string>>& extra_files,
                     bool overwrite, int64_t max_shard_bytes) {
  if (!overwrite) refuse_existing(folder);
  AtomicFolder staged(folder);
  for (const auto& [name, content] : extra_files) staged.write(name, content);
  staged.write("config.json", with_dtype_of(config.source, tensors).dump(2) + "\n");
  write_tensors(staged, tensors, max_shard_bytes);
  staged.commit();
}

std::vector<std::vector<size_t>> split_into_shards(std::span<const int64_t> tensor_bytes,
                                                   int64_t max_shard_bytes) {
  std::vector<std::vector<size_t>> shards;
  int64_t used = 0;
  for (size_t i = 0; i < tensor_bytes.size(); ++i) {
    if (shards.empty() || used + tensor_bytes[i] > max_shard_bytes) {
      shards.emplace_back();
      used = 0;
    }
    shards.back().push_back(i);
    used += tensor_bytes[i];
  }
  return shards;
}

bool is_block_linear(const ModelConfig& config, std::string_view name, const Shape& shape) {
  const std::string& layers = family_of(config.model_type, "model").names.layers;
  return shape.rank() == 2 && name.starts_with(layers + ".");
}

std::vector<std::pair<std::string, Shape>> weight_shapes(const ModelConfig& config) {
  const ModelFamily& family = family_of(config.model_type, "model");
  const WeightNames& names = family.names;
  const BlockFlags flags = family.block_flags(config);
  const int64_t hidden = config.hidden_size;
  const int64_t query = config.num_attention_heads * config.head_dim;
  const int64_t key_value = config.num_key_value_heads * config.head_dim;
  const int64_t inner = config.intermediate_size;
  std::vector<std::pair<std::string, Shape>> shapes;
  shapes.emplace_back(names.embedding, Shape{config.vocab_size, hidden});
  for (int64_t i = 0; i < config.num_hidden_layers; ++i) {
    const std::string block = fmt::format("{}.{}.", names.layers, i);
    add_linear(shapes, block + names.q, query, hidden, flags.qkv_bias);
    add_linear(shapes, block + names.k, key_value, hidden, flags.qkv_bias);
    add_linear(shapes, block + names.v, key_value, hidden, flags.qkv_bias);
    add_linear(shapes, block + names.o, hidden, query, flags.output_bias);
    add_linear(shapes, block + names.gate, inner, hidden, flags.mlp_bias);
    add_linear(shapes, block + names.up, inner, hidden, flags.mlp_bias);
    add_linear(shapes, block + names.down, hidden, inner, flags.mlp_bias);
    shapes.emplace_back(block + names.input_norm + ".weight", Shape{hidden});
    shapes.emplace_back(block + names.mlp_norm + ".weight", Shape{hidden});
  }
  shapes.emplace_back(names.final_norm, Shape{hidden});
  if (!config.tie_word_embeddings) {
    shapes.emplace_back(names.head, Shape{config.vocab_size, hidden});
  }
  return shapes;
}

}  // namespace rankwise
