// SPDX-License-Identifier: Apache-2.0
#include <stdexcept>

#include "model/hf_folder.h"
#include "model/model_config.h"
#include "tests/fuzz/readers.h"

namespace rankwise::testing {

void read_model_config(std::string_view bytes) {
  const ModelConfig config = parse_model_config(parse_json(bytes, "config.json"), "config.json");
  // What a model of this shape takes is asked before anything of that size is made.
  constexpr int64_t kMostHere = 64;
  if (config.num_hidden_layers <= kMostHere) weight_shapes(config);
  if (config.head_dim <= kMostHere) rope_inverse_frequencies(config);
  forward_flops_per_token(config, 1.0);
  const std::string written = config.source.dump();
  const ModelConfig again = parse_model_config(parse_json(written, "again"), "again");
  if (again.vocab_size != config.vocab_size || again.head_dim != config.head_dim) {
    throw std::logic_error("config.json does not read back: " + written);
  }
}

}  // namespace rankwise::testing
