// SPDX-License-Identifier: Apache-2.0
#include "model/linear.h"

namespace rankwise {

Linear::Linear(const LinearSite& site, bool has_bias, const ParameterLoader& loader)
    : site_(site),
      weight_(loader.linear_weight(site.module + ".weight", {site.out_features, site.in_features},
                                   site.weight_spec)),
      adapter_(loader.adapter(site)) {
  if (has_bias) {
    bias_ = loader.dense(site.module + ".bias", {site.out_features}, ParameterRole::kBias,
                         site.weight_spec.dim == 0 ? site.weight_spec : ShardSpec::replicated());
  }
}

bool Linear::trained() const {
  return adapter_ || weight_.trainable || (bias_ && bias_->trainable);
}

bool Linear::needs_input() const { return adapter_ || weight_.trainable; }

void Linear::collect_parameters(std::vector<Parameter*>& out) {
  out.push_back(&weight_);
  if (bias_) out.push_back(&*bias_);
  if (adapter_) {
    for (Parameter* parameter : adapter_->parameters()) out.push_back(parameter);
  }
}

void Linear::collect_trained_parameters(std::vector<Parameter*>& out) {
  if (adapter_) {
    for (Parameter* parameter : adapter_->parameters()) {
      if (parameter->trainable) out.push_back(parameter);
    }
  }
  if (bias_ && bias_->trainable) out.push_back(&*bias_);
  if (weight_.trainable) out.push_back(&weight_);
}

void prepare_adapters(std::span<const Linear* const> layers, ForwardContext& context) {
  const auto workspace = context.arena->scope("workspace");
  std::vector<RowSquares> matrices;
  std::vector<Adapter*> owners;
  for (const Linear* layer : layers) {
    if (layer->adapter() == nullptr) continue;
    const auto wanted = layer->adapter()->wants_row_squares(layer->weight().weight, context);
    if (!wanted) continue;
    matrices.push_back(*wanted);
    owners.push_back(layer->adapter());
  }
  if (matrices.empty()) return;
  row_squares(matrices, context.compute, *context.stream);
  for (size_t i = 0; i < owners.size(); ++i) {
    owners[i]->take_row_squares(matrices[i].squares, context);
  }
}

}  // namespace rankwise
