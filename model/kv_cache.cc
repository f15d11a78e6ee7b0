// SPDX-License-Identifier: Apache-2.0
#include "model/kv_cache.h"

#include "kernels/elementwise.h"
#include "runtime/errors.h"

namespace rankwise {

KvCache::KvCache(const ModelConfig& config, int64_t heads, int64_t capacity, DType dtype,
                 Arena& arena)
    : capacity_(capacity) {
  const Shape shape{capacity, heads, config.head_dim};
  layers_.reserve(static_cast<size_t>(config.num_hidden_layers));
  for (int64_t i = 0; i < config.num_hidden_layers; ++i) {
    layers_.push_back(
        {arena.allocate("kv_cache", dtype, shape), arena.allocate("kv_cache", dtype, shape)});
  }
}

KvCache::KeysAndValues KvCache::append(int64_t layer, const Tensor& k, const Tensor& v,
                                       Stream& stream) {
  const int64_t end = tokens_ + k.dim(0);
  RW_ASSERT(end <= capacity_, "{} tokens, capacity {}", end, capacity_);
  const Layer& held = layers_.at(static_cast<size_t>(layer));
  copy(held.keys.rows(tokens_, end), k, stream);
  copy(held.values.rows(tokens_, end), v, stream);
  return {held.keys.rows(0, end), held.values.rows(0, end)};
}

void KvCache::advance(int64_t n) {
  RW_ASSERT(tokens_ + n <= capacity_, "{} + {} tokens, capacity {}", tokens_, n, capacity_);
  tokens_ += n;
}

}  // namespace rankwise
