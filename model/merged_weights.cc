// SPDX-License-Identifier: Apache-2.0
#include "model/merged_weights.h"

#include <map>
#include <set>

#include "kernels/elementwise.h"
#include "kernels/quantize.h"

namespace rankwise {
namespace {

void read_dense(const Tensor& out, const Parameter& parameter, const WeightSource* original,
                Stream& stream) {
  if (!is_quantized(parameter.weight)) {
    copy(out, parameter.dense(), stream);
  } else if (original != nullptr) {
    original->read(parameter.name, out);
  } else {
    dequantize(out, std::get<QuantizedTensor>(parameter.weight), stream);
  }
}

}  // namespace

std::vector<NamedTensor> merged_weights(CausalLm& model, const WeightSource* original, Arena& arena,
                                        Stream& stream) {
  std::map<std::string, const Adapter*> adapter_of;  // by weight
  std::set<const Parameter*> of_adapters;
  for (const auto& [module, adapter] : model.adapters()) {
    adapter_of[module + ".weight"] = adapter;
    for (const Parameter* parameter : adapter->parameters()) of_adapters.insert(parameter);
  }
  std::vector<NamedTensor> out;
  for (const Parameter* parameter : model.parameters()) {
    if (of_adapters.contains(parameter)) continue;
    const auto adapter = adapter_of.find(parameter->name);
    if (adapter == adapter_of.end() && !is_quantized(parameter->weight)) {
      out.push_back({parameter->name, parameter->dense()});
      continue;
    }
    const Tensor merged = arena.allocate("merged", DType::kF32, shape_of(parameter->weight));
    read_dense(merged, *parameter, original, stream);
    if (adapter != adapter_of.end()) adapter->second->merge_into(merged, stream);
    out.push_back({parameter->name, merged});
  }
  return out;
}

}  // namespace rankwise
