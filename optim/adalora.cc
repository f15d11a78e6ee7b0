// SPDX-License-Identifier: Apache-2.0
#include "optim/adalora.h"

#include "kernels/elementwise.h"
#include "runtime/transfer.h"

namespace rankwise {
namespace {

std::vector<RankedMatrix> ranked(const std::vector<SingularTriplets>& triplets,
                                 const AdamWOptimizer& optimizer) {
  std::vector<RankedMatrix> matrices;
  for (const auto& [name, a, e, b] : triplets) {
    matrices.push_back({name,
                        e->dense(),
                        {.a = optimizer.importance_of(*a),
                         .e = optimizer.importance_of(*e),
                         .b = optimizer.importance_of(*b)}});
  }
  return matrices;
}

std::vector<OrthogonalityTerm> orthogonality_terms(const std::vector<SingularTriplets>& triplets) {
  std::vector<OrthogonalityTerm> terms;
  for (const SingularTriplets& matrix : triplets) {
    terms.push_back({matrix.a->dense(), matrix.a->gradient, /*columns=*/false});
    terms.push_back({matrix.b->dense(), matrix.b->gradient, /*columns=*/true});
  }
  return terms;
}

}  // namespace

AdaLora::AdaLora(const std::vector<SingularTriplets>& triplets, const AdaLoraTraining& training,
                 int64_t total_steps, AdamWOptimizer& optimizer, const DeviceMesh& mesh,
                 Arena& arena, Stream& stream)
    : optimizer_(&optimizer),
      allocator_(
          ranked(triplets, optimizer),
          RankSchedule(training.schedule, static_cast<int64_t>(triplets.size()), total_steps), mesh,
          arena, stream),
      terms_(orthogonality_terms(triplets)),
      weight_(training.orth_weight / static_cast<double>(terms_.size())),
      sum_(arena.allocate("optimizer", DType::kF64, {1})) {}

void AdaLora::add_regulariser(Stream& stream) {
  fill(sum_, 0.0f, stream);
  orthogonality(sum_, terms_, static_cast<float>(weight_), stream);
}

double AdaLora::regulariser(Stream& stream) {
  double sum = 0.0;
  if (!stream.measuring()) download(&sum, sum_, stream);
  allocator_.check_agreement(stream);
  return weight_ * sum;
}

std::map<std::string, std::vector<bool>> AdaLora::kept(Stream& stream) const {
  std::map<std::string, std::vector<bool>> kept;
  for (size_t m = 0; m < allocator_.matrices().size(); ++m) {
    const Tensor mask = allocator_.kept_of(m);
    std::vector<uint8_t> bytes(static_cast<size_t>(mask.numel()));
    download(bytes.data(), mask, stream);
    kept[allocator_.matrices()[m].name].assign(bytes.begin(), bytes.end());
  }
  return kept;
}

}  // namespace rankwise
