// SPDX-License-Identifier: Apache-2.0
// Tables of numbers, as text for a console and as heat maps in one SVG picture.
#pragma once

#include <string>
#include <vector>

namespace rankwise {

struct NumberTable {
  std::string title;
  std::vector<std::string> rows, columns;
  std::vector<double> values;  // row by row, at least 0; NaN: an empty cell
  int digits = 3;              // behind the point
  double darkest = 0.0;        // the value of the darkest color; 0: the largest one

  double at(size_t row, size_t column) const { return values[row * columns.size() + column]; }
};

// With sums of rows, columns and all.
NumberTable with_totals(const NumberTable& table);
// The title, a line of column names, a line for each row.
std::string table_text(const NumberTable& table);
// The maps one below the other, under a <title>. Every cell tells its row, column and value under
// the pointer, and shows the value where it has room.
std::string heat_maps_svg(const std::string& title, const std::vector<NumberTable>& tables);

}  // namespace rankwise
