// SPDX-License-Identifier: Apache-2.0
// Loss chart: training and evaluation loss over steps as a small stand-alone SVG.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace rankwise {

struct ChartPoint {
  double step = 0.0;
  double value = 0.0;
};

// Points that are not finite are left out. Long runs are thinned to about a thousand points; the
// last one always stays.
std::string loss_chart_svg(std::string_view title, const std::vector<ChartPoint>& losses,
                           const std::vector<ChartPoint>& eval_losses);

}  // namespace rankwise
