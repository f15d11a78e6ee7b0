// SPDX-License-Identifier: Apache-2.0
// CausalLm: a decoder-only language model with hand-written backward and adapters.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "model/forward_context.h"
#include "model/model_config.h"
#include "model/model_plan.h"
#include "parallel/device_mesh.h"
#include "parallel/gradient_reducer.h"
#include "runtime/io/weight_source.h"

namespace rankwise {

class TransformerBlock;
class KvCache;

// Adapters sit on the linear layers of the blocks. A tied head shares the embedding's parameter,
// and their gradients meet there. The tensor ranks of the mesh share the model: they call
// everything below together, for the same tokens, and get the same results.
class CausalLm {
 public:
  // Reads this rank's part of the weights and, when asked, quantises it ("weights" in the arena),
  // makes adapters ("adapters"). FormatError names the missing or ill-shaped tensor, ConfigError a
  // tensor degree that the model cannot be split by. The mesh must outlive the model.
  CausalLm(const ModelConfig& config, const WeightSource& source, const ModelPlan& plan,
           const DeviceMesh& mesh, Arena& arena, Stream& stream);
  ~CausalLm();
  CausalLm(const CausalLm&) = delete;
  CausalLm& operator=(const CausalLm&) = delete;

  const ModelConfig& config() const { return config_; }
  const DeviceMesh& mesh() const;
  DType compute() const;            // type of activations
  int64_t key_value_heads() const;  // of this rank

  // Runs the blocks over a packed micro-batch. `step` counts optimizer steps, for dropout.
  ForwardContext forward(const MicroBatch& batch, bool training, uint64_t step, Stream& stream);
  // The two halves of forward: the inputs on the device, and the work, which depends on the host's
  // data only through the shapes (and, in `loss`, through which chunks hold no target).
  ForwardContext begin(const MicroBatch& batch, bool training, uint64_t step, Stream& stream);
  void run(ForwardContext& context);
  // Adds loss sum, target count and argmax hits to sums (3) F64; in training also leaves
  // context.dhidden (gradient of the SUM of token losses) and accumulates the head's gradient.
  // Works on chunks of tokens: the logits of a long batch never exist as a whole.
  void loss(ForwardContext& context, const Tensor& sums, Stream& stream);
  // Which chunks of the loss hold a target: the others are passed over.
  std::vector<bool> chunks_with_targets(const ForwardContext& context) const;
  // Accumulates all gradients; tells the reducer as each parameter is done.
  void backward(ForwardContext& context, GradientReducer& reducer, Stream& stream);
  // Logits (n, V) F32 of tokens [begin, end), in "activations".
  Tensor logits(ForwardContext& context, int64_t begin, int64_t end, Stream& stream);

  // Prefill or decode: appends `ids` to the cache, returns the logits (V) of the last one on the
  // host.
  std::vector<float> next_token_logits(std::span<const int32_t> ids, KvCache& cache,
                                       Stream& stream);

  std::vector<Parameter*> parameters();                      // everything, model order
  std::vector<Parameter*> trained_parameters();              // in the order backward finishes them
  std::vector<std::pair<std::string, Adapter*>> adapters();  // module path, adapter; model order
  // To be called when parameters of adapters got new values after a forward pass.
  void parameters_changed();

 private:
  struct State;
  ModelConfig config_;
  std::unique_ptr<State> state_;
};

}  // namespace rankwise
