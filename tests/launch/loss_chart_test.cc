// SPDX-License-Identifier: Apache-2.0
#include "launch/loss_chart.h"

#include <gtest/gtest.h>

#include <cmath>

namespace rankwise {
namespace {

size_t count(const std::string& text, const std::string& part) {
  size_t found = 0;
  for (size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++found;
  return found;
}

// Points of the first line drawn in this color.
size_t line_points(const std::string& svg, const std::string& color) {
  const size_t end = svg.find("\" fill=\"none\" stroke=\"" + color);
  const size_t begin = svg.rfind("d=\"", end);
  return count(svg.substr(begin, end - begin), " ");
}

TEST(LossChart, DrawsBothSeriesFromCornerToCorner) {
  const std::string svg = loss_chart_svg("run", {{1, 4.0}, {2, 3.0}, {3, 2.0}}, {{3, 2.5}});
  EXPECT_TRUE(svg.starts_with("<svg xmlns="));
  EXPECT_TRUE(svg.ends_with("</svg>\n"));
  EXPECT_NE(svg.find("M64.0 36.0L384.0 196.0L704.0 356.0"), std::string::npos) << svg;
  EXPECT_EQ(count(svg, "<circle"), 1u);
  EXPECT_NE(svg.find("loss 2.0000"), std::string::npos);
  EXPECT_NE(svg.find("eval 2.5000"), std::string::npos);
}

TEST(LossChart, EmptyConstantAndNonFiniteSeriesStayWellFormed) {
  const std::vector<std::vector<ChartPoint>> vectors = {{},
                                                        {{1, 2.0}},
                                                        {{1, 2.0}, {2, 2.0}},
                                                        {{1, NAN}, {2, INFINITY}},
                                                        {{1, NAN}, {2, 1.0}, {3, 3.0}}};
  for (const auto& losses : vectors) {
    const std::string svg = loss_chart_svg("run", losses, {});
    EXPECT_EQ(svg.find("nan"), std::string::npos) << svg;
    EXPECT_EQ(svg.find("inf"), std::string::npos) << svg;
    EXPECT_TRUE(svg.ends_with("</svg>\n"));
  }
}

TEST(LossChart, LongRunsAreThinnedAndKeepTheirLastPoint) {
  std::vector<ChartPoint> losses;
  for (int i = 1; i <= 100'000; ++i) losses.push_back({double(i), 1.0 + 1.0 / i});
  losses.push_back({100'001, 0.125});
  const std::string svg = loss_chart_svg("run", losses, {});
  EXPECT_LE(line_points(svg, "#1f6fb2"), 1001u);
  EXPECT_GE(line_points(svg, "#1f6fb2"), 500u);
  EXPECT_NE(svg.find("loss 0.1250"), std::string::npos);
}

TEST(LossChart, TitleIsEscaped) {
  const std::string svg = loss_chart_svg("a<b>&\"c\"", {}, {});
  EXPECT_NE(svg.find("a&lt;b&gt;&amp;&quot;c&quot;"), std::string::npos);
}

}  // namespace
}  // namespace rankwise
