// SPDX-License-Identifier: Apache-2.0
#include <algorithm>

#include "kernels/cuda/attention.h"
#include "kernels/cuda/attention_cudnn.h"
#include "kernels/cuda/launch.cuh"

namespace rankwise::cuda {
namespace {

struct LastBackend {
  explicit LastBackend(Stream&) {}
  const char* name = "";
};

void check_longest(const AttentionInputs& in) {
  RW_ASSERT(in.params.longest_query > 0 || in.q.dim(0) == 0, "attention: longest_query is 0");
  RW_ASSERT(in.params.longest_key > 0 || in.k.dim(0) == 0, "attention: longest_key is 0");
}

}  // namespace

const char* attention_backend(Stream& stream) { return stream.state<LastBackend>().name; }

void attention(const Tensor& y, const Tensor& log_sum_exp, const AttentionInputs& inputs,
               Stream& stream) {
  check_longest(inputs);
  const char*& backend = stream.state<LastBackend>().name;
  if constexpr (kHasCudnn) {
    if (const auto key = attention_plan_key(y, log_sum_exp, inputs)) {
      if (stream.measuring()) {
        stream.scratch(attention_plan_scratch(*key));
        return;
      }
      backend = "cudnn";
      if (cudnn_attention(*key, y, log_sum_exp, inputs, stream)) return;
    }
  }
  if (stream.measuring()) return;
  backend = "tiled";
  tiled_attention(y, log_sum_exp, inputs, stream);
}

void attention_backward(const AttentionGradients& gradients, const AttentionOutputs& outputs,
                        const AttentionInputs& inputs, Stream& stream) {
  check_longest(inputs);
  const char*& backend = stream.state<LastBackend>().name;
  size_t cudnn_scratch = 0;
  if constexpr (kHasCudnn) {
    if (const auto key = attention_plan_key(gradients, outputs, inputs)) {
      cudnn_scratch = attention_plan_scratch(*key);
      backend = "cudnn";
      if (!stream.measuring() &&
          cudnn_attention_backward(*key, gradients, outputs, inputs, stream)) {
        return;
      }
    }
  }
  if (stream.measuring()) {
    stream.scratch(std::max(cudnn_scratch, tiled_attention_scratch(inputs)));
    return;
  }
  backend = "tiled";
  tiled_attention_backward(gradients, outputs, inputs, stream);
}

}  // namespace rankwise::cuda
