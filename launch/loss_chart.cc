// SPDX-License-Identifier: Apache-2.0
#include "launch/loss_chart.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "launch/svg.h"

namespace rankwise {

namespace {

constexpr double kWidth = 720.0;
constexpr double kHeight = 400.0;
constexpr double kLeft = 64.0;
constexpr double kRight = 16.0;
constexpr double kTop = 36.0;
constexpr double kBottom = 44.0;
constexpr size_t kMaxPoints = 1000;
constexpr const char* kLossColor = "#1f6fb2";
constexpr const char* kEvalColor = "#c8501e";

struct Interval {
  double low = 0.0;
  double high = 1.0;
};

std::vector<ChartPoint> drawable(const std::vector<ChartPoint>& points) {
  const size_t stride = points.size() / kMaxPoints + 1;
  std::vector<ChartPoint> kept;
  for (size_t i = 0; i < points.size(); ++i) {
    const bool chosen = i % stride == 0 || i + 1 == points.size();
    if (chosen && std::isfinite(points[i].value)) kept.push_back(points[i]);
  }
  return kept;
}

// Smallest interval over all points; never empty, so that it can be divided by.
template <class Coordinate>
Interval extent(const std::vector<std::vector<ChartPoint>>& series, Coordinate coordinate) {
  Interval interval = {.low = INFINITY, .high = -INFINITY};
  for (const auto& points : series) {
    for (const ChartPoint& point : points) {
      interval.low = std::min(interval.low, coordinate(point));
      interval.high = std::max(interval.high, coordinate(point));
    }
  }
  if (interval.low > interval.high) return {};
  if (interval.low == interval.high) return {interval.low - 0.5, interval.high + 0.5};
  return interval;
}

// 1, 2 or 5 times a power of ten, giving about `count` ticks.
double tick_distance(Interval interval, double count) {
  const double rough = (interval.high - interval.low) / count;
  const double power = std::pow(10.0, std::floor(std::log10(rough)));
  for (const double factor : {1.0, 2.0, 5.0}) {
    if (rough <= factor * power) return factor * power;
  }
  return 10.0 * power;
}

class Chart {
 public:
  Chart(Interval steps, Interval values) : steps_(steps), values_(values) {}

  void draw_title(std::string_view title) {
    svg_ = svg_opening(kWidth, kHeight) +
           fmt::format("<text x=\"{}\" y=\"22\" font-size=\"14\">{}</text>\n", kLeft,
                       escape_xml(title));
  }

  void draw_axes() {
    const double value_tick = tick_distance(values_, 6.0);
    for (double v = std::ceil(values_.low / value_tick) * value_tick; v <= values_.high;
         v += value_tick) {
      svg_ += fmt::format(
          "<path d=\"M{:.1f} {:.1f}H{:.1f}\" stroke=\"#ddd\"/>"
          "<text x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"end\">{:.4g}</text>\n",
          kLeft, y(v), kWidth - kRight, kLeft - 6.0, y(v) + 4.0, v);
    }
    const double step_tick = std::max(1.0, tick_distance(steps_, 8.0));
    for (double s = std::ceil(steps_.low / step_tick) * step_tick; s <= steps_.high;
         s += step_tick) {
      svg_ += fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"middle\">{:.6g}</text>\n",
                          x(s), kHeight - kBottom + 18.0, s);
    }
    svg_ += fmt::format(
        "<path d=\"M{:.1f} {:.1f}V{:.1f}H{:.1f}\" fill=\"none\" stroke=\"#444\"/>\n"
        "<text x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"middle\">step</text>\n",
        kLeft, kTop, kHeight - kBottom, kWidth - kRight, (kLeft + kWidth - kRight) / 2.0,
        kHeight - 8.0);
  }

  void draw_series(const std::vector<ChartPoint>& points, const char* color, bool dots) {
    if (points.empty()) return;
    std::string path;
    for (const ChartPoint& point : points) {
      path +=
          fmt::format("{}{:.1f} {:.1f}", path.empty() ? "M" : "L", x(point.step), y(point.value));
    }
    svg_ += fmt::format("<path d=\"{}\" fill=\"none\" stroke=\"{}\" stroke-width=\"1.5\"/>\n", path,
                        color);
    // A line of one point draws nothing.
    if (!dots && points.size() > 1) return;
    for (const ChartPoint& point : points) {
      svg_ += fmt::format("<circle cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"2.5\" fill=\"{}\"/>\n",
                          x(point.step), y(point.value), color);
    }
  }

  void draw_legend(double position, const char* name, const char* color, double value) {
    svg_ += fmt::format(
        "<text x=\"{:.1f}\" y=\"22\" text-anchor=\"end\" fill=\"{}\">{} {:.4f}</text>\n",
        kWidth - kRight - position, color, name, value);
  }

  std::string finish() { return svg_ + "</svg>\n"; }

 private:
  double x(double step) const {
    return kLeft + (step - steps_.low) / (steps_.high - steps_.low) * (kWidth - kLeft - kRight);
  }
  double y(double value) const {
    return kHeight - kBottom -
           (value - values_.low) / (values_.high - values_.low) * (kHeight - kTop - kBottom);
  }

  Interval steps_;
  Interval values_;
  std::string svg_;
};

}  // namespace

std::string loss_chart_svg(std::string_view title, const std::vector<ChartPoint>& losses,
                           const std::vector<ChartPoint>& eval_losses) {
  const std::vector<std::vector<ChartPoint>> series = {drawable(losses), drawable(eval_losses)};
  Chart chart(extent(series, [](const ChartPoint& point) { return point.step; }),
              extent(series, [](const ChartPoint& point) { return point.value; }));
  chart.draw_title(title);
  chart.draw_axes();
  chart.draw_series(series[0], kLossColor, /*dots=*/false);
  chart.draw_series(series[1], kEvalColor, /*dots=*/true);
  if (!series[0].empty()) chart.draw_legend(0.0, "loss", kLossColor, series[0].back().value);
  if (!series[1].empty()) chart.draw_legend(120.0, "eval", kEvalColor, series[1].back().value);
  return chart.finish();
}

}  // namespace rankwise
