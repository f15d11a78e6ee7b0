// SPDX-License-Identifier: Apache-2.0
#include "launch/heat_map.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "tests/support/error_of.h"

namespace rankwise {
namespace {

NumberTable small_table() {
  NumberTable table;
  table.title = "ranks";
  table.rows = {"0", "10"};
  table.columns = {"q_proj", "v"};
  table.values = {4.0, 0.0, NAN, 2.0};
  table.digits = 0;
  return table;
}

size_t count(const std::string& text, const std::string& part) {
  size_t found = 0;
  for (size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++found;
  return found;
}

// Elements close in the order they open, and no attribute or text holds a bare special character.
void expect_well_formed(const std::string& svg) {
  std::vector<std::string> open;
  size_t at = 0;
  while ((at = svg.find('<', at)) != std::string::npos) {
    const size_t end = svg.find('>', at);
    ASSERT_NE(end, std::string::npos);
    const std::string tag = svg.substr(at + 1, end - at - 1);
    ASSERT_EQ(count(tag, "\"") % 2, 0u) << tag;
    ASSERT_EQ(tag.find('<'), std::string::npos) << tag;
    const std::string name = tag.substr(0, tag.find(' '));
    if (name.starts_with("/")) {
      ASSERT_FALSE(open.empty()) << tag;
      ASSERT_EQ(name.substr(1), open.back());
      open.pop_back();
    } else if (!tag.ends_with("/")) {
      open.push_back(name);
    }
    at = end;
  }
  EXPECT_TRUE(open.empty());
  for (size_t i = svg.find('&'); i != std::string::npos; i = svg.find('&', i + 1)) {
    ASSERT_LT(svg.find(';', i), i + 6) << svg.substr(i, 10);
  }
}

TEST(HeatMap, TextAlignsColumnsAndLeavesMissingCellsEmpty) {
  EXPECT_EQ(table_text(small_table()),
            "ranks\n"
            "    q_proj      v\n"
            "0        4      0\n"
            "10              2\n");
}

TEST(HeatMap, TotalsAreThoseOfRowsColumnsAndAll) {
  EXPECT_EQ(table_text(with_totals(small_table())),
            "ranks\n"
            "       q_proj      v  total\n"
            "0           4      0      4\n"
            "10                 2      2\n"
            "total       4      2      6\n");
}

TEST(HeatMap, PictureHasOneCellPerNumberAndTellsItsPlaceAndValue) {
  const std::string svg = heat_maps_svg("a <b> & \"c\"", {small_table()});
  expect_well_formed(svg);
  EXPECT_TRUE(svg.starts_with("<svg xmlns="));
  EXPECT_TRUE(svg.ends_with("</svg>\n"));
  RW_EXPECT_HAS(svg, "<title>a &lt;b&gt; &amp; &quot;c&quot;</title>");
  EXPECT_EQ(count(svg, "</title></rect>"), 3u);
  RW_EXPECT_HAS(svg, "<title>0, q_proj: 4</title>");
  RW_EXPECT_HAS(svg, "<title>10, v: 2</title>");
  RW_EXPECT_HAS(svg, "ranks (dark: 4)");
  EXPECT_EQ(svg.find("nan"), std::string::npos);
}

TEST(HeatMap, ColorsRunFromZeroToTheDarkestValue) {
  NumberTable table = small_table();
  const auto color_of = [&](const std::string& cell) {
    const std::string svg = heat_maps_svg("t", {table});
    const size_t at = svg.find("<title>" + cell);
    return svg.substr(svg.rfind("fill=\"", at) + 6, 7);
  };
  EXPECT_EQ(color_of("0, v"), "#f2f6fa");
  EXPECT_EQ(color_of("0, q_proj"), "#1f6fb2");
  EXPECT_EQ(color_of("10, v"), "#89b3d6");
  table.darkest = 8.0;
  EXPECT_EQ(color_of("0, q_proj"), "#89b3d6");
  table.values = {0.0, 0.0, 0.0, 0.0};
  table.darkest = 0.0;
  EXPECT_EQ(color_of("0, q_proj"), "#f2f6fa");
}

TEST(HeatMap, NumbersAreWrittenIntoCellsThatHaveRoom) {
  NumberTable table = small_table();
  EXPECT_EQ(count(heat_maps_svg("t", {table}), ">4</text>"), 1u);
  table.columns.assign(100, "c");
  table.values.assign(200, 12345.0);
  const std::string svg = heat_maps_svg("t", {table, small_table()});
  expect_well_formed(svg);
  EXPECT_EQ(count(svg, ">12345</text>"), 0u);
  EXPECT_EQ(count(svg, ">4</text>"), 1u);
  EXPECT_EQ(count(svg, "</title></rect>"), 203u);
}

}  // namespace
}  // namespace rankwise
