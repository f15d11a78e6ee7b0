// SPDX-License-Identifier: Apache-2.0
#include "model/transformer_block.h"

#include <cmath>

#include "kernels/attention.h"
#include "kernels/elementwise.h"
#include "kernels/rms_norm.h"
#include "kernels/rope.h"
#include "kernels/swiglu.h"
#include "model/kv_cache.h"

namespace rankwise {
namespace {

LinearSite site_of(const ModelFamily& family, int64_t index, const std::string& module, int64_t in,
                   int64_t out, const ShardSpec& spec) {
  return {fmt::format("{}.{}.{}", family.names.layers, index, module), in, out, spec};
}

Parameter load_norm(const ModelConfig& config, const ModelFamily& family, int64_t index,
                    const std::string& module, const ParameterLoader& loader) {
  return loader.dense(fmt::format("{}.{}.{}.weight", family.names.layers, index, module),
                      {config.hidden_size}, ParameterRole::kNorm, ShardSpec::replicated());
}

Tensor flat(const Tensor& x) {  // (T, H, D) -> (T, H * D)
  return x.reshaped({x.dim(0), x.dim(1) * x.dim(2)});
}

// Kept for backward, or only until the innermost workspace scope ends.
Tensor allocate(ForwardContext& context, bool kept, const Shape& shape) {
  return kept ? context.allocate(DType::kF32, shape)
              : context.allocate_workspace(DType::kF32, shape);
}

AttentionParams attention_params(const ForwardContext& context, int64_t head_dim, int64_t window) {
  return {.scale = 1.0f / std::sqrt(static_cast<float>(head_dim)),
          .window = window,
          .longest_query = context.longest_document,
          .longest_key = context.longest_key};
}

}  // namespace

// q, k, v, gate and up are split by rows (outputs), o and down by columns (inputs), so that a
// tensor rank needs nothing from its peers between a pair of them.
TransformerBlock::TransformerBlock(const ModelConfig& config, const ModelFamily& family,
                                   int64_t index, const ParameterLoader& loader)
    : index_(index),
      heads_(config.num_attention_heads),
      key_value_heads_(config.num_key_value_heads),
      head_dim_(config.head_dim),
      window_(config.sliding_window),
      eps_(static_cast<float>(config.rms_norm_eps)),
      input_norm_(load_norm(config, family, index, family.names.input_norm, loader)),
      mlp_norm_(load_norm(config, family, index, family.names.mlp_norm, loader)),
      q_(site_of(family, index, family.names.q, config.hidden_size, heads_ * head_dim_,
                 ShardSpec::sharded(0)),
         family.block_flags(config).qkv_bias, loader),
      k_(site_of(family, index, family.names.k, config.hidden_size, key_value_heads_ * head_dim_,
                 ShardSpec::sharded(0)),
         family.block_flags(config).qkv_bias, loader),
      v_(site_of(family, index, family.names.v, config.hidden_size, key_value_heads_ * head_dim_,
                 ShardSpec::sharded(0)),
         family.block_flags(config).qkv_bias, loader),
      o_(site_of(family, index, family.names.o, heads_ * head_dim_, config.hidden_size,
                 ShardSpec::sharded(1)),
         family.block_flags(config).output_bias, loader),
      gate_(site_of(family, index, family.names.gate, config.hidden_size, config.intermediate_size,
                    ShardSpec::sharded(0)),
            family.block_flags(config).mlp_bias, loader),
      up_(site_of(family, index, family.names.up, config.hidden_size, config.intermediate_size,
                  ShardSpec::sharded(0)),
          family.block_flags(config).mlp_bias, loader),
      down_(site_of(family, index, family.names.down, config.intermediate_size, config.hidden_size,
                    ShardSpec::sharded(1)),
            family.block_flags(config).mlp_bias, loader) {}

void TransformerBlock::forward(const Tensor& output, const Tensor& input, BlockSaved& saved,
                               ForwardContext& context) const {
  saved.input = input;
  attention_forward(saved, context);
  mlp_forward(output, saved, context);
}

void TransformerBlock::backward(const Tensor& d, bool wants_input_gradient, BlockSaved& saved,
                                ForwardContext& context, GradientReducer& reducer) {
  const bool wants_middle_gradient = wants_input_gradient || attention_trained();
  mlp_backward(d, wants_middle_gradient, saved, context, reducer);
  if (wants_middle_gradient) attention_backward(d, wants_input_gradient, saved, context, reducer);
}

void TransformerBlock::attention_forward(BlockSaved& saved, ForwardContext& context) const {
  Stream& stream = *context.stream;
  const auto workspace = context.arena->scope("workspace");
  const int64_t tokens = saved.input.dim(0);
  const bool keeps_input = q_.needs_input() || k_.needs_input() || v_.needs_input();
  saved.input_inv_rms = context.allocate(DType::kF32, {tokens});
  saved.attention_input = allocate(context, keeps_input, saved.input.shape());
  rms_norm(saved.attention_input, saved.input_inv_rms, saved.input, input_norm_.dense(), eps_,
           stream);

  saved.q = context.allocate(DType::kF32, {tokens, heads_, head_dim_});
  saved.k = context.allocate(DType::kF32, {tokens, key_value_heads_, head_dim_});
  saved.v = context.allocate(DType::kF32, {tokens, key_value_heads_, head_dim_});
  q_.forward(flat(saved.q), false, saved.attention_input, saved.q_proj, context);
  k_.forward(flat(saved.k), false, saved.attention_input, saved.k_proj, context);
  v_.forward(flat(saved.v), false, saved.attention_input, saved.v_proj, context);
  rope(saved.q, context.rope_cos, context.rope_sin, false, stream);
  rope(saved.k, context.rope_cos, context.rope_sin, false, stream);

  KvCache::KeysAndValues seen{saved.k, saved.v};
  if (context.cache != nullptr) seen = context.cache->append(index_, saved.k, saved.v, stream);
  saved.attention_output = context.allocate(DType::kF32, saved.q.shape());
  saved.log_sum_exp = context.allocate(DType::kF32, {heads_, tokens});
  attention(saved.attention_output, saved.log_sum_exp, saved.q, seen.keys, seen.values,
            context.document_offsets, context.key_offsets,
            attention_params(context, head_dim_, window_), stream);

  saved.middle = context.allocate(DType::kF32, saved.input.shape());
  copy(saved.middle, saved.input, stream);
  o_.forward(saved.middle, true, flat(saved.attention_output), saved.o_proj, context);
}

void TransformerBlock::attention_backward(const Tensor& d, bool wants_input_gradient,
                                          BlockSaved& saved, ForwardContext& context,
                                          GradientReducer& reducer) {
  Stream& stream = *context.stream;
  const auto workspace = context.arena->scope("workspace");
  const bool wants_normalised = wants_input_gradient || input_norm_.trainable;
  const bool projections_trained = q_.trained() || k_.trained() || v_.trained();
  const Tensor attention_flat = flat(saved.attention_output);
  if (!wants_normalised && !projections_trained) {
    o_.backward({}, false, d, attention_flat, saved.o_proj, context, reducer);
    return;
  }
  const Tensor dattention = context.allocate_workspace(DType::kF32, saved.q.shape());
  o_.backward(flat(dattention), false, d, attention_flat, saved.o_proj, context, reducer);

  const Tensor dq = context.allocate_workspace(DType::kF32, saved.q.shape());
  const Tensor dk = context.allocate_workspace(DType::kF32, saved.k.shape());
  const Tensor dv = context.allocate_workspace(DType::kF32, saved.v.shape());
  rankwise::attention_backward(dq, dk, dv, dattention, saved.q, saved.k, saved.v,
                               saved.attention_output, saved.log_sum_exp, context.document_offsets,
                               context.key_offsets, attention_params(context, head_dim_, window_),
                               stream);
  rope(dq, context.rope_cos, context.rope_sin, true, stream);
  rope(dk, context.rope_cos, context.rope_sin, true, stream);

  Tensor dnormalised;  // (T, C)
  if (wants_normalised) dnormalised = context.allocate_workspace(DType::kF32, d.shape());
  const Tensor& x = saved.attention_input;
  v_.backward(dnormalised, false, flat(dv), x, saved.v_proj, context, reducer);
  k_.backward(dnormalised, true, flat(dk), x, saved.k_proj, context, reducer);
  q_.backward(dnormalised, true, flat(dq), x, saved.q_proj, context, reducer);
  if (wants_normalised) {
    norm_backward(d, dnormalised, saved.input, saved.input_inv_rms, input_norm_, context, reducer);
  }
}

void TransformerBlock::mlp_forward(const Tensor& output, BlockSaved& saved,
                                   ForwardContext& context) const {
  Stream& stream = *context.stream;
  const auto workspace = context.arena->scope("workspace");
  const int64_t tokens = saved.middle.dim(0);
  const bool keeps_input = gate_.needs_input() || up_.needs_input();
  saved.middle_inv_rms = context.allocate(DType::kF32, {tokens});
  saved.mlp_input = allocate(context, keeps_input, saved.middle.shape());
  rms_norm(saved.mlp_input, saved.middle_inv_rms, saved.middle, mlp_norm_.dense(), eps_, stream);

  saved.gate = context.allocate(DType::kF32, {tokens, gate_.site().out_features});
  saved.up = context.allocate(DType::kF32, saved.gate.shape());
  gate_.forward(saved.gate, false, saved.mlp_input, saved.gate_proj, context);
  up_.forward(saved.up, false, saved.mlp_input, saved.up_proj, context);

  const Tensor inner = context.allocate_workspace(DType::kF32, saved.gate.shape());
  swiglu(inner, saved.gate, saved.up, stream);
  copy(output, saved.middle, stream);
  down_.forward(output, true, inner, saved.down_proj, context);
}

void TransformerBlock::mlp_backward(const Tensor& d, bool wants_middle_gradient, BlockSaved& saved,
                                    ForwardContext& context, GradientReducer& reducer) {
  Stream& stream = *context.stream;
  const auto workspace = context.arena->scope("workspace");
  const bool wants_normalised = wants_middle_gradient || mlp_norm_.trainable;
  const bool wants_inner = wants_normalised || gate_.trained() || up_.trained();

  Tensor inner;  // (T, F), cheaper to compute again than to keep
  if (down_.needs_input()) {
    inner = context.allocate_workspace(DType::kF32, saved.gate.shape());
    swiglu(inner, saved.gate, saved.up, stream);
  }
  Tensor dinner;  // (T, F)
  if (wants_inner) dinner = context.allocate_workspace(DType::kF32, saved.gate.shape());
  down_.backward(dinner, false, d, inner, saved.down_proj, context, reducer);
  if (!wants_inner) return;

  swiglu_backward(saved.gate, saved.up, dinner, saved.gate, saved.up, stream);  // in place
  Tensor dnormalised;                                                           // (T, C)
  if (wants_normalised) dnormalised = context.allocate_workspace(DType::kF32, d.shape());
  up_.backward(dnormalised, false, saved.up, saved.mlp_input, saved.up_proj, context, reducer);
  gate_.backward(dnormalised, true, saved.gate, saved.mlp_input, saved.gate_proj, context, reducer);
  if (wants_normalised) {
    norm_backward(d, dnormalised, saved.middle, saved.middle_inv_rms, mlp_norm_, context, reducer);
  }
}

// The residual connection: what comes through the norm is added to the gradient that went around
// it.
void TransformerBlock::norm_backward(const Tensor& d, const Tensor& dnormalised, const Tensor& x,
                                     const Tensor& inv_rms, Parameter& norm,
                                     ForwardContext& context, GradientReducer& reducer) {
  rms_norm_backward(d, norm.trainable ? norm.gradient : Tensor{}, dnormalised, x, norm.dense(),
                    inv_rms, true, *context.stream);
  if (norm.trainable) reducer.ready(norm, *context.stream);
}

bool TransformerBlock::attention_trained() const {
  return input_norm_.trainable || q_.trained() || k_.trained() || v_.trained() || o_.trained();
}

bool TransformerBlock::trained() const {
  return attention_trained() || mlp_norm_.trainable || gate_.trained() || up_.trained() ||
         down_.trained();
}

void TransformerBlock::collect_parameters(std::vector<Parameter*>& out) {
  for (Linear* linear : linears()) linear->collect_parameters(out);
  out.push_back(&input_norm_);
  out.push_back(&mlp_norm_);
}

void TransformerBlock::collect_trained_parameters(std::vector<Parameter*>& out) {
  for (Linear* linear : {&down_, &up_, &gate_}) linear->collect_trained_parameters(out);
  if (mlp_norm_.trainable) out.push_back(&mlp_norm_);
  for (Linear* linear : {&o_, &v_, &k_, &q_}) linear->collect_trained_parameters(out);
  if (input_norm_.trainable) out.push_back(&input_norm_);
}

}  // namespace rankwise
