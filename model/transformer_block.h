// SPDX-License-Identifier: Apache-2.0
// TransformerBlock: x + attention(norm(x)), then + SwiGLU MLP(norm(.)); forward and backward.
#pragma once

#include <string>
#include <vector>

#include "model/families/family.h"
#include "model/linear.h"

namespace rankwise {

// T tokens, C hidden, H query and G key/value heads of D, F inner features.
struct BlockSaved {
  Tensor input;             // (T, C)
  Tensor input_inv_rms;     // (T)
  Tensor attention_input;   // (T, C) normalised; kept only when a projection reads it in backward
  Tensor q;                 // (T, H, D) after rotation
  Tensor k, v;              // (T, G, D), k after rotation
  Tensor attention_output;  // (T, H, D)
  Tensor log_sum_exp;       // (H, T)
  Tensor middle;            // (T, C) after the attention's residual
  Tensor middle_inv_rms;    // (T)
  Tensor mlp_input;         // (T, C) normalised; kept like attention_input
  Tensor gate, up;          // (T, F); backward leaves their gradients here
  LinearSaved q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj;
};

class TransformerBlock {
 public:
  TransformerBlock(const ModelConfig& config, const ModelFamily& family, int64_t index,
                   const ParameterLoader& loader);
  TransformerBlock(const TransformerBlock&) = delete;
  TransformerBlock& operator=(const TransformerBlock&) = delete;

  // output (T, C); may be `input` when no backward pass follows. Whether `saved` outlives the call
  // is the caller's choice, by the scope of "activations" it opens.
  void forward(const Tensor& output, const Tensor& input, BlockSaved& saved,
               ForwardContext& context) const;
  // d (T, C): gradient of the output on entry, of the input on return when `wants_input_gradient`;
  // else undefined, and nothing is computed below the first trained weight.
  void backward(const Tensor& d, bool wants_input_gradient, BlockSaved& saved,
                ForwardContext& context, GradientReducer& reducer);

  bool trained() const;
  void collect_parameters(std::vector<Parameter*>& out);          // model order
  void collect_trained_parameters(std::vector<Parameter*>& out);  // as backward finishes them
  std::vector<Linear*> linears() { return {&q_, &k_, &v_, &o_, &gate_, &up_, &down_}; }

 private:
  // middle = input + o(attention(rope(q), rope(k), v)) of the normalised input.
  void attention_forward(BlockSaved& saved, ForwardContext& context) const;
  void attention_backward(const Tensor& d, bool wants_input_gradient, BlockSaved& saved,
                          ForwardContext& context, GradientReducer& reducer);
  // output = middle + down(silu(gate) * up) of the normalised middle.
  void mlp_forward(const Tensor& output, BlockSaved& saved, ForwardContext& context) const;
  void mlp_backward(const Tensor& d, bool wants_middle_gradient, BlockSaved& saved,
                    ForwardContext& context, GradientReducer& reducer);
  void norm_backward(const Tensor& d, const Tensor& dnormalised, const Tensor& x,
                     const Tensor& inv_rms, Parameter& norm, ForwardContext& context,
                     GradientReducer& reducer);
  bool attention_trained() const;

  int64_t index_;
  int64_t heads_, key_value_heads_, head_dim_;
  int64_t window_;
  float eps_;
  Parameter input_norm_, mlp_norm_;
  Linear q_, k_, v_, o_;
  Linear gate_, up_, down_;
};

}  // namespace rankwise
