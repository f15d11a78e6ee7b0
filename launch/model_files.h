// SPDX-License-Identifier: Apache-2.0
// ModelFiles: the base a run stands on, opened from an HF folder or a quantised store.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "model/model_config.h"
#include "runtime/data/tokenizer.h"
#include "runtime/io/weight_source.h"

namespace rankwise {

struct TrainConfig;

struct ModelFiles {
  std::string path;
  ModelConfig config;
  std::unique_ptr<WeightSource> weights;
};

// ConfigError when there is no such path; FormatError when config or weights are missing or do not
// belong together.
ModelFiles open_model(const std::string& path);
// config.json alone is needed; weights are drawn from the seed (model.init: random).
ModelFiles open_untrained_model(const std::string& path, uint64_t seed);
// The one of the two that model.init chooses.
ModelFiles open_base(const TrainConfig& config);

// The tokenizer beside the weights. FormatError when there is none, or when it has more tokens than
// the model has embeddings.
std::unique_ptr<Tokenizer> open_tokenizer(const ModelFiles& model);
bool has_tokenizer(const std::string& path);

// SHA-256 over the names and digests of the files that define the base (config, weights).
std::string base_digest(const std::string& path);

}  // namespace rankwise
