// SPDX-License-Identifier: Apache-2.0
// ParameterLoader: makes the parameters of a model from a weight source, as the plan demands.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "model/model_plan.h"
#include "parallel/device_mesh.h"
#include "runtime/io/weight_source.h"

namespace rankwise {

// Every rank of the tensor axis reads and holds only its part of a tensor: shapes given here are
// those of the whole. They are checked before anything is read. FormatError names tensor and
// source. Nothing is read into an arena in measuring mode. Values on their way to a GPU pass
// through "staging" in pieces. All ranks load the same tensors in the same order.
class ParameterLoader {
 public:
  ParameterLoader(const WeightSource& source, const ModelPlan& plan, const DeviceMesh& mesh,
                  Arena& arena, Stream& stream)
      : source_(&source), plan_(&plan), mesh_(&mesh), arena_(&arena), stream_(&stream) {}

  // Trainable when the plan says so. F32, but of the plan's compute type when it is a matrix that
  // is frozen or, unless an embedding, one that plan.stores_bf16. ConfigError when a trained tensor
  // would lie on several ranks as copies.
  Parameter dense(const std::string& name, const Shape& shape, ParameterRole role,
                  const ShardSpec& spec) const;
  // The same, but held in 4 bits when it is frozen and the source or the plan has it so: codes and
  // scales are those of the whole. With plan.shard_base the data ranks take turns in reading, pass
  // on what they read, and hold it in "staging", for a BlockGatherer to take over.
  Parameter linear_weight(const std::string& name, const Shape& shape, const ShardSpec& spec) const;
  // Null when the plan has none for this place.
  std::unique_ptr<Adapter> adapter(const LinearSite& site) const;

 private:
  bool trained(const std::string& name) const;
  void check_shape(const std::string& name, const Shape& expected) const;
  // This rank's part; a vector counts as a matrix of one column.
  MatrixSlice slice_of(const std::string& name, const Shape& shape, const ShardSpec& spec) const;
  void read(const std::string& name, const MatrixSlice& slice, const Tensor& out) const;
  // Rows [begin, end) of the slice.
  void read_rows(const std::string& name, const MatrixSlice& slice, int64_t begin, int64_t end,
                 const Tensor& out) const;
  void read_to_gpu(const std::string& name, const MatrixSlice& slice, const Tensor& out) const;
  // With `reads` unset only allocated.
  std::optional<QuantizedTensor> stored(const std::string& name, const MatrixSlice& slice,
                                        bool reads) const;
  QuantizedTensor quantized(const std::string& name, const MatrixSlice& slice, bool reads) const;
  void pass_on(const std::string& name, QuantizedTensor& weight, int reader) const;
  bool shares_base() const { return plan_->shard_base && mesh_->data().size() > 1; }
  const char* quantized_purpose() const { return shares_base() ? "staging" : "weights"; }

  const WeightSource* source_;
  const ModelPlan* plan_;
  const DeviceMesh* mesh_;
  Arena* arena_;
  Stream* stream_;
  mutable int64_t quantized_tensors_ = 0;  // so far, on all ranks alike: whose turn it is to read
};

}  // namespace rankwise
