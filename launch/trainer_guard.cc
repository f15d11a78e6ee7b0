// SPDX-License-Identifier: Apache-2.0
// What a Trainer does before an update: the guard's finding, agreed, with its source and its end.
#include <fmt/ranges.h>

#include <array>
#include <cmath>

#include "kernels/elementwise.h"
#include "launch/trainer.h"
#include "runtime/transfer.h"

namespace rankwise {

bool Trainer::may_update(int64_t step, std::span<const MicroBatch> batches, double norm,
                         bool compares_norm, StepMeasurement& result) {
  if (stream_->measuring()) return true;
  std::array<double, 3> sums{};
  download(sums.data(), sums_, *stream_);
  result.loss = sums[0] / sums[1];
  result.token_accuracy = sums[2] / sums[1];
  StepFinding finding = guard_.judge(result.loss, norm, compares_norm);
  if (Communicator& world = mesh_->world(); world.size() > 1) {
    const auto own = static_cast<double>(finding);
    const double most =
        all_reduce_numbers(world, {own}, ReduceOp::kMax, "findings of the guard")[0];
    finding = static_cast<StepFinding>(static_cast<int>(most));
  }
  if (finding == StepFinding::kNone) return true;
  result.finding = finding == StepFinding::kSpike
                       ? guard_.describe_spike(result.loss, norm, compares_norm)
                       : fmt::format("loss {} with gradient norm {}; {}", result.loss, norm,
                                     find_source(step, batches));
  const GuardAction action = guard_.action(finding);
  if (action == GuardAction::kWarn) return true;
  if (action == GuardAction::kSkip && !guard_.is_at_limit()) return false;
  const int64_t in_row = guard_.skipped_in_row();
  if (in_row > 0) result.finding += fmt::format(", after {} skipped steps in a row", in_row);
  throw Error(ExitCode::kDiverged, fmt::format("step {}: {}; weights are those of step {}",
                                               step + 1, result.finding, step - in_row));
}

std::string Trainer::find_source(int64_t step, std::span<const MicroBatch> batches) {
  for (Parameter* parameter : reducer_.parameters()) parameter->dense_gradient = {};
  micro_batches(step, batches, /*reduces=*/false);
  reducer_.end_without_reducing();
  std::vector<std::string> found;
  double loss = 0.0;
  download(&loss, sums_.rows(0, 1), *stream_);
  if (!std::isfinite(loss)) found.push_back("loss");
  for (const Parameter* parameter : reducer_.parameters()) {
    if (std::isfinite(norm_of({parameter->gradient}))) continue;
    found.push_back("gradient of " + parameter->name);
    break;
  }
  const auto texts = mesh_->world().gather_text(fmt::format("{}", fmt::join(found, ", ")),
                                                "findings of the guard");
  std::vector<std::string> sources;
  for (size_t rank = 0; rank < texts.size(); ++rank) {
    if (!texts[rank].empty()) sources.push_back(fmt::format("rank {} ({})", rank, texts[rank]));
  }
  if (sources.empty()) return "computed once more, they are finite on every rank";
  return fmt::format("not finite by itself: {}", fmt::join(sources, ", "));
}

double Trainer::norm_of(const std::vector<Tensor>& gradients) {
  fill(norm_sums_, 0.0f, *stream_);
  sum_of_squares(norm_sums_.rows(0, 1), gradients, *stream_);
  double squares = 0.0;
  download(&squares, norm_sums_.rows(0, 1), *stream_);
  return std::sqrt(squares);
}

}  // namespace rankwise
