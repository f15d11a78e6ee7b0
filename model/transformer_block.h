// SPDX-License-Identifier: Apache-2.0
// TransformerBlock: x + attention(norm(x)), then + SwiGLU MLP(norm(.)); forward and backward.
#pragma once

#include <string>
#include <vector>

#include "model/block_sites.h"
#include "model/linear_group.h"

namespace rankwise {

// T tokens, C hidden, H query and G key/value heads of D, F inner features; of heads and inner
// features those of this rank. With selective recomputation, backward makes the normalised inputs,
// gate and up again.
struct BlockSaved {
  Tensor input;              // (T, C)
  Tensor input_inv_rms;      // (T)
  Columns attention_input;   // (T, C) normalised; kept only when a projection reads it in backward
  Tensor q;                  // (T, H, D) after rotation
  Tensor k, v;               // (T, G, D), k after rotation
  Columns attention_output;  // (T, H * D)
  Tensor log_sum_exp;        // (H, T)
  Tensor middle;             // (T, C) after the attention's residual
  Tensor output;             // (T, C) after the MLP's
  Tensor middle_inv_rms;     // (T)
  Columns mlp_input;         // (T, C) normalised; kept like attention_input
  Columns up_gate;           // up, gate (T, F); backward leaves their gradients here
  LinearGroupSaved vkq_group, o_group, up_gate_group, down_group;
};

class TransformerBlock {
 public:
  TransformerBlock(const ModelConfig& config, const BlockFlags& flags, int64_t index,
                   const BlockSites& sites, const ParameterLoader& loader);
  TransformerBlock(const TransformerBlock&) = delete;
  TransformerBlock& operator=(const TransformerBlock&) = delete;

  // output (T, C); may be `input` when no backward pass follows. Whether `saved` outlives the call
  // is the caller's choice, by the scope of "activations" it opens.
  void forward(const Tensor& output, const Tensor& input, BlockSaved& saved,
               ForwardContext& context) const;
  // d (T, C), with tail(): gradient of the output on entry, of the input on return when
  // `wants_input_gradient`; else undefined, and nothing is computed below the first trained weight.
  void backward(const Columns& d, bool wants_input_gradient, BlockSaved& saved,
                ForwardContext& context, GradientReducer& reducer);

  bool trained() const;
  void collect_parameters(std::vector<Parameter*>& out);          // model order
  void collect_trained_parameters(std::vector<Parameter*>& out);  // as backward finishes them
  int64_t tail() const;  // columns wanted behind the gradient of the output
  int64_t key_value_heads() const { return key_value_heads_; }  // of this rank
  std::vector<Linear*> linears() { return {&q_, &k_, &v_, &o_, &gate_, &up_, &down_}; }

 private:
  // middle = input + o(attention(rope(q), rope(k), v)) of the normalised input.
  void attention_forward(BlockSaved& saved, ForwardContext& context) const;
  void attention_backward(const Columns& d, bool wants_input_gradient, BlockSaved& saved,
                          ForwardContext& context, GradientReducer& reducer);
  // output = middle + down(silu(gate) * up) of the normalised middle.
  void mlp_forward(const Tensor& output, BlockSaved& saved, ForwardContext& context) const;
  void mlp_backward(const Columns& d, bool wants_middle_gradient, BlockSaved& saved,
                    ForwardContext& context, GradientReducer& reducer);
  // The normalised input of the attention or the MLP, and up and gate, from what came before them.
  void make_attention_input(bool kept, BlockSaved& saved, ForwardContext& context) const;
  void make_up_and_gate(bool kept, BlockSaved& saved, ForwardContext& context) const;
  void norm_backward(const Tensor& d, const Tensor& dnormalised, const Tensor& x,
                     const Tensor& inv_rms, Parameter& norm, ForwardContext& context,
                     GradientReducer& reducer);
  bool attention_trained() const;

  int64_t index_;
  int64_t heads_, key_value_heads_, inner_;  // of this rank
  int64_t head_dim_;
  int64_t window_;
  float eps_;
  Parameter input_norm_, mlp_norm_;
  Linear q_, k_, v_, o_;
  Linear gate_, up_, down_;
  LinearGroup vkq_group_, o_group_, up_gate_group_, down_group_;  // in the order of backward
};

}  // namespace rankwise
