// SPDX-License-Identifier: Apache-2.0
#include "model/transformer_block.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "kernels/attention.h"
#include "kernels/rms_norm.h"
#include "kernels/rope.h"
#include "kernels/swiglu.h"
#include "model/kv_cache.h"
#include "model/model_plan.h"

namespace rankwise {
namespace {

Parameter load_norm(const ModelConfig& config, const std::string& name,
                    const ParameterLoader& loader) {
  return loader.dense(name, {config.hidden_size}, ParameterRole::kNorm, ShardSpec::replicated());
}

// (T, heads * D) as (T, heads, D).
Tensor heads_of(const Tensor& x, int64_t heads) {
  return x.reshaped({x.dim(0), heads, x.dim(1) / heads});
}

AttentionParams attention_params(const ForwardContext& context, int64_t head_dim, int64_t window) {
  return {.scale = 1.0f / std::sqrt(static_cast<float>(head_dim)),
          .window = window,
          .longest_query = context.longest_document,
          .longest_key = context.longest_key,
          .deterministic = context.deterministic};
}

}  // namespace

TransformerBlock::TransformerBlock(const ModelConfig& config, const BlockFlags& flags,
                                   int64_t index, const BlockSites& sites,
                                   const ParameterLoader& loader)
    : index_(index),
      heads_(sites.q.slice().shape().dim(0) / config.head_dim),
      key_value_heads_(sites.k.slice().shape().dim(0) / config.head_dim),
      inner_(sites.down.slice().shape().dim(1)),
      head_dim_(config.head_dim),
      window_(config.sliding_window),
      eps_(static_cast<float>(config.rms_norm_eps)),
      input_norm_(load_norm(config, sites.input_norm, loader)),
      mlp_norm_(load_norm(config, sites.mlp_norm, loader)),
      q_(sites.q, flags.qkv_bias, loader),
      k_(sites.k, flags.qkv_bias, loader),
      v_(sites.v, flags.qkv_bias, loader),
      o_(sites.o, flags.output_bias, loader),
      gate_(sites.gate, flags.mlp_bias, loader),
      up_(sites.up, flags.mlp_bias, loader),
      down_(sites.down, flags.mlp_bias, loader),
      vkq_group_({&v_, &k_, &q_}),
      o_group_({&o_}),
      up_gate_group_({&up_, &gate_}),
      down_group_({&down_}) {}

int64_t TransformerBlock::tail() const { return std::max(o_group_.tail(), down_group_.tail()); }

void TransformerBlock::forward(const Tensor& output, const Tensor& input, BlockSaved& saved,
                               ForwardContext& context) const {
  prepare_adapters(std::array{&v_, &k_, &q_, &o_, &up_, &gate_, &down_}, context);
  saved.input = input;
  saved.output = output;
  attention_forward(saved, context);
  mlp_forward(output, saved, context);
}

void TransformerBlock::backward(const Columns& d, bool wants_input_gradient, BlockSaved& saved,
                                ForwardContext& context, GradientReducer& reducer) {
  const bool wants_middle_gradient = wants_input_gradient || attention_trained();
  mlp_backward(d, wants_middle_gradient, saved, context, reducer);
  if (wants_middle_gradient) attention_backward(d, wants_input_gradient, saved, context, reducer);
}

void TransformerBlock::make_attention_input(bool kept, BlockSaved& saved,
                                            ForwardContext& context) const {
  saved.attention_input = context.allocate_columns(kept, {{saved.input.dim(1)}}, vkq_group_.tail());
  rms_norm(saved.attention_input.parts[0], saved.input_inv_rms, saved.input, input_norm_.dense(),
           eps_, *context.stream);
}

void TransformerBlock::attention_forward(BlockSaved& saved, ForwardContext& context) const {
  Stream& stream = *context.stream;
  const auto workspace = context.arena->scope("workspace");
  const int64_t tokens = saved.input.dim(0);
  const bool keeps_input = vkq_group_.needs_input() && context.recompute != Recompute::kSelective;
  saved.input_inv_rms = context.allocate(DType::kF32, {tokens});
  make_attention_input(keeps_input, saved, context);

  // Rows as far apart as those of their gradients, which attention may rely on.
  const Columns vkq = context.allocate_columns(true, vkq_group_.widths(), vkq_group_.tail());
  const LinearInput input{saved.attention_input.parts[0], saved.attention_input.tail, keeps_input};
  vkq_group_.forward(vkq.parts, {}, input, context.training, saved.vkq_group, context);
  saved.v = heads_of(vkq.parts[0], key_value_heads_);
  saved.k = heads_of(vkq.parts[1], key_value_heads_);
  saved.q = heads_of(vkq.parts[2], heads_);
  rope(saved.q, saved.k, context.rope_cos, context.rope_sin, stream);

  KvCache::KeysAndValues seen{saved.k, saved.v};
  if (context.cache != nullptr) seen = context.cache->append(index_, saved.k, saved.v, stream);
  saved.attention_output = context.allocate_columns(true, {{heads_ * head_dim_}}, o_group_.tail());
  const Tensor& y = saved.attention_output.parts[0];
  saved.log_sum_exp = context.allocate(DType::kF32, {heads_, tokens});
  attention(heads_of(y, heads_), saved.log_sum_exp, saved.q, seen.keys, seen.values,
            context.document_offsets, context.key_offsets,
            attention_params(context, head_dim_, window_), stream);

  saved.middle = context.allocate(context.compute, saved.input.shape());
  o_group_.forward({&saved.middle, 1}, saved.input, {y, saved.attention_output.tail, true},
                   context.training, saved.o_group, context);
}

void TransformerBlock::attention_backward(const Columns& d, bool wants_input_gradient,
                                          BlockSaved& saved, ForwardContext& context,
                                          GradientReducer& reducer) {
  Stream& stream = *context.stream;
  const auto workspace = context.arena->scope("workspace");
  const bool wants_normalised = wants_input_gradient || input_norm_.trainable;
  const Tensor& y = saved.attention_output.parts[0];
  o_group_.make_output_dots(saved.o_group);
  column_dots(saved.o_group.dots[0], d.parts[0], saved.middle, saved.input, stream);
  if (!wants_normalised && !vkq_group_.trained()) {
    o_group_.backward({}, d, y, saved.o_group, context, reducer);
    return;
  }
  const Tensor dy =
      context.allocate_columns(false, {{heads_ * head_dim_}}, o_group_.tail()).parts[0];
  o_group_.backward(dy, d, y, saved.o_group, context, reducer);

  const Columns dvkq = context.allocate_columns(false, vkq_group_.widths(), vkq_group_.tail());
  const Tensor dv = heads_of(dvkq.parts[0], key_value_heads_);
  const Tensor dk = heads_of(dvkq.parts[1], key_value_heads_);
  const Tensor dq = heads_of(dvkq.parts[2], heads_);
  rankwise::attention_backward(dq, dk, dv, heads_of(dy, heads_), saved.q, saved.k, saved.v,
                               heads_of(y, heads_), saved.log_sum_exp, context.document_offsets,
                               context.key_offsets, attention_params(context, head_dim_, window_),
                               stream);
  vkq_group_.make_output_dots(saved.vkq_group);
  const auto& dots = saved.vkq_group.dots;
  rope_backward(dq, dk, context.rope_cos, context.rope_sin, {saved.q, saved.k, dots[2], dots[1]},
                stream);
  column_dots(dots[0], dvkq.parts[0], saved.v.reshaped(dvkq.parts[0].shape()), {}, stream);

  if (context.recompute == Recompute::kSelective && vkq_group_.needs_input()) {
    make_attention_input(false, saved, context);
  }
  Tensor dnormalised;  // (T, C)
  if (wants_normalised)
    dnormalised = context.allocate_workspace(context.compute, saved.input.shape());
  vkq_group_.backward(dnormalised, dvkq, saved.attention_input.parts[0], saved.vkq_group, context,
                      reducer);
  if (wants_normalised) {
    norm_backward(d.parts[0], dnormalised, saved.input, saved.input_inv_rms, input_norm_, context,
                  reducer);
  }
}

void TransformerBlock::make_up_and_gate(bool kept, BlockSaved& saved,
                                        ForwardContext& context) const {
  const bool keeps_input = kept && up_gate_group_.needs_input();
  saved.mlp_input =
      context.allocate_columns(keeps_input, {{saved.middle.dim(1)}}, up_gate_group_.tail());
  rms_norm(saved.mlp_input.parts[0], saved.middle_inv_rms, saved.middle, mlp_norm_.dense(), eps_,
           *context.stream);
  saved.up_gate = context.allocate_columns(kept, up_gate_group_.widths(), up_gate_group_.tail());
  const LinearInput input{saved.mlp_input.parts[0], saved.mlp_input.tail, keeps_input};
  up_gate_group_.forward(saved.up_gate.parts, {}, input, kept, saved.up_gate_group, context);
}

void TransformerBlock::mlp_forward(const Tensor& output, BlockSaved& saved,
                                   ForwardContext& context) const {
  const auto workspace = context.arena->scope("workspace");
  saved.middle_inv_rms = context.allocate(DType::kF32, {saved.middle.dim(0)});
  make_up_and_gate(context.recompute != Recompute::kSelective, saved, context);

  const Columns inner = context.allocate_columns(false, {{inner_}}, down_group_.tail());
  swiglu(inner.parts[0], saved.up_gate.parts[1], saved.up_gate.parts[0], *context.stream);
  down_group_.forward({&output, 1}, saved.middle, {inner.parts[0], inner.tail, false},
                      context.training, saved.down_group, context);
}

void TransformerBlock::mlp_backward(const Columns& d, bool wants_middle_gradient, BlockSaved& saved,
                                    ForwardContext& context, GradientReducer& reducer) {
  Stream& stream = *context.stream;
  const auto workspace = context.arena->scope("workspace");
  const bool wants_normalised = wants_middle_gradient || mlp_norm_.trainable;
  const bool wants_inner = wants_normalised || up_gate_group_.trained();
  if (context.recompute == Recompute::kSelective) make_up_and_gate(false, saved, context);
  const Tensor& up = saved.up_gate.parts[0];
  const Tensor& gate = saved.up_gate.parts[1];

  const Shape inner_shape{d.parts[0].dim(0), inner_};
  Tensor inner;  // (T, F), cheaper to compute again than to keep
  if (down_group_.needs_input()) inner = context.allocate_workspace(context.compute, inner_shape);
  const bool inner_first = !wants_inner || down_group_.needs_input_first(context);
  if (inner.defined() && inner_first) swiglu(inner, gate, up, stream);
  Tensor dinner;  // (T, F)
  if (wants_inner) dinner = context.allocate_workspace(context.compute, inner_shape);
  down_group_.backward_input(dinner, d, inner, saved.down_group, context);
  down_group_.make_output_dots(saved.down_group);
  column_dots(saved.down_group.dots[0], d.parts[0], saved.output, saved.middle, stream);
  up_gate_group_.make_output_dots(saved.up_gate_group);
  if (wants_inner) {
    const auto& dots = saved.up_gate_group.dots;
    const SwigluGradients in_place{gate, up, inner_first ? Tensor{} : inner, dots[1], dots[0]};
    swiglu_backward(in_place, dinner, gate, up, stream);
  }
  down_group_.backward_weights(d, inner, saved.down_group, context, reducer);
  if (!wants_inner) return;

  Tensor dnormalised;  // (T, C)
  if (wants_normalised)
    dnormalised = context.allocate_workspace(context.compute, saved.middle.shape());
  up_gate_group_.backward(dnormalised, saved.up_gate, saved.mlp_input.parts[0], saved.up_gate_group,
                          context, reducer);
  if (wants_normalised) {
    norm_backward(d.parts[0], dnormalised, saved.middle, saved.middle_inv_rms, mlp_norm_, context,
                  reducer);
  }
}

// The residual connection: what comes through the norm is added to the gradient that went around
// it. All tensor ranks have the same gradient of the norm; the first hands it in.
void TransformerBlock::norm_backward(const Tensor& d, const Tensor& dnormalised, const Tensor& x,
                                     const Tensor& inv_rms, Parameter& norm,
                                     ForwardContext& context, GradientReducer& reducer) {
  const bool hands_in = norm.trainable && context.tensor_ranks->rank() == 0;
  rms_norm_backward(d, hands_in ? norm.gradient : Tensor{}, dnormalised, x, norm.dense(), inv_rms,
                    true, *context.stream);
  if (norm.trainable) reducer.ready(norm, *context.stream);
}

bool TransformerBlock::attention_trained() const {
  return input_norm_.trainable || q_.trained() || k_.trained() || v_.trained() || o_.trained();
}

bool TransformerBlock::trained() const {
  return attention_trained() || mlp_norm_.trainable || up_gate_group_.trained() || down_.trained();
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
