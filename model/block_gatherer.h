// SPDX-License-Identifier: Apache-2.0
// BlockGatherer: the frozen 4-bit weights of the blocks, split over the data ranks and gathered
// block by block, each while the block before it computes.
#pragma once

#include <array>
#include <memory>
#include <optional>
#include <vector>

#include "model/linear.h"
#include "parallel/communicator.h"

namespace rankwise {

// Between uses a rank holds its share of every block's bytes, and two whole blocks: block i lives
// in half i % 2 of "gathered weights", so its weights always have the same address.
class BlockGatherer {
 public:
  BlockGatherer(Communicator& data_ranks, Arena& arena, Stream& stream);

  // Of the next block, in model order: keeps this rank's share of the quantised weights, in
  // "weights". They need memory of their own until then; afterwards they have no values before
  // finish() and use().
  void adopt(const std::vector<Linear*>& linears);
  // After the last block.
  void finish();
  // Work that is put into the stream from now on finds the weights of `block`; those of `next`, a
  // neighbour, are fetched meanwhile.
  void use(size_t block, std::optional<size_t> next);

 private:
  // A tensor of a weight and where its bytes lie in the whole block.
  struct Part {
    Tensor* tensor;
    int64_t begin;
  };
  struct Block {
    std::vector<Part> parts;
    Tensor share;  // U8, of size share_bytes
  };
  void fetch(size_t block);

  Communicator* data_ranks_;
  Arena* arena_;
  Stream* stream_;
  std::vector<Block> blocks_;
  std::array<Tensor, 2> halves_;
  std::array<std::optional<size_t>, 2> held_;  // or on its way
  std::array<std::unique_ptr<PendingCollective>, 2> pending_;
};

}  // namespace rankwise
