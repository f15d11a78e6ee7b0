// SPDX-License-Identifier: Apache-2.0
// KvCache: rotated keys and values of one growing document, for every layer.
#pragma once

#include <cstdint>
#include <vector>

#include "model/model_config.h"
#include "runtime/arena.h"
#include "runtime/stream.h"

namespace rankwise {

class KvCache {
 public:
  struct KeysAndValues {
    Tensor keys, values;  // (tokens, G, D)
  };

  // Memory for `capacity` tokens of `heads` heads (this rank's) in the compute type, from the arena
  // purpose "kv_cache"; the caller opens the scope.
  KvCache(const ModelConfig& config, int64_t heads, int64_t capacity, DType dtype, Arena& arena);

  int64_t tokens() const { return tokens_; }  // complete in every layer
  int64_t capacity() const { return capacity_; }

  // Puts k, v (n, G, D) behind the complete tokens of a layer; returns all of that layer.
  KeysAndValues append(int64_t layer, const Tensor& k, const Tensor& v, Stream& stream);
  // To be called once every layer has appended its n tokens.
  void advance(int64_t n);

 private:
  struct Layer {
    Tensor keys, values;  // (capacity, G, D)
  };
  std::vector<Layer> layers_;
  int64_t capacity_;
  int64_t tokens_ = 0;
};

}  // namespace rankwise
