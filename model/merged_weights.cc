// SPDX-License-Identifier: Apache-2.0
#include "model/merged_weights.h"

#include <map>
#include <set>

#include "kernels/elementwise.h"
#include "kernels/quantize.h"
#include "model/hf_folder.h"
#include "runtime/transfer.h"

namespace rankwise {
namespace {

void read_dense(const Tensor& out, const Parameter& parameter, const WeightSource* original,
                Stream& stream) {
  if (is_quantized(parameter.weight)) {
    if (original != nullptr) return original->read(parameter.name, out);
    dequantize(out, std::get<QuantizedTensor>(parameter.weight), stream);
  } else if (parameter.dense().dtype() == out.dtype()) {
    copy(out, parameter.dense(), stream);
  } else {
    cast(out, parameter.dense(), stream);
  }
}

// `original` and `adapter` need the model on the host.
Tensor on_host(const Parameter& parameter, Arena& arena, Stream& stream) {
  Arena device(stream.device());
  const Tensor dense = device.allocate("merged", DType::kF32, shape_of(parameter.weight));
  read_dense(dense, parameter, nullptr, stream);
  const Tensor out = arena.allocate("merged", DType::kF32, dense.shape());
  download(out.raw(), dense, stream);
  return out;
}

// What becomes of one base tensor; null adapter: none, or not to be merged.
NamedTensor as_dense(const Parameter& parameter, const Adapter* adapter,
                     const WeightSource* original, Arena& arena, Stream& stream) {
  if (stream.is_cuda()) return {parameter.name, on_host(parameter, arena, stream)};
  if (adapter == nullptr && !is_quantized(parameter.weight)) {
    return {parameter.name, parameter.dense()};
  }
  const Tensor dense = arena.allocate("merged", DType::kF32, shape_of(parameter.weight));
  read_dense(dense, parameter, original, stream);
  if (adapter != nullptr) adapter->merge_into(dense, stream);
  return {parameter.name, dense};
}

// Puts the tensor ranks' parts together. Of ranks that hold the same part the first gives it.
NamedTensor whole_of(const NamedTensor& part, const ShardSpec& spec, const Shape& whole,
                     Communicator& ranks, Arena& arena) {
  if (ranks.size() == 1 || spec.kind != ShardSpec::Kind::kSharded) return part;
  Stream host;
  const Tensor out = arena.allocate("merged", DType::kF32, whole);
  fill(out, 0.0f, host);
  if (ranks.rank() % spec.copies == 0) {
    const ShardSpec::Range own = spec.range(whole, ranks.rank(), ranks.size(), part.name);
    if (spec.dim == 0) {
      copy(out.rows(own.begin, own.end), part.tensor, host);
    } else {
      for (int64_t row = 0; row < whole.dim(0); ++row) {
        copy(out.rows(row, row + 1).columns(own.begin, own.end), part.tensor.rows(row, row + 1),
             host);
      }
    }
  }
  ranks.all_reduce(out, ReduceOp::kSum, "parts of " + part.name, host);
  return {part.name, out};
}

std::vector<const Parameter*> base_parameters(CausalLm& model) {
  std::set<const Parameter*> of_adapters;
  for (const auto& [module, adapter] : model.adapters()) {
    for (const Parameter* parameter : adapter->parameters()) of_adapters.insert(parameter);
  }
  std::vector<const Parameter*> out;
  for (const Parameter* parameter : model.parameters()) {
    if (!of_adapters.contains(parameter)) out.push_back(parameter);
  }
  return out;
}

}  // namespace

std::vector<NamedTensor> base_weights(CausalLm& model, Arena& arena, Stream& stream) {
  std::map<std::string, Shape> shapes;
  for (const auto& [name, shape] : weight_shapes(model.config())) shapes[name] = shape;
  std::vector<NamedTensor> out;
  for (const Parameter* parameter : base_parameters(model)) {
    out.push_back(whole_of(as_dense(*parameter, nullptr, nullptr, arena, stream), parameter->spec,
                           shapes.at(parameter->name), model.mesh().tensor(), arena));
  }
  return out;
}

std::vector<NamedTensor> merged_weights(CausalLm& model, const WeightSource* original, Arena& arena,
                                        Stream& stream) {
  RW_ASSERT(!stream.is_cuda(), "adapters are merged on the CPU");
  std::map<std::string, const Adapter*> adapter_of;  // by weight
  for (const auto& [module, adapter] : model.adapters()) adapter_of[module + ".weight"] = adapter;
  std::vector<NamedTensor> out;
  for (const Parameter* parameter : base_parameters(model)) {
    const auto found = adapter_of.find(parameter->name);
    const Adapter* adapter = found == adapter_of.end() ? nullptr : found->second;
    out.push_back(as_dense(*parameter, adapter, original, arena, stream));
  }
  return out;
}

}  // namespace rankwise
