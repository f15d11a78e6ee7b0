// SPDX-License-Identifier: Apache-2.0
#include "model/linear_group.h"

#include <algorithm>

#include "kernels/elementwise.h"
#include "model/weight_gradient.h"

namespace rankwise {
namespace {

// Neighbouring columns of `tail`, one matrix (T, rank) per layer of that rank; without a tail,
// matrices of their own. Undefined where the rank is 0.
std::vector<Tensor> split_tail(const Tensor& tail, bool kept, std::span<const LowRankLinear> terms,
                               ForwardContext& context) {
  std::vector<Tensor> out(terms.size());
  int64_t begin = 0;
  for (size_t i = 0; i < terms.size(); ++i) {
    const int64_t rank = terms[i].rank();
    if (rank == 0) continue;
    if (tail.defined()) {
      out[i] = tail.columns(begin, begin + rank);
      begin += rank;
    } else {
      out[i] = context.allocate_columns(kept, {{rank}}, 0).parts[0];
    }
  }
  return out;
}

}  // namespace

std::vector<LowRankLinear> LinearGroup::terms(const ForwardContext& context) const {
  std::vector<LowRankLinear> out;
  for (const Linear* layer : layers_) {
    const Weight* weight = &layer->weight().weight;
    const auto term =
        layer->adapter() == nullptr ? std::nullopt : layer->adapter()->low_rank_term(context);
    out.push_back(term ? term->beside(weight) : LowRankLinear{.weight = weight});
  }
  return out;
}

void LinearGroup::forward(std::span<const Tensor> ys, const Tensor& addend,
                          const LinearInput& input, bool keeps_saved, LinearGroupSaved& saved,
                          ForwardContext& context) const {
  Stream& stream = *context.stream;
  const auto layers = terms(context);
  const bool sums_outputs = layers_[0]->site().sums_outputs();
  const bool adds_known = !sums_outputs || context.tensor_ranks->rank() == 0;
  saved.downs = split_tail(input.tail, keeps_saved, layers, context);
  low_rank_linear(ys, saved.downs, input.x, layers, adds_known ? addend : Tensor{}, stream);
  saved.adapters.resize(layers_.size());
  for (size_t i = 0; i < layers_.size(); ++i) {
    const Linear& layer = *layers_[i];
    if (layer.bias() != nullptr && adds_known) add_bias(ys[i], layer.bias()->dense(), stream);
    if (layer.adapter() != nullptr && layers[i].rank() == 0) {
      saved.adapters[i] = layer.adapter()->forward(ys[i], input.x, context);
    }
    if (sums_outputs) {
      context.tensor_ranks->all_reduce(ys[i], ReduceOp::kSum, layer.site().module + " output",
                                       stream);
    }
  }
  if (!keeps_saved || input.kept || !input.tail.defined()) return;
  for (Tensor& down : saved.downs) {  // out of the input's tail, which ends with it
    if (!down.defined()) continue;
    const Tensor kept = context.allocate(down.dtype(), down.shape());
    copy(kept, down, stream);
    down = kept;
  }
}

void LinearGroup::make_output_dots(LinearGroupSaved& saved) const {
  saved.dots.assign(layers_.size(), {});
  for (size_t i = 0; i < layers_.size(); ++i) {
    const Linear& layer = *layers_[i];
    if (layer.adapter() == nullptr) continue;
    saved.dots[i] = layer.adapter()->output_dots();
    if (layer.bias() != nullptr) saved.dots[i].bias = layer.bias()->dense();
  }
}

void LinearGroup::backward(const Tensor& dx, const Columns& dys, const Tensor& x,
                           LinearGroupSaved& saved, ForwardContext& context,
                           GradientReducer& reducer) const {
  const auto scope = context.arena->scope("workspace");
  backward_input(dx, dys, x, saved, context);
  std::unique_ptr<PendingCollective> sum;
  if (dx.defined() && layers_[0]->site().sums_input_gradients()) {
    sum = context.tensor_ranks->start_all_reduce(
        dx, ReduceOp::kSum, layers_[0]->site().module + " input gradient", *context.stream);
  }
  backward_weights(dys, x, saved, context, reducer);
  if (sum) sum->wait();
}

void LinearGroup::backward_input(const Tensor& dx, const Columns& dys, const Tensor& x,
                                 LinearGroupSaved& saved, ForwardContext& context) const {
  const auto layers = terms(context);
  saved.ddowns = split_tail(dys.tail, false, layers, context);
  low_rank_linear_backward_input(dx, saved.ddowns, dys.parts, layers, 0.0f, *context.stream);
  for (size_t i = 0; i < layers_.size(); ++i) {
    if (saved.adapters[i] == nullptr) continue;
    layers_[i]->adapter()->backward(dx, dys.parts[i], x, *saved.adapters[i], context);
  }
}

void LinearGroup::backward_weights(const Columns& dys, const Tensor& x,
                                   const LinearGroupSaved& saved, ForwardContext& context,
                                   GradientReducer& reducer) const {
  Stream& stream = *context.stream;
  const auto layers = terms(context);
  std::vector<LowRankGradients> gradients(layers.size());
  bool any = false;
  for (size_t i = 0; i < layers.size(); ++i) {
    if (layers[i].rank() == 0) continue;
    gradients[i] = layers_[i]->adapter()->low_rank_term(context)->gradients;
    any = true;
  }
  if (any) {
    low_rank_linear_backward_weight(gradients, saved.ddowns, dys.parts, saved.downs, x, layers,
                                    stream);
  }
  for (size_t i = 0; i < layers_.size(); ++i) {
    Linear& layer = *layers_[i];
    const Tensor& dy = dys.parts[i];
    const bool adds_bias = !layer.site().sums_outputs() || context.tensor_ranks->rank() == 0;
    if (layer.bias() != nullptr && layer.bias()->trainable && adds_bias) {
      bias_backward(layer.bias()->gradient, dy, stream);
    }
    if (layer.weight().trainable) accumulate_weight_gradient(layer.weight(), dy, x, stream);
    std::vector<Parameter*> done;
    layer.collect_trained_parameters(done);
    for (const Parameter* parameter : done) reducer.ready(*parameter, stream);
  }
}

std::vector<int64_t> LinearGroup::widths() const {
  std::vector<int64_t> out;
  for (const Linear* layer : layers_) out.push_back(shape_of(layer->weight().weight).dim(0));
  return out;
}

int64_t LinearGroup::tail() const {
  int64_t columns = 0;
  for (const Linear* layer : layers_) {
    if (layer->adapter() != nullptr) columns += layer->adapter()->rank();
  }
  return padded_rank(columns);
}

bool LinearGroup::trained() const {
  return std::ranges::any_of(layers_, [](const Linear* layer) { return layer->trained(); });
}

bool LinearGroup::needs_input() const {
  return std::ranges::any_of(layers_, [](const Linear* layer) { return layer->needs_input(); });
}

bool LinearGroup::needs_input_first(const ForwardContext& context) const {
  return std::ranges::any_of(layers_, [&](const Linear* layer) {
    return layer->adapter() != nullptr && !layer->adapter()->low_rank_term(context);
  });
}

}  // namespace rankwise
