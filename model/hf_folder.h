// SPDX-License-Identifier: Apache-2.0
// Hugging Face model folders: writing weights and config; weights that exist only as a seed.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "model/model_config.h"
#include "runtime/io/weight_source.h"
#include "runtime/named_tensor.h"

namespace rankwise {

// config.json, model.safetensors (or 5 GB shards with an index) and extra files (name, content), into
// a temporary folder that is renamed to `folder` when complete; an existing folder is replaced only
// when it is empty or `overwrite`. DiskError leaves nothing half-written under the name.
void write_hf_folder(const std::string& folder, const ModelConfig& config,
                     const std::vector<NamedTensor>& tensors,
                     const std::vector<std::pair<std::string, std::string>>& extra_files,
                     bool overwrite = false);

// Names and shapes of every tensor of a model, in HF order; no head when tied.
std::vector<std::pair<std::string, Shape>> weight_shapes(const ModelConfig& config);

// Weights drawn N(0, initializer_range^2) (norms 1) from Rng(seed, name): a fresh model to pretrain
// or to measure.
std::unique_ptr<WeightSource> make_random_weights(const ModelConfig& config, uint64_t seed);

}  // namespace rankwise
