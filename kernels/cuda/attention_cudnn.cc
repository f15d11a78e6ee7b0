// SPDX-License-Identifier: Apache-2.0
// Compiled only when cuDNN's headers are there; the library itself is loaded at the first call.
#include "kernels/cuda/attention_cudnn.h"

#include <cudnn_frontend.h>
#include <dlfcn.h>

#include <array>
#include <exception>
#include <initializer_list>
#include <map>
#include <memory>
#include <unordered_map>
#include <utility>

namespace cudnn_frontend {
void* cudnn_dlhandle = nullptr;  // where the frontend looks for every function of cuDNN
}

namespace rankwise::cuda {
namespace {

namespace fe = cudnn_frontend;
using GraphTensor = std::shared_ptr<fe::graph::Tensor_attributes>;
using Pack = std::unordered_map<int64_t, void*>;  // addresses by the numbers of tensors

constexpr int64_t kOldestVersion = 90600;  // packed documents with grouped heads
// Numbers of tensors, none of them 0.
constexpr int64_t kOperands = 1;
constexpr int64_t kOffsets = 100;
constexpr int64_t kQueryLengths = 200;
constexpr int64_t kKeyLengths = 201;

// Describes the operands of one plan to a graph.
class Operands {
 public:
  Operands(fe::graph::Graph& graph, const AttentionPlanKey& key) : graph_(graph), key_(key) {}

  GraphTensor input(AttentionOperand name) {
    auto tensor = graph_.tensor(fe::graph::Tensor_attributes());
    describe(tensor, name);
    return tensor;
  }
  void output(const GraphTensor& tensor, AttentionOperand name) {
    tensor->set_output(true);
    describe(tensor, name);
  }
  // I32, one per document.
  GraphTensor index(int64_t number, int64_t count) {
    return graph_.tensor(fe::graph::Tensor_attributes()
                             .set_uid(number)
                             .set_dim({count, 1, 1, 1})
                             .set_stride({1, 1, 1, 1})
                             .set_data_type(fe::DataType_t::INT32));
  }

 private:
  // (documents, heads, length, width). log_sum_exp has width 1; it is head by head in a dense batch
  // and token by token in a packed one.
  void describe(const GraphTensor& tensor, AttentionOperand name) {
    const int64_t heads = key_.heads_of(name);
    const int64_t width = name == kSumExp ? 1 : key_.dim;
    const bool head_by_head = name == kSumExp && !key_.ragged;
    const int64_t token_stride = head_by_head ? 1 : key_.strides[name];
    const int64_t head_stride = head_by_head ? key_.length : width;
    const int64_t document_stride = key_.strides[name] * key_.length;
    tensor->set_uid(kOperands + name)
        .set_dim({key_.batch, heads, key_.length, width})
        .set_stride({document_stride, head_stride, token_stride, 1})
        .set_data_type(name == kSumExp ? fe::DataType_t::FLOAT : fe::DataType_t::BFLOAT16);
    if (key_.ragged) tensor->set_ragged_offset(index(kOffsets + name, key_.batch + 1));
  }

