// SPDX-License-Identifier: Apache-2.0
#include "launch/config/train_config.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "launch/config/config_printer.h"
#include "launch/config/config_reader.h"

namespace rankwise {

namespace {

// Rules between keys.
void check_together(const TrainConfig& config, const ConfigTreeReader& reader) {
  const TrainSection& train = config.train;
  if (!train.steps && !train.epochs) reader.fail("train", "one of steps and epochs is required");
  if (train.steps && train.epochs) {
    reader.fail("train.epochs", "give steps or epochs, not both (null takes one away)");
  }
  if (train.global_batch % train.micro_batch != 0) {
    reader.fail("train.global_batch",
                fmt::format("must be a multiple of train.micro_batch ({}), got {}",
                            train.micro_batch, train.global_batch));
  }
  for (size_t i = 0; i < config.adapt.size(); ++i) {
    const AdaptRule& rule = config.adapt[i];
    const AdaLoraSection& adalora = rule.adalora;
    if (rule.method == AdaptMethod::kAdaLora && !rule.from &&
        adalora.target_rank > adalora.init_rank) {
      reader.fail(fmt::format("adapt.{}.adalora.target_rank", i),
                  fmt::format("must be at most adalora.init_rank ({}), got {}", adalora.init_rank,
                              adalora.target_rank));
    }
    if (rule.method == AdaptMethod::kGaLore && rule.galore.rotate_moments &&
        config.optim.name != OptimizerName::kAdamW) {
      reader.fail(fmt::format("adapt.{}.galore.rotate_moments", i),
                  "rotates the fp32 moment of optim.name: adamw, which this run does not use");
    }
    if (rule.method == AdaptMethod::kDora && rule.dropout > 0.0) {
      reader.fail(fmt::format("adapt.{}.dropout", i),
                  "method dora makes adapter and base weight one product: dropout must be 0");
    }
  }
  if (config.optim.min_lr > config.optim.lr) {
    reader.fail("optim.min_lr", fmt::format("must be at most optim.lr ({}), got {}",
                                            config.optim.lr, config.optim.min_lr));
  }
  const auto is_adalora = [](const AdaptRule& rule) {
    return rule.method == AdaptMethod::kAdaLora;
  };
  const auto is_galore = [](const AdaptRule& rule) { return rule.method == AdaptMethod::kGaLore; };
  if (std::ranges::any_of(config.adapt, is_adalora) &&
      std::ranges::any_of(config.adapt, is_galore)) {
    reader.fail("adapt", "rules of method adalora and galore cannot share one run");
  }
  if (config.optim.name != OptimizerName::kAdamW && std::ranges::any_of(config.adapt, is_adalora)) {
    reader.fail("optim.name", "only adamw measures the importance that method adalora needs");
  }
}

TrainConfig read_config(ConfigNode root, std::string_view source,
                        const std::vector<std::string>& overrides) {
  apply_overrides(root, overrides);
  TrainConfig config;
  ConfigTreeReader reader(root, source);
  visit_config(config, reader);
  reader.finish();
  check_together(config, reader);
  return config;
}

}  // namespace

int64_t Warmup::steps(int64_t total_steps) const {
  if (value >= 1.0) return static_cast<int64_t>(value);
  return static_cast<int64_t>(std::llround(value * static_cast<double>(total_steps)));
}

TrainConfig load_train_config(const std::string& path, const std::vector<std::string>& overrides) {
  return read_config(read_config_tree(path), path, overrides);
}

TrainConfig parse_train_config(std::string_view yaml, std::string_view source,
                               const std::vector<std::string>& overrides) {
  return read_config(parse_config_tree(yaml, source), source, overrides);
}

std::string print_config(const TrainConfig& config) {
  TrainConfig copy = config;  // the schema visits members it may write
  ConfigPrinter printer;
  visit_config(copy, printer);
  return printer.text();
}

Json config_to_json(const TrainConfig& config) {
  TrainConfig copy = config;
  ConfigToJson converter;
  visit_config(copy, converter);
  return converter.take();
}

}  // namespace rankwise
