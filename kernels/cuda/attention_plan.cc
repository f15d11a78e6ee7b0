// SPDX-License-Identifier: Apache-2.0
#include "kernels/cuda/attention_plan.h"

#include <algorithm>
#include <bit>
#include <initializer_list>
#include <limits>

#include "kernels/cuda/attention.h"

namespace rankwise::cuda {
namespace {

constexpr int64_t kTile = 128;  // cuDNN's tile of queries and of keys, or a multiple of it
constexpr int64_t kLargestDim = 128;
constexpr int64_t kMiB = int64_t{1} << 20;
// The deterministic backward pass of cuDNN stores a matrix of scores per document and head.
constexpr int64_t kDeterministicLimit = 4096 * kMiB;

int64_t round_up(int64_t x, int64_t step) { return (x + step - 1) / step * step; }

// Four steps per power of two: at most a quarter too much.
int64_t bucket(int64_t x, int64_t smallest) {
  const auto power = static_cast<int64_t>(std::bit_floor(static_cast<uint64_t>(x)));
  return round_up(x, std::max(smallest, power / 4));
}

struct Operand {
  AttentionOperand name;
  const Tensor& tensor;
};

bool is_accessible(const Tensor& x) {
  return x.dtype() == DType::kBF16 && x.row_stride() % 8 == 0 &&
         reinterpret_cast<uintptr_t>(x.raw()) % 16 == 0 &&
         x.dim(0) * x.row_stride() <= std::numeric_limits<int32_t>::max();
}

bool add_strides(AttentionPlanKey& key, std::initializer_list<Operand> operands) {
  for (const Operand& operand : operands) {
    if (!is_accessible(operand.tensor)) return false;
    key.strides[operand.name] = operand.tensor.row_stride();
  }
  return true;
}

std::optional<AttentionPlanKey> key_of_inputs(const AttentionInputs& in) {
  const int64_t documents = in.query_offsets.numel() - 1;
  const int64_t tokens = in.q.dim(0);
  // As many queries as keys: so it is in each document, since none has more queries than keys.
  const int64_t dim = in.q.dim(2);
  if (tokens == 0 || tokens != in.k.dim(0)) return std::nullopt;
  if (dim % 16 != 0 || dim > kLargestDim) return std::nullopt;
  AttentionPlanKey key;
  key.heads = in.q.dim(1);
  key.kv_heads = in.k.dim(1);
  key.dim = dim;
  key.scale = in.params.scale;
  key.window = in.params.window < in.params.longest_query ? in.params.window : 0;
  key.length = log_sum_exp_length(in);
  key.batch = documents;
  key.ragged = key.length == 0;
  if (key.ragged) {
    key.batch = static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(documents)));
    key.length = bucket(in.params.longest_query, kTile);
    key.tokens = bucket(tokens, 8 * kTile);
  }
  if (!add_strides(key, {{kQ, in.q}, {kK, in.k}, {kV, in.v}})) return std::nullopt;
  return key;
}

int64_t score_bytes(const AttentionPlanKey& key) {
  return key.batch * key.heads * key.length * round_up(key.length, kTile) * 2;
}

}  // namespace

int64_t log_sum_exp_length(const AttentionInputs& in) {
  const int64_t length = in.params.longest_query;
  const bool uniform = (in.query_offsets.numel() - 1) * length == in.q.dim(0);
  return uniform && in.q.dim(0) == in.k.dim(0) && length % kTile == 0 ? length : 0;
}

std::optional<AttentionPlanKey> attention_plan_key(const Tensor& y, const Tensor& log_sum_exp,
                                                   const AttentionInputs& inputs) {
  std::optional<AttentionPlanKey> key = key_of_inputs(inputs);
  if (!key || !add_strides(*key, {{kY, y}})) return std::nullopt;
  key->stats = log_sum_exp.defined();
  if (key->stats) key->strides[kSumExp] = key->heads;
  return key;
}

std::optional<AttentionPlanKey> attention_plan_key(const AttentionGradients& gradients,
                                                   const AttentionOutputs& outputs,
                                                   const AttentionInputs& inputs) {
  std::optional<AttentionPlanKey> key = key_of_inputs(inputs);
  if (!key || !add_strides(*key, {{kY, outputs.y},
                                  {kDy, outputs.dy},
                                  {kDq, gradients.dq},
                                  {kDk, gradients.dk},
                                  {kDv, gradients.dv}})) {
    return std::nullopt;
  }
  // cuDNN finds the rows of a gradient by the offsets of its tensor.
  const auto differ = [&](AttentionOperand a, AttentionOperand b) {
    return key->strides[a] != key->strides[b];
  };
  if (key->ragged && (differ(kDq, kQ) || differ(kDk, kK) || differ(kDv, kV) || differ(kDy, kY))) {
    return std::nullopt;
  }
  key->backward = true;
  key->stats = true;
  key->strides[kSumExp] = key->heads;
  key->deterministic = inputs.params.deterministic;
  if (key->deterministic && score_bytes(*key) > kDeterministicLimit) return std::nullopt;
  return key;
}

bool has_contiguous_keys(const AttentionPlanKey& key) {
  const int64_t width = key.kv_heads * key.dim;
  return key.backward && key.ragged && key.kv_heads < key.heads &&
         (key.strides[kDk] > width || key.strides[kDv] > width);
}

int64_t ragged_row_pitch(const AttentionPlanKey& key) { return round_up(key.batch + 1, 64); }

// On Hopper: dq is summed in fp32, in the layout of dq; with grouped heads dk and dv are stored
// once per query head before they are summed; the deterministic algorithm stores scores instead of
// sums of dq.
size_t attention_plan_scratch(const AttentionPlanKey& key) {
  int64_t bytes = kMiB;
  if (key.ragged) bytes += kRaggedRows * ragged_row_pitch(key) * 4;
  if (!key.backward) return static_cast<size_t>(bytes);
  const int64_t tokens = key.ragged ? key.tokens : key.batch * key.length;
  const int64_t width = key.heads * key.dim;
  bytes += tokens * key.heads * 4;
  bytes +=
      key.deterministic ? score_bytes(key) : tokens * (key.ragged ? key.strides[kDq] : width) * 4;
  if (key.kv_heads < key.heads) bytes += 2 * tokens * width * (key.ragged ? 4 : 2);
  if (has_contiguous_keys(key)) bytes += 4 * tokens * key.kv_heads * key.dim * 2;
  return static_cast<size_t>(bytes);
}

}  // namespace rankwise::cuda
