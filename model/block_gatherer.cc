// SPDX-License-Identifier: Apache-2.0
#include "model/block_gatherer.h"

#include <algorithm>

#include "kernels/elementwise.h"

namespace rankwise {
namespace {

int64_t aligned(int64_t bytes) {
  return (bytes + Arena::kAlignment - 1) / Arena::kAlignment * Arena::kAlignment;
}

Tensor as_bytes(const Tensor& x) { return {x.raw(), DType::kU8, {x.bytes()}, x.device()}; }

}  // namespace

BlockGatherer::BlockGatherer(Communicator& data_ranks, Arena& arena, Stream& stream)
    : data_ranks_(&data_ranks), arena_(&arena), stream_(&stream) {}

void BlockGatherer::adopt(const std::vector<Linear*>& linears) {
  Block block;
  int64_t end = 0;
  for (Linear* linear : linears) {
    auto* weight = std::get_if<QuantizedTensor>(&linear->weight().weight);
    if (weight == nullptr) continue;
    for (Tensor* tensor :
         {&weight->codes, &weight->absmax, &weight->nested_absmax, &weight->nested_map}) {
      if (!tensor->defined()) continue;
      block.parts.push_back({tensor, end});
      end = aligned(end + tensor->bytes());
    }
  }
  const int64_t bytes = aligned((end + data_ranks_->size() - 1) / data_ranks_->size());
  block.share = arena_->allocate("weights", DType::kU8, {bytes});
  const int64_t first = data_ranks_->rank() * bytes;
  for (const Part& part : block.parts) {
    const int64_t from = std::max(part.begin, first);
    const int64_t to = std::min(part.begin + part.tensor->bytes(), first + bytes);
    if (from >= to) continue;
    copy(block.share.rows(from - first, to - first),
         as_bytes(*part.tensor).rows(from - part.begin, to - part.begin), *stream_);
  }
  blocks_.push_back(std::move(block));
}

void BlockGatherer::finish() {
  int64_t largest = 0;
  for (const Block& block : blocks_) {
    largest = std::max(largest, block.share.bytes() * data_ranks_->size());
  }
  for (Tensor& half : halves_) half = arena_->allocate("gathered weights", DType::kU8, {largest});
  for (size_t i = 0; i < blocks_.size(); ++i) {
    for (const Part& part : blocks_[i].parts) {
      Tensor& tensor = *part.tensor;
      const Tensor bytes = halves_[i % 2].rows(part.begin, part.begin + tensor.bytes());
      tensor = Tensor(bytes.raw(), tensor.dtype(), tensor.shape(), tensor.device());
    }
  }
}

void BlockGatherer::use(size_t block, std::optional<size_t> next) {
  fetch(block);
  auto& pending = pending_[block % 2];
  if (pending) {
    pending->wait();
    pending.reset();
  }
  if (next) fetch(*next);
}

void BlockGatherer::fetch(size_t block) {
  const size_t half = block % 2;
  if (held_[half] == block) return;
  RW_ASSERT(pending_[half] == nullptr, "block {} on its way", *held_[half]);
  const Tensor& share = blocks_.at(block).share;
  const int64_t ranks = data_ranks_->size();
  const Tensor whole =
      halves_[half].rows(0, share.bytes() * ranks).reshaped({ranks, share.bytes()});
  pending_[half] = data_ranks_->start_all_gather(
      whole, share, fmt::format("weights of block {}", block), *stream_);
  held_[half] = block;
}

}  // namespace rankwise
