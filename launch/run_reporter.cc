// SPDX-License-Identifier: Apache-2.0
#include "launch/run_reporter.h"

#include <fmt/format.h>
#include <unistd.h>

#include <cmath>
#include <ostream>

namespace rankwise {
namespace {

constexpr double kEmaDecay = 0.95;

}  // namespace

RunReporter::RunReporter(RunFolder& folder, std::ostream& out, int64_t total_steps, bool has_eval,
                         bool live)
    : folder_(&folder),
      out_(&out),
      progress_(out, total_steps, has_eval, live && isatty(STDOUT_FILENO) != 0) {}

void RunReporter::say(std::string_view line) {
  progress_.clear();
  *out_ << line << std::endl;
  folder_->log(line);
}

void RunReporter::evaluation(int64_t step, double loss) {
  if (step == 0) {
    first_eval_ = loss;
    return say(fmt::format("eval loss before training: {:.4f}", loss));
  }
  last_eval_ = loss;
  folder_->add_eval_loss(step, loss);
  say(fmt::format("eval loss after step {}: {:.4f}", step, loss));
}

void RunReporter::step(MetricsRecord record, bool log) {
  if (record.eval_loss) last_eval_ = record.eval_loss;
  if (std::isfinite(record.loss)) {
    record.loss_ema =
        last_ ? kEmaDecay * last_->loss_ema + (1.0 - kEmaDecay) * record.loss : record.loss;
    if (!first_) first_ = record;
    last_ = record;
  } else {
    record.loss_ema = last_ ? last_->loss_ema : record.loss;
    if (last_) last_->step = record.step, last_->tokens = record.tokens;
  }
  progress_.advance(record.step, record.step_ms * 1e-3);
  if (!log) return;
  folder_->append_metrics(record);
  progress_.print(record);
  folder_->log(progress_.format(record));
}

Json RunReporter::state() const {
  Json state = Json::object();
  if (first_eval_) state["first_eval"] = *first_eval_;
  if (last_eval_) state["last_eval"] = *last_eval_;
  if (!last_) return state;
  state["first_loss"] = first_->loss;
  state["step"] = last_->step;
  state["loss"] = last_->loss;
  state["loss_ema"] = last_->loss_ema;
  state["tokens"] = last_->tokens;
  state["peak_bytes"] = last_->peak_bytes;
  return state;
}

void RunReporter::restore(const Json& state) {
  if (state.contains("first_eval")) first_eval_ = state["first_eval"].get<double>();
  if (state.contains("last_eval")) last_eval_ = state["last_eval"].get<double>();
  if (!state.contains("step")) return;
  first_ = MetricsRecord{.loss = state.at("first_loss").get<double>()};
  last_ = MetricsRecord{.step = state.at("step").get<int64_t>(),
                        .loss = state.at("loss").get<double>(),
                        .loss_ema = state.at("loss_ema").get<double>(),
                        .tokens = state.at("tokens").get<int64_t>(),
                        .peak_bytes = state.at("peak_bytes").get<int64_t>()};
}

void RunReporter::finish(double seconds,
                         const std::vector<std::pair<std::string, std::string>>& results) {
  std::string text;
  const auto add = [&](std::string_view name, const std::string& value) {
    text += fmt::format("{:<22}{}\n", name, value);
  };
  if (last_) {
    add("steps", fmt::format("{}", last_->step));
    add("loss, first step", fmt::format("{:.4f}", first_->loss));
    add("loss, last step", fmt::format("{:.4f}", last_->loss));
    if (first_eval_) add("eval loss, before", fmt::format("{:.4f}", *first_eval_));
    if (last_eval_) add("eval loss, last", fmt::format("{:.4f}", *last_eval_));
    add("tokens", fmt::format("{}", last_->tokens));
    add("tokens/s", format_rate(static_cast<double>(last_->tokens) / seconds));
    add("peak memory per rank", format_bytes(last_->peak_bytes));
  }
  add("wall time", format_duration(seconds));
  for (const auto& [name, value] : results) add(name, value);
  folder_->write_summary(text);
  progress_.clear();
  *out_ << "\n" << text << std::flush;
}

}  // namespace rankwise
