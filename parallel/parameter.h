// SPDX-License-Identifier: Apache-2.0
// Parameter: a named weight with its role, placement and, when trained, its gradient.
#pragma once

#include <string>

#include "kernels/projection.h"
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
  // F32 (gradient_shape()); defined iff trainable, set by the GradientReducer. With a projection it is
  // that of the projected weight (optim/projected_optimizer.h), and backward leaves the whole
  // gradient in dense_gradient (F32, shape of the weight) instead while that is defined.
  Tensor gradient;
  Tensor dense_gradient;
  const Projection* projection = nullptr;
  ShardSpec projected_spec;  // of the projected gradient
  ShardSpec spec;
  bool trainable = false;

  Shape gradient_shape() const {
    const Shape& shape = shape_of(weight);
    return projection == nullptr ? shape : projection->projected(shape);
  }
  const ShardSpec& gradient_spec() const { return projection == nullptr ? spec : projected_spec; }

  Tensor& dense() { return std::get<Tensor>(weight); }
  const Tensor& dense() const { return std::get<Tensor>(weight); }
};

}  // namespace rankwise
