// SPDX-License-Identifier: Apache-2.0
// Parameter: a named weight with its role, placement and, when trained, its gradient.
#pragma once

#include <string>

#include "parallel/shard_spec.h"
#include "runtime/quantized_tensor.h"

namespace rankwise {

enum class ParameterRole {
  kLinear,
  kBias,
  kNorm,
  kEmbedding,
  kHead,
  kLoraA,
  kLoraB,
  kLoraE,
  kMagnitude
};

// `name` is the Hugging Face tensor name for weights of the model ("model.norm.weight") and the
// PEFT name without the "base_model.model." prefix for adapters
// ("model.layers.0.self_attn.q_proj.lora_A.weight").
struct Parameter {
  std::string name;
  ParameterRole role = ParameterRole::kLinear;
  Weight weight;
  Tensor gradient;  // F32, shape of the weight; defined iff trainable, set by the GradientReducer
  ShardSpec spec;
  bool trainable = false;

  Tensor& dense() { return std::get<Tensor>(weight); }
  const Tensor& dense() const { return std::get<Tensor>(weight); }
};

}  // namespace rankwise
