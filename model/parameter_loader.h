// SPDX-License-Identifier: Apache-2.0
// ParameterLoader: makes the parameters of a model from a weight source, as the plan demands.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "model/model_plan.h"
#include "runtime/io/weight_source.h"

namespace rankwise {

// Shapes are checked before anything is read. FormatError names tensor and source. Nothing is read
// into an arena in measuring mode. Values on their way to a GPU pass through "staging" in pieces.
class ParameterLoader {
 public:
  ParameterLoader(const WeightSource& source, const ModelPlan& plan, Arena& arena, Stream& stream)
      : source_(&source), plan_(&plan), arena_(&arena), stream_(&stream) {}

  // Trainable when the plan says so. F32, but a frozen matrix is of the plan's compute type.
  Parameter dense(const std::string& name, const Shape& shape, ParameterRole role,
                  const ShardSpec& spec) const;
  // The same, but held in 4 bits when it is frozen and the source or the plan has it so.
  Parameter linear_weight(const std::string& name, const Shape& shape, const ShardSpec& spec) const;
  // Null when the plan has none for this place.
  std::unique_ptr<Adapter> adapter(const LinearSite& site) const;

 private:
  bool trained(const std::string& name) const;
  void check_shape(const std::string& name, const Shape& expected) const;
  void read(const std::string& name, const Tensor& out) const;
  void read_to_gpu(const std::string& name, const Tensor& out) const;
  std::optional<QuantizedTensor> stored(const std::string& name) const;
  QuantizedTensor quantized(const std::string& name, const Shape& shape) const;

  const WeightSource* source_;
  const ModelPlan* plan_;
  Arena* arena_;
  Stream* stream_;
};

}  // namespace rankwise
