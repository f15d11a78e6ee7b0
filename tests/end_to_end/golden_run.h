// SPDX-License-Identifier: Apache-2.0
// The golden LoRA run of the stories260k model as a configuration of the program.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "launch/config/train_config.h"
#include "tests/support/golden.h"
#include "tests/support/scratch_folder.h"

namespace rankwise::testing {

// The (..., T) pair of id tensors `ids` and `labels` as `tokens` records, one a row.
inline std::string token_rows(const SafetensorsFile& file, const std::string& ids_name,
                              const std::string& labels_name) {
  Arena arena;
  const Tensor ids = load_i64(file, ids_name, arena);
  const Tensor labels = load_i64(file, labels_name, arena);
  const int64_t length = ids.dim(-1);
  const auto row = [&](const Tensor& tensor, int64_t begin) {
    return fmt::format(
        "[{}]",
        fmt::join(std::span(tensor.data<int64_t>() + begin, static_cast<size_t>(length)), ","));
  };
  std::string text;
  for (int64_t begin = 0; begin < ids.numel(); begin += length) {
    text +=
        fmt::format("{{\"input_ids\": {}, \"labels\": {}}}\n", row(ids, begin), row(labels, begin));
  }
  return text;
}

// Exact rows in exact order, from the golden adapter; the run goes to <folder>/run. Returns the
// path of the configuration.
inline std::string golden_run(const ScratchFolder& folder) {
  const SafetensorsFile expected(shared_folder() + "/golden/stories260k/expected.safetensors");
  folder.write("train.jsonl", token_rows(expected, "train_ids", "train_labels"));
  folder.write("eval.jsonl", token_rows(expected, "eval_ids", "eval_labels"));
  return folder.write("run.yaml", fmt::format(R"(
device: cpu
model: {{path: {0}/models/stories260k, quant: none}}
adapt: [{{match: all-linear, method: lora, from: {0}/golden/stories260k/lora_init}}]
data:
  train: [{{path: {1}/train.jsonl, format: tokens}}]
  eval: [{{path: {1}/eval.jsonl, format: tokens}}]
  shuffle: false
  packing: false
  seq_len: 160
train: {{steps: 60, global_batch: 8, micro_batch: 4}}
optim: {{lr: 3.0e-3, schedule: constant, warmup: 0, max_grad_norm: 1.0}}
eval: {{every: 0, batches: 0}}
checkpoint: {{dir: {1}/run}}
)",
                                              shared_folder(), folder.path()));
}

// The files of that run, with other rules of adapt.
class StoriesFiles {
 public:
  // `rules` without the brackets.
  TrainConfig config(const std::string& rules, std::vector<std::string> overrides = {}) const {
    overrides.insert(overrides.begin(), fmt::format("adapt=[{}]", rules));
    return load_train_config(path_, overrides);
  }

 private:
  ScratchFolder folder_;
  std::string path_ = golden_run(folder_);
};

// Losses of the golden run's 60 steps in the reference.
inline std::vector<double> golden_losses() {
  return read_json_file(shared_folder() + "/golden/stories260k/expected.json")
      .at("lora")
      .at("losses")
      .get<std::vector<double>>();
}

}  // namespace rankwise::testing
