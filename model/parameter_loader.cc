// SPDX-License-Identifier: Apache-2.0
#include "model/parameter_loader.h"

#include <utility>

#include "kernels/quantize.h"
#include "runtime/errors.h"

namespace rankwise {

bool ParameterLoader::trained(const std::string& name) const {
  return plan_->is_trained && plan_->is_trained(name);
}

void ParameterLoader::check_shape(const std::string& name, const Shape& expected) const {
  const Shape actual = source_->shape(name);
  if (!(actual == expected)) {
    throw FormatError(fmt::format("{}: tensor {} has shape {}, config.json implies {}",
                                  source_->description(), name, to_string(actual),
                                  to_string(expected)));
  }
}

void ParameterLoader::read(const std::string& name, const Tensor& out) const {
  if (!arena_->measuring()) source_->read(name, out);
}

Parameter ParameterLoader::dense(const std::string& name, const Shape& shape, ParameterRole role,
                                 const ShardSpec& spec) const {
  check_shape(name, shape);
  Parameter parameter;
  parameter.name = name;
  parameter.role = role;
  parameter.spec = spec;
  parameter.trainable = trained(name);
  const Tensor weight = arena_->allocate("weights", DType::kF32, shape);
  read(name, weight);
  parameter.weight = weight;
  return parameter;
}

Parameter ParameterLoader::linear_weight(const std::string& name, const Shape& shape,
                                         const ShardSpec& spec) const {
  if (!trained(name)) {
    Parameter parameter;
    parameter.name = name;
    parameter.spec = spec;
    check_shape(name, shape);
    if (auto stored = source_->read_quantized(name, *arena_, "weights")) {
      parameter.weight = *std::move(stored);
      return parameter;
    }
    if (plan_->quantize_nf4) {
      parameter.weight = quantized(name, shape);
      return parameter;
    }
  }
  return dense(name, shape, ParameterRole::kLinear, spec);
}

QuantizedTensor ParameterLoader::quantized(const std::string& name, const Shape& shape) const {
  QuantizedTensor out =
      allocate_nf4(shape, plan_->double_quant, source_->dtype(name), *arena_, "weights");
  const auto scope = arena_->scope("staging");
  const Tensor dense = arena_->allocate("staging", DType::kF32, shape);
  read(name, dense);
  quantize_nf4(out, dense, *stream_);
  return out;
}

std::unique_ptr<Adapter> ParameterLoader::adapter(const LinearSite& site) const {
  return plan_->make_adapter ? plan_->make_adapter(site) : nullptr;
}

}  // namespace rankwise
