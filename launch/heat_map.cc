// SPDX-License-Identifier: Apache-2.0
#include "launch/heat_map.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "launch/svg.h"

namespace rankwise {
namespace {

constexpr double kLeft = 150.0;  // of the cells; row names stand before them
constexpr double kMapWidth = 640.0;
constexpr double kLetter = 7.0;  // width of a character
constexpr double kLine = 16.0;   // height of a line of text
constexpr double kLight[] = {242.0, 246.0, 250.0};
constexpr double kDark[] = {31.0, 111.0, 178.0};

std::string text_of(double value, int digits) {
  return std::isnan(value) ? "" : fmt::format("{:.{}f}", value, digits);
}

std::string color(double share) {
  const auto mix = [&](int i) { return std::lround(kLight[i] + share * (kDark[i] - kLight[i])); };
  return fmt::format("#{:02x}{:02x}{:02x}", mix(0), mix(1), mix(2));
}

std::string label(double x, double y, const char* look, const std::string& text) {
  return fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\" {}>{}</text>\n", x, y, look,
                     escape_xml(text));
}

// Every how many-th name has room.
size_t stride(double room, double wanted) { return static_cast<size_t>(std::ceil(wanted / room)); }

size_t longest(const std::vector<std::string>& names) {
  return std::ranges::max(names, {}, &std::string::size).size();
}

// The map with its upper edge at `top`; moves that to the lower one.
std::string map_svg(const NumberTable& table, double& top) {
  double darkest = table.darkest;
  for (const double value : table.values) {
    if (table.darkest == 0.0 && value > darkest) darkest = value;
  }
  const double width = std::min(72.0, kMapWidth / static_cast<double>(table.columns.size()));
  const double height = std::min(width, kLine);
  std::string svg =
      label(kLine, top + 2.0 * kLine, "font-weight=\"bold\"",
            fmt::format("{} (dark: {})", table.title, text_of(darkest, table.digits)));
  top += 3.5 * kLine;
  const auto x = [&](size_t column) { return kLeft + width * static_cast<double>(column); };
  const double name_width = kLetter * static_cast<double>(longest(table.columns) + 1);
  for (size_t i = 0; i < table.columns.size(); i += stride(width, name_width)) {
    svg += label(x(i) + width / 2, top - 4.0, "text-anchor=\"middle\"", table.columns[i]);
  }
  for (size_t row = 0; row < table.rows.size(); ++row, top += height) {
    const double baseline = top + 12.0;
    if (row % stride(height, kLine) == 0) {
      svg += label(kLeft - 6.0, baseline, "text-anchor=\"end\"", table.rows[row]);
    }
    for (size_t i = 0; i < table.columns.size(); ++i) {
      const double value = table.at(row, i);
      if (std::isnan(value)) continue;
      const double share = darkest > 0.0 ? std::min(value / darkest, 1.0) : 0.0;
      const std::string text = text_of(value, table.digits);
      svg += fmt::format(
          "<rect x=\"{:.1f}\" y=\"{:.1f}\" width=\"{:.1f}\" height=\"{:.1f}\" fill=\"{}\">"
          "<title>{}, {}: {}</title></rect>\n",
          x(i), top, width, height, color(share), escape_xml(table.rows[row]),
          escape_xml(table.columns[i]), text);
      if (kLetter * static_cast<double>(text.size()) > width) continue;
      svg += label(x(i) + width / 2, baseline,
                   share > 0.6 ? "text-anchor=\"middle\" fill=\"white\"" : "text-anchor=\"middle\"",
                   text);
    }
  }
  return svg;
}

}  // namespace

NumberTable with_totals(const NumberTable& table) {
  NumberTable out = table;
  out.rows.emplace_back("total");
  out.columns.emplace_back("total");
  out.values.clear();
  std::vector<double> totals(out.columns.size(), 0.0);
  for (size_t row = 0; row < table.rows.size(); ++row) {
    double total = 0.0;
    for (size_t i = 0; i < table.columns.size(); ++i) {
      const double value = table.at(row, i);
      out.values.push_back(value);
      total += std::isnan(value) ? 0.0 : value;
      totals[i] += std::isnan(value) ? 0.0 : value;
    }
    out.values.push_back(total);
    totals.back() += total;
  }
  out.values.insert(out.values.end(), totals.begin(), totals.end());
  return out;
}

std::string table_text(const NumberTable& table) {
  const size_t first = longest(table.rows);
  std::string text = fmt::format("{}\n{:{}}", table.title, "", first);
  const auto add = [&](size_t column, const std::string& cell) {
    const size_t width = std::max<size_t>(5, table.columns[column].size());
    text += fmt::format("  {:>{}}", cell, width);
  };
  for (size_t i = 0; i < table.columns.size(); ++i) add(i, table.columns[i]);
  for (size_t row = 0; row < table.rows.size(); ++row) {
    text += fmt::format("\n{:{}}", table.rows[row], first);
    for (size_t i = 0; i < table.columns.size(); ++i) {
      add(i, text_of(table.at(row, i), table.digits));
    }
  }
  return text + "\n";
}

std::string heat_maps_svg(const std::string& title, const std::vector<NumberTable>& tables) {
  double height = kLine;
  std::string svg = label(kLine, 22.0, "font-size=\"14\"", title);
  for (const NumberTable& table : tables) svg += map_svg(table, height);
  return fmt::format("{}<title>{}</title>\n{}</svg>\n",
                     svg_opening(kLeft + kMapWidth + kLine, height + kLine), escape_xml(title),
                     svg);
}

}  // namespace rankwise
