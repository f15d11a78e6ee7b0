// SPDX-License-Identifier: Apache-2.0
#include "launch/model_files.h"

#include <algorithm>
#include <filesystem>
#include <span>
#include <vector>

#include "launch/config/train_config.h"
#include "model/hf_folder.h"
#include "runtime/errors.h"
#include "runtime/io/quantized_store.h"
#include "runtime/io/sha256.h"

namespace rankwise {

namespace fs = std::filesystem;

namespace {

void require_model(const std::string& path) {
  if (!fs::exists(path)) {
    throw ConfigError(fmt::format("model.path: '{}' does not exist", path));
  }
}

}  // namespace

ModelFiles open_model(const std::string& path) {
  require_model(path);
  return {path, load_model_config(path), open_weights(path)};
}

ModelFiles open_untrained_model(const std::string& path, uint64_t seed) {
  require_model(path);
  ModelConfig config = load_model_config(path);
  std::unique_ptr<WeightSource> weights = make_random_weights(config, seed);
  return {path, std::move(config), std::move(weights)};
}

ModelFiles open_base(const TrainConfig& config) {
  return config.model.init == ModelInit::kRandom
             ? open_untrained_model(config.model.path, static_cast<uint64_t>(config.train.seed))
             : open_model(config.model.path);
}

bool has_tokenizer(const std::string& path) {
  const auto is_tokenizer = [](const std::string& name) {
    return name == "tokenizer.model" || name == "tokenizer_config.json";
  };
  if (fs::is_directory(path)) {
    return fs::exists(fs::path(path) / "tokenizer.model") ||
           fs::exists(fs::path(path) / "tokenizer_config.json");
  }
  return is_quantized_store(path) && std::ranges::any_of(store_files(path), is_tokenizer);
}

std::unique_ptr<Tokenizer> open_tokenizer(const ModelFiles& model) {
  std::unique_ptr<Tokenizer> tokenizer;
  if (fs::is_directory(model.path)) {
    tokenizer = load_tokenizer(model.path);
  } else {
    TokenizerFiles files;
    for (const std::string& name : store_files(model.path)) {
      if (name != "config.json") files.emplace_back(name, read_store_file(model.path, name));
    }
    tokenizer = load_tokenizer_from_files(std::move(files), model.path);
  }
  if (tokenizer->vocab_size() > model.config.vocab_size) {
    throw FormatError(fmt::format("{}: the tokenizer has {} tokens, the model only {} embeddings",
                                  model.path, tokenizer->vocab_size(), model.config.vocab_size));
  }
  return tokenizer;
}

std::string base_digest(const std::string& path) {
  std::vector<fs::path> files;
  if (fs::is_directory(path)) {
    for (const fs::directory_entry& entry : fs::directory_iterator(path)) {
      const std::string extension = entry.path().extension().string();
      if (entry.is_regular_file() && (extension == ".safetensors" || extension == ".json")) {
        files.push_back(entry.path());
      }
    }
    std::ranges::sort(files);
  } else {
    files.emplace_back(path);
  }
  std::string listing;
  for (const fs::path& file : files) {
    listing += fmt::format("{}  {}\n", sha256_file(file.string()), file.filename().string());
  }
  return sha256_hex(std::as_bytes(std::span(listing)));
}

}  // namespace rankwise
