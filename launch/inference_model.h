// SPDX-License-Identifier: Apache-2.0
// InferenceModel: a base with or without a PEFT adapter, for verbs that do not train.
#pragma once

#include <memory>
#include <string>

#include "launch/model_files.h"
#include "model/adapters/peft_folder.h"
#include "model/causal_lm.h"

namespace rankwise {

struct InferenceOptions {
  std::string adapter;  // PEFT folder; empty: the base alone
  bool quantize_nf4 = false;
  bool double_quant = true;  // of quantize_nf4
  Device device = {};
  DType compute = DType::kF32;
};

class InferenceModel {
 public:
  // FormatError when the adapter does not fit the base.
  InferenceModel(const ModelFiles& files, const InferenceOptions& options, const DeviceMesh& mesh);

  CausalLm& model() { return *model_; }
  Arena& arena() { return arena_; }
  Stream& stream() { return stream_; }

 private:
  Arena arena_;
  Stream stream_;
  std::unique_ptr<CausalLm> model_;
};

}  // namespace rankwise
