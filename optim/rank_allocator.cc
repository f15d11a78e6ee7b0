// SPDX-License-Identifier: Apache-2.0
#include "optim/rank_allocator.h"

#include <fmt/ranges.h>

#include <array>
#include <numeric>

#include "kernels/fingerprint.h"
#include "runtime/transfer.h"

namespace rankwise {

RankAllocator::RankAllocator(std::vector<RankedMatrix> matrices, const RankSchedule& schedule,
                             const DeviceMesh& mesh, Arena& arena, Stream& stream)
    : matrices_(std::move(matrices)), schedule_(schedule), mesh_(&mesh) {
  int64_t triplets = 0;
  for (const RankedMatrix& matrix : matrices_) {
    RW_ASSERT(matrix.e.numel() == matrix.importance.rank(), "{}: e {}, rank {}", matrix.name,
              to_string(matrix.e.shape()), matrix.importance.rank());
    importance_.push_back(matrix.importance);
    singular_values_.push_back(matrix.e);
    first_.push_back(triplets);
    triplets += matrix.e.numel();
  }
  first_.push_back(triplets);
  RW_ASSERT(triplets == schedule_.initial_budget(), "{} triplets, schedule for {}", triplets,
            schedule_.initial_budget());
  scores_ = arena.allocate("optimizer", DType::kF32, {triplets});
  kept_ = arena.allocate("optimizer", DType::kU8, {triplets});
  hashes_ = arena.allocate("optimizer", DType::kI64, {2});
  all_hashes_ = arena.allocate("optimizer", DType::kI64, {mesh.world().size(), 2});
  const std::vector<uint8_t> all(static_cast<size_t>(triplets), 1);
  upload(kept_, all.data(), stream);
}

void RankAllocator::step(int64_t step, Stream& stream) {
  check_agreement(stream);
  bool is_due = stream.measuring();  // which learns what the dearest step needs
  for (int64_t at = steps_; at <= step; ++at) is_due = is_due || schedule_.decides(at);
  steps_ = step + 1;
  masked_ = is_due || schedule_.masks(step);
  if (is_due) decide(stream);
  if (masked_) zero_dropped(singular_values_, kept_, stream);
}

void RankAllocator::decide(Stream& stream) {
  Communicator& world = mesh_->world();
  triplet_scores(scores_, importance_, stream);
  if (world.rank() == 0) keep_highest(kept_, scores_, budget(), stream);
  if (world.size() == 1) return;
  world.broadcast(kept_, 0, "AdaLoRA's choice of triplets", stream);
  fingerprint(hashes_, std::array{scores_, kept_}, stream);
  world.all_gather(all_hashes_, hashes_, "hashes of AdaLoRA's scores", stream);
  unchecked_ = !stream.measuring();
}

void RankAllocator::check_agreement(Stream& stream) {
  if (!unchecked_) return;
  unchecked_ = false;
  std::vector<int64_t> hashes(static_cast<size_t>(all_hashes_.numel()));
  download(hashes.data(), all_hashes_, stream);
  std::vector<std::string> differing;
  for (size_t rank = 1; 2 * rank < hashes.size(); ++rank) {
    if (hashes[2 * rank] != hashes[0]) {
      differing.push_back(fmt::format("the scores of rank {}", rank));
    } else if (hashes[2 * rank + 1] != hashes[1]) {
      differing.push_back(fmt::format("the choice that rank {} received", rank));
    }
  }
  if (differing.empty()) return;
  throw CommunicationError(
      fmt::format("AdaLoRA's choice of triplets in step {}: {} differ from those of rank 0; all "
                  "ranks must hold the same adapters and reduced gradients, bit by bit",
                  steps_ - 1, fmt::join(differing, ", ")));
}

int64_t RankAllocator::budget() const {
  return steps_ == 0 ? schedule_.initial_budget() : schedule_.budget(steps_ - 1);
}

int64_t RankAllocator::active() const { return masked_ ? budget() : schedule_.initial_budget(); }

Tensor RankAllocator::kept_of(size_t matrix) const {
  return kept_.rows(first_[matrix], first_[matrix + 1]);
}

std::vector<int64_t> RankAllocator::ranks(Stream& stream) const {
  std::vector<uint8_t> kept(static_cast<size_t>(kept_.numel()));
  download(kept.data(), kept_, stream);
  std::vector<int64_t> ranks;
  for (size_t m = 0; m < matrices_.size(); ++m) {
    ranks.push_back(
        std::accumulate(kept.begin() + first_[m], kept.begin() + first_[m + 1], int64_t{0}));
  }
  return ranks;
}

}  // namespace rankwise
