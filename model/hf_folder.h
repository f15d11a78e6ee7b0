// SPDX-License-Identifier: Apache-2.0
// Hugging Face model folders: writing weights and config; weights that exist only as a seed.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "model/model_config.h"
#include "runtime/io/weight_source.h"
#include "runtime/named_tensor.h"

namespace rankwise {

inline constexpr int64_t kMaxShardBytes = 5'000'000'000;  // as huggingface_hub

// config.json, model.safetensors (or shards with an index) and extra files (name, content), into
// a temporary folder that is renamed to `folder` when complete; an existing folder is replaced only
// when it is empty or `overwrite`. Keys of the source's config.json are kept. DiskError leaves
// nothing half-written under the name.
void write_hf_folder(const std::string& folder, const ModelConfig& config,
                     const std::vector<NamedTensor>& tensors,
                     const std::vector<std::pair<std::string, std::string>>& extra_files,
                     bool overwrite = false, int64_t max_shard_bytes = kMaxShardBytes);

// Indices of the tensors of each shard: in order, a new shard where the limit would be exceeded; a
// larger tensor has one of its own.
std::vector<std::vector<size_t>> split_into_shards(std::span<const int64_t> tensor_bytes,
                                                   int64_t max_shard_bytes);

// Whether the tensor (or module) `name` of this shape is the weight of a linear layer in a block:
// what PEFT calls all-linear, and what is quantised.
bool is_block_linear(const ModelConfig& config, std::string_view name, const Shape& shape);

// Names and shapes of every tensor of a model, in HF order; no head when tied.
std::vector<std::pair<std::string, Shape>> weight_shapes(const ModelConfig& config);

// Weights drawn N(0, initializer_range^2) (norms 1) from Rng(seed, name): a fresh model to pretrain
// or to measure.
std::unique_ptr<WeightSource> make_random_weights(const ModelConfig& config, uint64_t seed);

}  // namespace rankwise
