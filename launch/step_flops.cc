// SPDX-License-Identifier: Apache-2.0
#include "launch/step_flops.h"

#include <algorithm>
#include <string_view>

namespace rankwise {
namespace {

// The first layers of all have nothing trained below them unless the embedding or the first norm
// is: backward then needs no gradient of their input.
bool is_bottom_projection(std::string_view name) {
  for (std::string_view module : {"q_proj", "k_proj", "v_proj"}) {
    if (name.starts_with(fmt::format("model.layers.0.self_attn.{}.", module))) return true;
  }
  return false;
}

// Products that make the gradient of a weight from those of its output and its input, as a share of
// those of a whole gradient: with R = (dY left)^T (X right) of the shape (r, s), out r + in s + r s
// instead of out in, of which factors that are the identity cost nothing.
double weight_gradient_share(const Parameter& parameter) {
  if (!parameter.trainable) return 0.0;
  if (parameter.projection == nullptr) return 1.0;
  const Shape& weight = shape_of(parameter.weight);
  const Shape projected = parameter.gradient_shape();
  const auto out = static_cast<double>(weight.dim(0)), in = static_cast<double>(weight.dim(1));
  const auto r = static_cast<double>(projected.dim(0)), s = static_cast<double>(projected.dim(1));
  const double left = parameter.projection->left.defined() ? out * r : 0.0;
  const double right = parameter.projection->right.defined() ? in * s : 0.0;
  return (left + right + r * s) / (out * in);
}

bool trains_below_first_projection(const std::vector<Parameter*>& parameters) {
  return std::ranges::any_of(parameters, [](const Parameter* parameter) {
    return parameter->trainable && (parameter->role == ParameterRole::kEmbedding ||
                                    parameter->name == "model.layers.0.input_layernorm.weight");
  });
}

}  // namespace

StepFlops::StepFlops(CausalLm& model, int tensor_size) {
  const ModelConfig& config = model.config();
  const auto ranks = static_cast<double>(tensor_size);
  const bool bottom_needs_input_gradient = trains_below_first_projection(model.parameters());
  double head_gradient = 0.0;
  for (const Parameter* parameter : model.parameters()) {
    const double weights = static_cast<double>(shape_of(parameter->weight).numel());
    double gradients = 1.0 + weight_gradient_share(*parameter);
    // (of adapters only A reads the input)
    if (!bottom_needs_input_gradient && parameter->role != ParameterRole::kLoraB &&
        is_bottom_projection(parameter->name)) {
      gradients -= 1.0;
    }
    switch (parameter->role) {
      case ParameterRole::kLinear:
        per_token_ += 2.0 * weights * (1.0 + gradients);
        break;
      case ParameterRole::kLoraA:  // whole on every rank
      case ParameterRole::kLoraB:
        per_token_ += 2.0 * weights / ranks * (1.0 + gradients);
        break;
      case ParameterRole::kHead:
        head_gradient = weight_gradient_share(*parameter);
        break;
      case ParameterRole::kEmbedding:
        if (config.tie_word_embeddings) head_gradient = weight_gradient_share(*parameter);
        break;
      case ParameterRole::kBias:
      case ParameterRole::kNorm:
      case ParameterRole::kLoraE:
      case ParameterRole::kMagnitude:
        break;
    }
  }
  const double head = static_cast<double>(config.vocab_size * config.hidden_size);
  per_target_ = 2.0 * head / ranks * (2.0 + head_gradient);
  // q k^T and p v forward, and twice that backward.
  per_pair_ =
      3.0 * 4.0 / ranks *
      static_cast<double>(config.num_hidden_layers * config.num_attention_heads * config.head_dim);
}

double StepFlops::training(const MicroBatch& batch) const {
  double pairs = 0.0;
  for (size_t d = 0; d + 1 < batch.document_offsets.size(); ++d) {
    const double length = batch.document_offsets[d + 1] - batch.document_offsets[d];
    pairs += length * (length + 1.0) / 2.0;
  }
  return per_token_ * static_cast<double>(batch.tokens()) +
         per_target_ * static_cast<double>(batch.trained_tokens) + per_pair_ * pairs;
}

}  // namespace rankwise
