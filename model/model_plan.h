// SPDX-License-Identifier: Apache-2.0
// ModelPlan: what `launch` decided about a model: its adapters, what is trained, how it is held.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "model/adapters/adapter.h"

namespace rankwise {

enum class Recompute { kNone, kFull };

// The model asks and obeys.
struct ModelPlan {
  // Adapter of a linear layer, or null. Unset: no adapters.
  std::function<std::unique_ptr<Adapter>(const LinearSite&)> make_adapter;
  // Whether a base tensor ("model.norm.weight") is trained in full. Unset: all frozen.
  std::function<bool(const std::string& name)> is_trained;
  bool quantize_nf4 = false;  // every linear of the blocks that is not trained in full
  bool double_quant = true;
  Recompute recompute = Recompute::kNone;
  uint64_t seed = 42;  // adapter initialisation and dropout
};

}  // namespace rankwise
