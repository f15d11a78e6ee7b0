// SPDX-License-Identifier: Apache-2.0
// ForwardContext: what one forward pass leaves for backward, and where its memory comes from.
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "runtime/arena.h"
#include "runtime/data/micro_batch.h"
#include "runtime/stream.h"

namespace rankwise {

class Communicator;
struct ModelPlan;
struct BlockSaved;  // typed slots of one transformer block, model/transformer_block.h
class KvCache;
enum class Recompute;

// Matrices of T rows that are made or multiplied together. On CUDA they are neighbouring columns of
// one matrix, so that one product can do the work of several; on the CPU each stands alone.
struct Columns {
  std::vector<Tensor> parts;  // (T, width), in the order asked for
  Tensor tail;  // (T, tail): columns right behind the last part; undefined on the CPU, or when 0
};

// What backward needs comes from the arena purpose "activations"; the caller opens the scope that
// frees it. What only one operation needs comes from "workspace", in a scope that the operation
// opens. Backward consumes the context: it overwrites saved tensors where that spares memory.
// Movable; tensors inside are views into those scopes.
struct ForwardContext {
  ForwardContext(Arena& arena, Stream& stream, Communicator& tensor_ranks, const ModelPlan& plan,
                 bool training, uint64_t step);
  ForwardContext(ForwardContext&&) noexcept;
  ForwardContext& operator=(ForwardContext&&) noexcept;
  ~ForwardContext();

  Tensor allocate(DType dtype, const Shape& shape) {
    return arena->allocate("activations", dtype, shape);
  }

  Tensor allocate_workspace(DType dtype, const Shape& shape) {
    return arena->allocate("workspace", dtype, shape);
  }

  // Of the compute type; "activations" when kept, else "workspace". Rows begin on whole memory
  // transactions.
  Columns allocate_columns(bool kept, std::span<const int64_t> widths, int64_t tail);

  Arena* arena;
  Stream* stream;
  Communicator* tensor_ranks;  // they share every matrix and see the same tokens
  bool training;               // keep what backward needs; dropout is on
  uint64_t seed;  // of dropout, with the step and the index of the first token in the global batch
  uint64_t step;
  DType compute;  // of activations
  Recompute recompute;
  bool deterministic;

  int64_t first_token = 0;  // index of token 0 in the global batch of the step
  int64_t tokens = 0;
  Tensor ids;      // (T) I32
  Tensor targets;  // (T) I32
  std::vector<int32_t> host_targets;
  Tensor document_offsets;  // (D + 1) I32
  int64_t longest_document = 0;
  // Keys differ from queries only when decoding: then blocks append theirs to the cache and attend
  // to all that it holds.
  KvCache* cache = nullptr;
  Tensor key_offsets;  // (D + 1) I32
  int64_t longest_key = 0;
  Tensor positions;           // (T) I32
  Tensor rope_cos, rope_sin;  // (T, D/2)
  std::vector<std::unique_ptr<BlockSaved>> blocks;
  Tensor final_input;    // (T, C) output of the last block
  Tensor final_inv_rms;  // (T)
  Tensor hidden;         // (T, C) after the final norm
  Tensor dhidden;        // (T, C) left by CausalLm::loss in training
};

}  // namespace rankwise
