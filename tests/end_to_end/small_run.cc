// SPDX-License-Identifier: Apache-2.0
#include "tests/end_to_end/small_run.h"

#include <gtest/gtest.h>

#include <span>

#include "runtime/io/sha256.h"
#include "runtime/rng.h"
#include "runtime/transfer.h"
#include "tests/end_to_end/rank_run.h"
#include "tests/support/thread_ranks.h"

namespace rankwise::testing {

std::string small_model_config() {
  return R"({"architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 67,
    "hidden_size": 32, "intermediate_size": 44, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "hidden_act": "silu", "max_position_embeddings": 128,
    "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": false,
    "initializer_range": 0.2, "bos_token_id": 1, "eos_token_id": 2})";
}

std::string random_token_rows(const SmallRunOptions& options, uint64_t seed) {
  std::string text;
  const Rng rng(seed, "rows");
  uint64_t draw = 0;
  for (int64_t row = 0; row < options.rows; ++row) {
    const auto span = static_cast<uint64_t>(options.max_length - options.min_length + 1);
    const auto length = options.min_length + static_cast<int64_t>(rng.below(draw++, span));
    std::string ids;
    std::string labels;
    for (int64_t i = 0; i < length; ++i) {
      const std::string id = std::to_string(rng.below(draw++, 67));
      const bool masked = i + 1 < length && rng.below(draw++, 3) == 0;
      ids += (i > 0 ? "," : "") + id;
      labels += (i > 0 ? "," : "") + (masked ? "-100" : id);
    }
    text += "{\"input_ids\": [" + ids + "], \"labels\": [" + labels + "]}\n";
  }
  return text;
}

SmallRun::SmallRun(const SmallRunOptions& options) {
  folder_.write("model/config.json", small_model_config());
  folder_.write("rows.jsonl", random_token_rows(options, 7));
}

TrainConfig SmallRun::config(const std::vector<std::string>& overrides) const {
  const std::string yaml = fmt::format(R"(
device: cpu
model: {{path: {0}/model, init: random, quant: none}}
adapt:
  - {{match: all-linear, method: lora, rank: 4, alpha: 8}}
data:
  train: [{{path: {0}/rows.jsonl, format: tokens}}]
  shuffle: false
  packing: false
  seq_len: 64
train: {{steps: 6, global_batch: 8, micro_batch: 2, seed: 3}}
optim: {{lr: 1.0e-2, schedule: constant, warmup: 0, weight_decay: 0.01}}
checkpoint: {{dir: {0}/run}}
)",
                                       folder_.path());
  return parse_train_config(yaml, "small_run", overrides);
}

namespace {

// What every rank holds whole: adapters, and of the base what is not split.
std::vector<float> replicated_weights(CausalLm& model, Stream& stream) {
  std::vector<float> out;
  for (const Parameter* parameter : model.trained_parameters()) {
    const bool split = parameter->spec.kind == ShardSpec::Kind::kSharded;
    if (split && model.mesh().tensor().size() > 1) continue;
    const Tensor& weight = parameter->dense();
    out.resize(out.size() + static_cast<size_t>(weight.numel()));
    download(out.data() + out.size() - static_cast<size_t>(weight.numel()), weight, stream);
  }
  return out;
}

}  // namespace

SmallRunResult train(const TrainConfig& config, Communicator& world, Device device) {
  RankRun run(config, world, device);
  SmallRunResult result;
  for (int64_t step = 0; step < run.total_steps(); ++step) {
    const StepMeasurement measurement = run.step();
    result.losses.push_back(measurement.loss);
    result.norms.push_back(measurement.gradient_norm);
    AdaLora* adalora = run.trainer().adalora();
    if (adalora != nullptr) result.kept.push_back(adalora->kept(run.stream()));
    result.adapter = replicated_weights(run.trainer().model(), run.stream());
    const std::string digest = sha256_hex(std::as_bytes(std::span(result.adapter)));
    for (const std::string& other : world.gather_text(digest, "digests of the adapters")) {
      EXPECT_EQ(other, digest) << "replicas differ after step " << step + 1;
    }
  }
  return result;
}

SmallRunResult train_on_threads(const TrainConfig& config, int ranks) {
  std::vector<SmallRunResult> results(static_cast<size_t>(ranks));
  run_ranks_as_threads(ranks, [&](Communicator& world) {
    results[static_cast<size_t>(world.rank())] = train(config, world);
  });
  for (const SmallRunResult& result : results) {
    EXPECT_EQ(result.adapter, results[0].adapter) << "replicas differ";
    EXPECT_EQ(result.losses, results[0].losses);
  }
  return results[0];
}

}  // namespace rankwise::testing
