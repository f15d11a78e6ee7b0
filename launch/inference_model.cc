// SPDX-License-Identifier: Apache-2.0
#include "launch/inference_model.h"

#include <optional>

#include "launch/device_choice.h"
#include "model/adapters/adapter_registry.h"

namespace rankwise {

InferenceModel::InferenceModel(const ModelFiles& files, const InferenceOptions& options,
                               const DeviceMesh& mesh)
    : arena_(options.device), stream_(options.device) {
  ModelPlan plan;
  plan.compute = options.compute;
  plan.logits_bytes = logits_bytes(options.device);
  plan.quantize_nf4 = options.quantize_nf4;
  plan.double_quant = options.double_quant;
  std::optional<PeftConfig> peft;
  if (!options.adapter.empty()) {
    peft = read_peft_config(options.adapter);
    plan.make_adapter = [&](const LinearSite& site) -> std::unique_ptr<Adapter> {
      if (!peft->targets(site.module)) return nullptr;
      return make_adapter(site, adapter_options(*peft, site.module), plan.seed, arena_, stream_);
    };
  }
  model_ = std::make_unique<CausalLm>(files.config, *files.weights, plan, mesh, arena_, stream_);
  if (peft) load_peft_weights(options.adapter, model_->adapters(), stream_);
}

}  // namespace rankwise
