// SPDX-License-Identifier: Apache-2.0
#include "launch/progress_line.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <ostream>

namespace rankwise {

namespace {

constexpr int kBarWidth = 40;
constexpr const char* kClearLine = "\r\x1b[K";

}  // namespace

std::string format_duration(double seconds) {
  if (!std::isfinite(seconds) || seconds < 0.0 || seconds > 1e12) return "--:--:--";
  const auto whole = static_cast<int64_t>(std::llround(seconds));
  return fmt::format("{:02}:{:02}:{:02}", whole / 3600, whole / 60 % 60, whole % 60);
}

std::string format_bytes(int64_t bytes) {
  constexpr const char* kUnits[] = {"KiB", "MiB", "GiB", "TiB", "PiB"};
  if (bytes < 1024) return fmt::format("{} B", bytes);
  double value = static_cast<double>(bytes);
  const char* unit = "";
  for (const char* larger : kUnits) {
    // 1023.95 would be shown as 1024.0.
    if (*unit != '\0' && value < 1023.95) break;
    value /= 1024.0;
    unit = larger;
  }
  return fmt::format("{:.1f} {}", value, unit);
}

std::string format_rate(double per_second) {
  if (!std::isfinite(per_second)) return "-";
  if (per_second < 999.5) return fmt::format("{:.0f}", per_second);
  if (per_second < 999.95e3) return fmt::format("{:.1f}k", per_second / 1e3);
  return fmt::format("{:.2f}M", per_second / 1e6);
}

ProgressLine::ProgressLine(std::ostream& out, int64_t total_steps, bool has_eval, bool live)
    : out_(out),
      total_steps_(std::max<int64_t>(1, total_steps)),
      has_eval_(has_eval),
      live_(live) {}

std::string ProgressLine::format(const MetricsRecord& record) {
  if (record.eval_loss) last_eval_ = record.eval_loss;
  const std::string total = fmt::format("{}", total_steps_);
  std::string line =
      fmt::format("step {:>{}}/{} {:>3}% | loss {:>7.4f} (ema {:>7.4f})", record.step, total.size(),
                  total, 100 * record.step / total_steps_, record.loss, record.loss_ema);
  if (has_eval_) {
    line += last_eval_ ? fmt::format(" | eval {:>7.4f}", *last_eval_)
                       : fmt::format(" | eval {:>7}", "-");
  }
  line += fmt::format(" | gnorm {:>8.3g} | lr {:.2e} | {:>6} tok/s ({:>6}/rank)", record.grad_norm,
                      record.lr, format_rate(record.tokens_per_s),
                      format_rate(record.tokens_per_s_per_rank));
  if (record.mfu) line += fmt::format(" | {:>3.0f}% of ceiling", *record.mfu * 100.0);
  const auto steps_left = static_cast<double>(total_steps_ - record.step);
  line += fmt::format(" | {:>6.4g} ms (slowest r{}) | {:>10} | eta {}", record.step_ms,
                      record.slowest_rank, format_bytes(record.peak_bytes),
                      format_duration(record.step_ms / 1e3 * steps_left));
  return line;
}

void ProgressLine::print(const MetricsRecord& record) {
  clear();
  out_ << format(record) << std::endl;
}

void ProgressLine::advance(int64_t steps_done, double seconds_per_step) {
  if (!live_) return;
  const auto filled = static_cast<int>(kBarWidth * steps_done / total_steps_);
  const auto steps_left = static_cast<double>(total_steps_ - steps_done);
  out_ << kClearLine
       << fmt::format("[{:#<{}}{:.<{}}] {}/{} eta {}", "", filled, "", kBarWidth - filled,
                      steps_done, total_steps_, format_duration(seconds_per_step * steps_left))
       << std::flush;
  bar_drawn_ = true;
}

void ProgressLine::clear() {
  if (!bar_drawn_) return;
  out_ << kClearLine << std::flush;
  bar_drawn_ = false;
}

std::string without_controls(std::string text) {
  std::ranges::replace_if(
      text, [](unsigned char c) { return c < 0x20 || c == 0x7f; }, '?');
  return text;
}

}  // namespace rankwise
