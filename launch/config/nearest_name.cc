// SPDX-License-Identifier: Apache-2.0
#include "launch/config/nearest_name.h"

#include <algorithm>
#include <numeric>
#include <vector>

namespace rankwise {

int edit_distance(std::string_view a, std::string_view b) {
  // distance[i][j]: between the first i characters of a and the first j of b.
  std::vector<std::vector<int>> distance(a.size() + 1, std::vector<int>(b.size() + 1));
  std::iota(distance[0].begin(), distance[0].end(), 0);
  for (size_t i = 1; i <= a.size(); ++i) {
    distance[i][0] = static_cast<int>(i);
    for (size_t j = 1; j <= b.size(); ++j) {
      const int substituted = distance[i - 1][j - 1] + (a[i - 1] == b[j - 1] ? 0 : 1);
      distance[i][j] = std::min({substituted, distance[i - 1][j] + 1, distance[i][j - 1] + 1});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1]) {
        distance[i][j] = std::min(distance[i][j], distance[i - 2][j - 2] + 1);
      }
    }
  }
  return distance[a.size()][b.size()];
}

std::string nearest_name(std::string_view name, std::span<const std::string> candidates) {
  // A name read from a hostile file may be a megabyte long; no valid one is.
  if (name.size() > 100) return "";
  std::string best;
  int best_distance = 0;
  for (const std::string& candidate : candidates) {
    const int distance = edit_distance(name, candidate);
    if (best.empty() || distance < best_distance) {
      best = candidate;
      best_distance = distance;
    }
  }
  const int length = static_cast<int>(std::max(name.size(), best.size()));
  return best_distance <= std::max(1, (length + 1) / 3) ? best : "";
}

}  // namespace rankwise
