// SPDX-License-Identifier: Apache-2.0
#include "model/linear.h"

#include "kernels/elementwise.h"
#include "kernels/matmul.h"

namespace rankwise {

Linear::Linear(const LinearSite& site, bool has_bias, const ParameterLoader& loader)
    : site_(site),
      weight_(loader.linear_weight(site.module + ".weight", {site.out_features, site.in_features},
                                   site.weight_spec)),
      adapter_(loader.adapter(site)) {
  if (has_bias) {
    const bool columns = site.weight_spec == ShardSpec::sharded(0);
    bias_ = loader.dense(site.module + ".bias", {site.out_features}, ParameterRole::kBias,
                         columns ? ShardSpec::sharded(0) : ShardSpec::replicated());
  }
}

void Linear::forward(const Tensor& y, bool add_to_y, const Tensor& x, LinearSaved& saved,
                     ForwardContext& context) const {
  linear(y, x, weight_.weight, add_to_y ? 1.0f : 0.0f, *context.stream);
  if (bias_) add_bias(y, bias_->dense(), *context.stream);
  if (adapter_) saved.adapter = adapter_->forward(y, x, context);
}

void Linear::backward(const Tensor& dx, bool add_to_dx, const Tensor& dy, const Tensor& x,
                      const LinearSaved& saved, ForwardContext& context, GradientReducer& reducer) {
  Stream& stream = *context.stream;
  if (dx.defined()) {
    linear_backward_input(dx, dy, weight_.weight, add_to_dx ? 1.0f : 0.0f, stream);
  }
  if (adapter_) adapter_->backward(dx, dy, x, *saved.adapter, context);
  if (bias_ && bias_->trainable) bias_backward(bias_->gradient, dy, stream);
  if (weight_.trainable) linear_backward_weight(weight_.gradient, dy, x, stream);
  std::vector<Parameter*> done;
  collect_trained_parameters(done);
  for (const Parameter* parameter : done) reducer.ready(*parameter, stream);
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

}  // namespace rankwise
