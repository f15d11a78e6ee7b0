// SPDX-License-Identifier: Apache-2.0
#include "launch/replica_check.h"

#include <fmt/ranges.h>

#include <algorithm>

#include "kernels/fingerprint.h"
#include "runtime/transfer.h"

namespace rankwise {
namespace {

std::string ranks_text(const std::vector<size_t>& ranks) {
  return fmt::format("{} {}", ranks.size() == 1 ? "rank" : "ranks", fmt::join(ranks, ", "));
}

// Of ranks that should hold the same, `hash` of each; empty when they do.
std::string describe_difference(const std::vector<size_t>& ranks,
                                const std::vector<int64_t>& hash) {
  const auto copies = [&](int64_t value) { return std::ranges::count(hash, value); };
  const int64_t usual = *std::ranges::max_element(hash, {}, copies);
  std::vector<size_t> others;
  for (size_t i = 0; i < ranks.size(); ++i) {
    if (hash[i] != usual) others.push_back(ranks[i]);
  }
  if (others.empty()) return {};
  if (2 * others.size() >= ranks.size()) return ranks_text(ranks) + " hold different bits";
  return fmt::format("{} {} other bits than the other {}", ranks_text(others),
                     others.size() == 1 ? "holds" : "hold", ranks.size() - others.size());
}

}  // namespace

std::optional<std::string> find_difference(std::span<const int64_t> hashes,
                                           std::span<const std::string> names,
                                           const std::vector<bool>& is_split, int tensor_ranks) {
  const size_t tensors = names.size();
  const size_t all = hashes.size() / tensors;
  std::string first;
  size_t differing = 0;
  for (size_t i = 0; i < tensors; ++i) {
    const size_t stride = is_split[i] ? static_cast<size_t>(tensor_ranks) : 1;
    std::string found;
    for (size_t place = 0; place < stride && found.empty(); ++place) {
      std::vector<size_t> ranks;
      std::vector<int64_t> hash;
      for (size_t rank = place; rank < all; rank += stride) {
        ranks.push_back(rank);
        hash.push_back(hashes[rank * tensors + i]);
      }
      found = describe_difference(ranks, hash);
    }
    if (found.empty()) continue;
    if (++differing == 1) first = fmt::format("{} of '{}'", found, names[i]);
  }
  if (differing == 0) return std::nullopt;
  if (differing > 1) first += fmt::format(" (the first of {} tensors)", differing);
  return first;
}

ReplicaCheck::ReplicaCheck(const std::vector<LocalTensor>& tensors, bool over_data_only,
                           const DeviceMesh& mesh, Device device)
    : mesh_(&mesh), arena_(device) {
  for (const LocalTensor& tensor : tensors) {
    names_.push_back(tensor.name);
    values_.push_back(tensor.value);
    is_split_.push_back(over_data_only || tensor.spec.kind == ShardSpec::Kind::kSharded);
  }
  hashes_ = arena_.allocate("hashes", DType::kI64, {static_cast<int64_t>(names_.size())});
}

void ReplicaCheck::check(int64_t step, Stream& stream) {
  Communicator& world = mesh_->world();
  fingerprint(hashes_, values_, stream);
  std::vector<int64_t> own(names_.size());
  download(own.data(), hashes_, stream);
  const auto tensors = static_cast<int64_t>(own.size());
  std::vector<int64_t> all(own.size() * static_cast<size_t>(world.size()));
  Stream host;
  world.all_gather(Tensor(all.data(), DType::kI64, {world.size(), tensors}),
                   Tensor(own.data(), DType::kI64, {tensors}), "hashes of the replicas", host);
  const auto difference = find_difference(all, names_, is_split_, mesh_->tensor().size());
  if (!difference) return;
  throw CommunicationError(
      fmt::format("after step {} the replicas differ: {}; memory or a computation failed there, "
                  "and checkpoints are from before",
                  step, *difference));
}

}  // namespace rankwise
