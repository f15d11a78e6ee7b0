// SPDX-License-Identifier: Apache-2.0
// Small runs in bf16 whose shapes the GPU's kernels and cuDNN take, to be resumed bit for bit.
#pragma once

#include <map>
#include <string>

#include "runtime/io/json.h"
#include "tests/end_to_end/resumed_run.h"

namespace rankwise::testing {

struct GpuMethod {
  // Of documents of at most 128 tokens: 128 makes uniform micro-batches, which are replayed as
  // graphs.
  int64_t shortest = 128;
  Overrides overrides;
};

inline const std::map<std::string, GpuMethod>& gpu_methods() {
  static const std::map<std::string, GpuMethod> table = {
      {"lora", {128, {"model.quant=nf4", "adapt.0.rank=8"}}},
      {"adalora",
       {128,
        {"model.quant=nf4",
         "adapt.0={method: adalora, adalora: {init_rank: 8, target_rank: 4, "
         "warmup: 2, final: 3, interval: 2}}"}}},
      {"lora_dropout", {5, {"model.quant=nf4", "adapt.0.rank=8", "adapt.0.dropout=0.1"}}},
      {"dora", {5, {"model.quant=nf4", "adapt.0={method: dora, rank: 8, alpha: 16}"}}},
      // Bases that follow, on streams of their own, and weights in bf16.
      {"galore", {128, {"adapt.0={match: \"*\", method: galore, galore: {rank: 32, refresh: 4}}"}}},
      {"full", {5, {"adapt.0={match: \"*\", method: full}"}}},
      {"adamw8bit", {128, {"adapt.0={match: \"*\", method: full}", "optim.name=adamw8bit"}}},
  };
  return table;
}

class GpuRun {
 public:
  explicit GpuRun(const std::string& method)
      : method_(gpu_methods().at(method)),
        files_({.rows = 24, .min_length = method_.shortest, .max_length = 128}) {
    Json model = parse_json(small_model_config(), "model");
    model.update({{"vocab_size", 128},
                  {"hidden_size", 256},
                  {"intermediate_size", 512},
                  {"max_position_embeddings", 256},
                  {"initializer_range", 0.05}});
    files_.folder().write("model/config.json", model.dump());
  }

  // Saves every step and keeps all.
  TrainConfig config(const std::string& name, const Overrides& more = {}) const {
    Overrides all = {"device=cuda",        "model.compute=bf16",  "train.deterministic=true",
                     "data.seq_len=128",   "train.micro_batch=2", "optim.lr=1e-3",
                     "checkpoint.every=1", "checkpoint.keep=20"};
    all.insert(all.end(), method_.overrides.begin(), method_.overrides.end());
    all.insert(all.end(), more.begin(), more.end());
    return run_config(files_, name, all);
  }
  const ScratchFolder& folder() const { return files_.folder(); }

 private:
  const GpuMethod& method_;
  SmallRun files_;
};

}  // namespace rankwise::testing
