// SPDX-License-Identifier: Apache-2.0
#include "model/adapters/adapter_registry.h"

#include "model/adapters/adalora_adapter.h"
#include "model/adapters/dora_adapter.h"

namespace rankwise {
namespace {

AdapterMethod method_of(const PeftConfig& peft) {
  if (peft.peft_type == "ADALORA") return AdapterMethod::kAdaLora;
  return peft.use_dora ? AdapterMethod::kDora : AdapterMethod::kLora;
}

}  // namespace

AdapterOptions adapter_options(const PeftConfig& peft, const std::string& module) {
  return {.method = method_of(peft),
          .rank = peft.rank_of(module),
          .alpha = peft.alpha_of(module),
          .rslora = peft.use_rslora,
          .from_folder = true};
}

std::unique_ptr<Adapter> make_adapter(const LinearSite& site, const AdapterOptions& options,
                                      uint64_t seed, Arena& arena, Stream& stream) {
  const auto& [method, rank, alpha, rslora, dropout, from_folder] = options;
  const LoraOptions lora{rank, alpha, rslora, dropout};
  const AdaLoraOptions adalora{rank, alpha, dropout};
  switch (method) {
    case AdapterMethod::kLora:
      return std::make_unique<LoraAdapter>(site, lora, seed, arena, stream);
    case AdapterMethod::kDora:
      return std::make_unique<DoraAdapter>(site, lora, from_folder, seed, arena, stream);
    case AdapterMethod::kAdaLora:
      return std::make_unique<AdaLoraAdapter>(site, adalora, seed, arena, stream);
  }
  RW_ASSERT(false, "no adapter {}", static_cast<int>(method));
}

}  // namespace rankwise
