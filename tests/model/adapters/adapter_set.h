// SPDX-License-Identifier: Apache-2.0
// Adapters of one PEFT configuration that belong to no model.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "model/adapters/adapter_registry.h"
#include "runtime/rng.h"

namespace rankwise::testing {

class AdapterSet {
 public:
  AdapterSet() = default;
  // Modules "model.layers.<i>.self_attn.{q,v}_proj", (4, 6).
  explicit AdapterSet(const PeftConfig& config, int layers = 2) {
    for (int layer = 0; layer < layers; ++layer) {
      for (const char* name : {"q_proj", "v_proj"}) {
        add(config, fmt::format("model.layers.{}.self_attn.{}", layer, name), 6, 4);
      }
    }
  }
  void add(const PeftConfig& config, const std::string& module, int64_t in, int64_t out) {
    owned_.push_back(
        make_adapter({module, in, out, {}}, adapter_options(config, module), 42, arena_, stream));
    list.emplace_back(module, owned_.back().get());
  }
  void randomise(uint64_t seed) {
    for (Parameter* parameter : parameters()) {
      const Tensor tensor = parameter->dense();
      Rng(seed, parameter->name)
          .fill_normal({tensor.data<float>(), static_cast<size_t>(tensor.numel())}, 0.0f, 1.0f);
    }
  }
  std::vector<Parameter*> parameters() {
    std::vector<Parameter*> out;
    for (auto& [module, adapter] : list) {
      for (Parameter* parameter : adapter->parameters()) out.push_back(parameter);
    }
    return out;
  }

  std::vector<std::pair<std::string, Adapter*>> list;
  Stream stream;

 private:
  Arena arena_;
  std::vector<std::unique_ptr<Adapter>> owned_;
};

}  // namespace rankwise::testing
