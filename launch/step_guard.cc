// SPDX-License-Identifier: Apache-2.0
#include "launch/step_guard.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "runtime/errors.h"

namespace rankwise {

SpikeWindow::Level SpikeWindow::level() const {
  const auto count = static_cast<double>(values_.size());
  double sum = 0.0, squares = 0.0;
  for (const double value : values_) sum += value;
  const double mean = sum / count;
  for (const double value : values_) squares += (value - mean) * (value - mean);
  return {mean, std::max(std::sqrt(squares / count), 0.01 * std::abs(mean))};
}

double SpikeWindow::sigmas(double value) const {
  if (values_.size() < kLeast) return 0.0;
  const auto [mean, deviation] = level();
  return deviation > 0.0 ? (value - mean) / deviation : 0.0;
}

void SpikeWindow::push(double value, double most) {
  if (most > 0.0 && sigmas(value) > most) {
    const auto [mean, deviation] = level();
    value = mean + most * deviation;
  }
  if (values_.size() >= kMost) values_.erase(values_.begin());
  values_.push_back(value);
}

StepFinding StepGuard::judge(double loss, double norm, bool compares_norm) const {
  if (!std::isfinite(loss) || !std::isfinite(norm)) return StepFinding::kNotFinite;
  const double most = section_.spike_sigma;
  const bool spikes = losses_.sigmas(loss) > most || (compares_norm && norms_.sigmas(norm) > most);
  return most > 0.0 && spikes ? StepFinding::kSpike : StepFinding::kNone;
}

std::string StepGuard::describe_spike(double loss, double norm, bool compares_norm) const {
  const double of_loss = losses_.sigmas(loss);
  const double of_norm = compares_norm ? norms_.sigmas(norm) : 0.0;
  const bool is_loss = of_loss >= of_norm;
  return fmt::format("{} {:.5g} is {:.1f} standard deviations above the mean of the last {} steps",
                     is_loss ? "loss" : "gradient norm", is_loss ? loss : norm,
                     is_loss ? of_loss : of_norm, (is_loss ? losses_ : norms_).values().size());
}

void StepGuard::record(double loss, double norm, bool compares_norm, bool skipped) {
  if (std::isfinite(loss)) losses_.push(loss, section_.spike_sigma);
  if (compares_norm && std::isfinite(norm)) norms_.push(norm, section_.spike_sigma);
  in_row_ = skipped ? in_row_ + 1 : 0;
  if (skipped) ++skipped_;
}

Json StepGuard::state() const {
  return {{"skipped", skipped_},
          {"skipped_in_row", in_row_},
          {"losses", losses_.values()},
          {"norms", norms_.values()}};
}

void StepGuard::restore(const Json& state) {
  try {
    skipped_ = state.at("skipped").get<int64_t>();
    in_row_ = state.at("skipped_in_row").get<int64_t>();
    losses_.restore(state.at("losses").get<std::vector<double>>());
    norms_.restore(state.at("norms").get<std::vector<double>>());
  } catch (const Json::exception& error) {
    throw FormatError(fmt::format("scalars.guard: {}", error.what()));
  }
}

}  // namespace rankwise
