// SPDX-License-Identifier: Apache-2.0
// ModelPlan: what `launch` decided about a model: its adapters, what is trained, how it is held.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "model/adapters/adapter.h"
#include "runtime/dtype.h"

namespace rankwise {

// What the forward pass of a block keeps for backward: all that backward reads; without the
// normalised inputs and the gate and up projections, which backward computes again; or only the
// block's input, so that backward runs the whole block again.
enum class Recompute { kNone, kSelective, kFull };

// The model asks and obeys.
struct ModelPlan {
  // Adapter of a linear layer, or null. Unset: no adapters.
  std::function<std::unique_ptr<Adapter>(const LinearSite&)> make_adapter;
  // Whether a base tensor ("model.norm.weight") is trained in full. Unset: all frozen.
  std::function<bool(const std::string& name)> is_trained;
  // Whether a trained matrix of the blocks or the head is held in the compute type like frozen
  // ones: its optimizer must round updates stochastically (ProjectedOptimizer). Unset: all are F32.
  std::function<bool(const std::string& name)> stores_bf16;
  bool quantize_nf4 = false;  // every linear of the blocks that is not trained in full
  bool double_quant = true;
  bool shard_base = false;  // the quantised weights are split over the data ranks, too
  Recompute recompute = Recompute::kNone;
  DType compute = DType::kF32;      // of activations and frozen dense weights; BF16 on CUDA only
  bool deterministic = false;       // the same bits in every run, at some cost on CUDA
  int64_t logits_bytes = 32 << 20;  // memory of one chunk of the loss
  uint64_t seed = 42;               // adapter initialisation and dropout
};

}  // namespace rankwise
