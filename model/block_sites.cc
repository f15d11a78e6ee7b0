// SPDX-License-Identifier: Apache-2.0
#include "model/block_sites.h"

#include <algorithm>

namespace rankwise {

void check_tensor_size(const ModelConfig& config, int tensor_size) {
  const auto refuse = [&](std::string_view key, int64_t value) {
    throw ConfigError(
        fmt::format("parallel.tensor: {} ranks cannot share {} {}", tensor_size, key, value));
  };
  const int64_t pairs = config.num_key_value_heads;
  if (config.num_attention_heads % tensor_size != 0) {
    refuse("num_attention_heads", config.num_attention_heads);
  }
  if (pairs % tensor_size != 0 && tensor_size % pairs != 0) refuse("num_key_value_heads", pairs);
  if (config.intermediate_size < tensor_size) {
    refuse("intermediate_size", config.intermediate_size);
  }
  if (config.vocab_size < tensor_size) refuse("vocab_size", config.vocab_size);
}

BlockSites block_sites(const ModelConfig& config, const WeightNames& names, int64_t block,
                       int tensor_rank, int tensor_size) {
  const std::string prefix = fmt::format("{}.{}.", names.layers, block);
  const auto site = [&](const std::string& module, int64_t in, int64_t out,
                        const ShardSpec& spec) -> LinearSite {
    return {prefix + module, in, out, spec, tensor_rank, tensor_size};
  };
  const int64_t hidden = config.hidden_size;
  const int64_t inner = config.intermediate_size;
  const int64_t queries = config.num_attention_heads * config.head_dim;
  const int64_t keys = config.num_key_value_heads * config.head_dim;
  const int copies =
      std::max(1, static_cast<int>(tensor_size / std::max<int64_t>(1, config.num_key_value_heads)));
  const ShardSpec outputs = ShardSpec::sharded(0);
  const ShardSpec inputs = ShardSpec::sharded(1);
  return {.q = site(names.q, hidden, queries, outputs),
          .k = site(names.k, hidden, keys, ShardSpec::sharded(0, copies)),
          .v = site(names.v, hidden, keys, ShardSpec::sharded(0, copies)),
          .o = site(names.o, queries, hidden, inputs),
          .gate = site(names.gate, hidden, inner, outputs),
          .up = site(names.up, hidden, inner, outputs),
          .down = site(names.down, inner, hidden, inputs),
          .input_norm = fmt::format("{}{}.weight", prefix, names.input_norm),
          .mlp_norm = fmt::format("{}{}.weight", prefix, names.mlp_norm)};
}

}  // namespace rankwise