  fe::graph::Graph& graph_;
  const AttentionPlanKey& key_;
};

// What both passes share: scale, the causal mask, the window and the lengths of documents.
template <class Attributes>
Attributes attributes_of(const AttentionPlanKey& key, Operands& operands) {
  Attributes out;
  out.set_name("attention").set_attn_scale(key.scale).set_causal_mask(true);
  // Both count key j of query i as visible iff i - j < window.
  if (key.window > 0) out.set_sliding_window_length(static_cast<int>(key.window));
  if (key.ragged) {
    out.set_padding_mask(true)
        .set_seq_len_q(operands.index(kQueryLengths, key.batch))
        .set_seq_len_kv(operands.index(kKeyLengths, key.batch));
  }
  return out;
}

std::shared_ptr<fe::graph::Graph> empty_graph() {
  auto graph = std::make_shared<fe::graph::Graph>();
  graph->set_io_data_type(fe::DataType_t::BFLOAT16)
      .set_intermediate_data_type(fe::DataType_t::FLOAT)
      .set_compute_data_type(fe::DataType_t::FLOAT);
  return graph;
}

std::shared_ptr<fe::graph::Graph> forward_graph(const AttentionPlanKey& key) {
  const auto graph = empty_graph();
  Operands operands(*graph, key);
  auto attributes = attributes_of<fe::graph::SDPA_attributes>(key, operands);
  attributes.set_generate_stats(key.stats);
  const GraphTensor q = operands.input(kQ);
  const GraphTensor k = operands.input(kK);
  const GraphTensor v = operands.input(kV);
  const auto [y, stats] = graph->sdpa(q, k, v, attributes);
  operands.output(y, kY);
  if (key.stats) operands.output(stats, kSumExp);
  return graph;
}

std::shared_ptr<fe::graph::Graph> backward_graph(const AttentionPlanKey& key) {
  const auto graph = empty_graph();
  Operands operands(*graph, key);
  auto attributes = attributes_of<fe::graph::SDPA_backward_attributes>(key, operands);
  attributes.set_deterministic_algorithm(key.deterministic);
  if (key.ragged) {
    attributes.set_max_total_seq_len_q(key.tokens).set_max_total_seq_len_kv(key.tokens);
  }
  const GraphTensor q = operands.input(kQ);
  const GraphTensor k = operands.input(kK);
  const GraphTensor v = operands.input(kV);
  const GraphTensor y = operands.input(kY);
  const GraphTensor dy = operands.input(kDy);
  const GraphTensor stats = operands.input(kSumExp);
  const auto [dq, dk, dv] = graph->sdpa_backward(q, k, v, y, dy, stats, attributes);
  operands.output(dq, kDq);
  operands.output(dk, kDk);
  operands.output(dv, kDv);
  return graph;
}

struct Plan {
  std::shared_ptr<fe::graph::Graph> graph;  // null: cuDNN refused
  size_t workspace_bytes = 0;
};

// Library, handle and plans of one stream.
class CudnnState {
 public:
  explicit CudnnState(Stream& stream) {
    static void* const library = fe::cudnn_dlhandle = dlopen("libcudnn.so.9", RTLD_NOW);
    if (library == nullptr) return;
    if (static_cast<int64_t>(fe::detail::get_backend_version()) < kOldestVersion) return;
    if (fe::detail::create_handle(&handle_) != CUDNN_STATUS_SUCCESS) {
      handle_ = nullptr;
      return;
    }
    fe::detail::set_stream(handle_, static_cast<cudaStream_t>(stream.native()));
  }
  ~CudnnState() {
    plans_.clear();
    if (handle_ != nullptr) fe::detail::destroy_handle(handle_);
  }
  CudnnState(const CudnnState&) = delete;
  CudnnState& operator=(const CudnnState&) = delete;

  Plan& plan(const AttentionPlanKey& key) {
    const auto [place, is_new] = plans_.try_emplace(key);
    if (is_new && handle_ != nullptr) place->second = build(key);
    return place->second;
  }

  // A plan that fails once is not tried again.
  bool run(Plan& plan, Pack& pack, void* workspace) {
    try {
      if (plan.graph->execute(handle_, pack, workspace).is_good()) return true;
    } catch (const std::exception&) {
    }
    plan.graph = nullptr;
    return false;
  }

 private:
  // The frontend reports by value or throws, and both mean that it has no plan.
  Plan build(const AttentionPlanKey& key) {
    try {
      const auto graph = key.backward ? backward_graph(key) : forward_graph(key);
      if (graph->build(handle_, {fe::HeurMode_t::A}).is_bad()) return {};
      int64_t bytes = 0;
      if (graph->get_workspace_size(bytes).is_bad()) return {};
      return {graph, static_cast<size_t>(bytes)};
    } catch (const std::exception&) {
      return {};
    }
  }

  cudnnHandle_t handle_ = nullptr;
  std::map<AttentionPlanKey, Plan> plans_;
};

size_t aligned(size_t bytes) { return (bytes + 255) / 256 * 256; }

// Memory of one pass: index rows of packed documents, contiguous k, v, dk and dv, and the workspace
// of the plan.
struct Scratch {
  Scratch(const AttentionPlanKey& key, int64_t tokens, size_t workspace_bytes, Stream& stream) {
    const auto pitch = static_cast<size_t>(ragged_row_pitch(key));
    const size_t row_bytes = key.ragged ? kRaggedRows * pitch * sizeof(int32_t) : 0;
    const size_t copy_bytes =
        has_contiguous_keys(key) ? aligned(static_cast<size_t>(tokens * key.kv_heads * key.dim * 2))
                                 : 0;
    auto* base = static_cast<std::byte*>(
        stream.scratch(aligned(row_bytes) + copies.size() * copy_bytes + workspace_bytes));
    rows = reinterpret_cast<int32_t*>(base);
    workspace = base + aligned(row_bytes);
    for (std::byte*& copy : copies) {
      copy = workspace;
      workspace += copy_bytes;
    }
  }

