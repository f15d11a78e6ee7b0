// SPDX-License-Identifier: Apache-2.0
// BlockSites: the linear layers of one transformer block and how the tensor ranks share them.
#pragma once

#include <cstdint>
#include <string>

#include "model/adapters/adapter.h"
#include "model/families/family.h"

namespace rankwise {

// q, k, v, gate and up are split by rows (outputs), o and down by columns (inputs), so that a
// tensor rank needs nothing from its peers between a pair of them. A key or value head is on all
// ranks that hold queries for it.
struct BlockSites {
  LinearSite q, k, v, o, gate, up, down;
  std::string input_norm, mlp_norm;  // tensor names
};

// ConfigError naming parallel.tensor unless whole query heads go to every rank, and whole key/value
// heads, each to one rank or to a number of them that is the same for all.
void check_tensor_size(const ModelConfig& config, int tensor_size);

BlockSites block_sites(const ModelConfig& config, const WeightNames& names, int64_t block,
                       int tensor_rank, int tensor_size);

}  // namespace rankwise