  int32_t* rows;
  std::array<std::byte*, 4> copies;  // k, v, dk, dv
  std::byte* workspace;
};

Tensor contiguous_like(const Tensor& x, void* memory) {
  return Tensor(memory, x.dtype(), x.shape(), x.device());
}

Pack pack_of(std::initializer_list<std::pair<AttentionOperand, void*>> operands) {
  Pack pack;
  for (const auto& [name, address] : operands) pack[kOperands + name] = address;
  return pack;
}

void add_ragged_rows(Pack& pack, int32_t* rows, const AttentionPlanKey& key,
                     const Tensor& query_offsets, Stream& stream) {
  if (!key.ragged) return;
  write_ragged_rows(rows, key, query_offsets, stream);
  pack[kQueryLengths] = rows;
  pack[kKeyLengths] = rows;
  for (int operand = 0; operand < kAttentionOperands; ++operand) {
    if (key.strides[operand] == 0) continue;  // not of this pass
    pack[kOffsets + operand] = rows + (operand + 1) * ragged_row_pitch(key);
  }
}

}  // namespace

bool cudnn_attention(const AttentionPlanKey& key, const Tensor& y, const Tensor& log_sum_exp,
                     const AttentionInputs& inputs, Stream& stream) {
  CudnnState& state = stream.state<CudnnState>();
  Plan& plan = state.plan(key);
  if (plan.graph == nullptr) return false;
  const Scratch scratch(key, inputs.q.dim(0), plan.workspace_bytes, stream);
  Pack pack =
      pack_of({{kQ, inputs.q.raw()}, {kK, inputs.k.raw()}, {kV, inputs.v.raw()}, {kY, y.raw()}});
  if (key.stats) pack[kOperands + kSumExp] = log_sum_exp.raw();
  add_ragged_rows(pack, scratch.rows, key, inputs.query_offsets, stream);
  return state.run(plan, pack, scratch.workspace);
}

bool cudnn_attention_backward(const AttentionPlanKey& key, const AttentionGradients& gradients,
                              const AttentionOutputs& outputs, const AttentionInputs& inputs,
                              Stream& stream) {
  CudnnState& state = stream.state<CudnnState>();
  const bool contiguous = has_contiguous_keys(key);
  AttentionPlanKey inner = key;
  if (contiguous) {
    for (const auto operand : {kK, kV, kDk, kDv}) inner.strides[operand] = key.kv_heads * key.dim;
  }
  Plan& plan = state.plan(inner);
  if (plan.graph == nullptr) return false;
  const Scratch scratch(key, inputs.q.dim(0), plan.workspace_bytes, stream);
  Pack pack = pack_of({{kQ, inputs.q.raw()},
                       {kK, inputs.k.raw()},
                       {kV, inputs.v.raw()},
                       {kY, outputs.y.raw()},
                       {kSumExp, outputs.log_sum_exp.raw()},
                       {kDy, outputs.dy.raw()},
                       {kDq, gradients.dq.raw()},
                       {kDk, gradients.dk.raw()},
                       {kDv, gradients.dv.raw()}});
  const auto& [k, v, dk, dv] = scratch.copies;
  if (contiguous) {
    pack.insert_or_assign(kOperands + kK, k);
    pack.insert_or_assign(kOperands + kV, v);
    pack.insert_or_assign(kOperands + kDk, dk);
    pack.insert_or_assign(kOperands + kDv, dv);
    copy_rows(contiguous_like(inputs.k, k), inputs.k, stream);
    copy_rows(contiguous_like(inputs.v, v), inputs.v, stream);
  }
  add_ragged_rows(pack, scratch.rows, inner, inputs.query_offsets, stream);
  if (!state.run(plan, pack, scratch.workspace)) return false;
  if (contiguous) {
    copy_rows(gradients.dk, contiguous_like(gradients.dk, dk), stream);
    copy_rows(gradients.dv, contiguous_like(gradients.dv, dv), stream);
  }
  return true;
}

}  // namespace rankwise::cuda
