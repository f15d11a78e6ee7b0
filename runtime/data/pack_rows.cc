// SPDX-License-Identifier: Apache-2.0
#include "runtime/data/pack_rows.h"

#include <algorithm>
#include <bit>
#include <numeric>
#include <span>

#include "runtime/errors.h"

namespace rankwise {
namespace {

// Large enough for tight rows; small enough that rows stay near the order they were given in.
constexpr size_t kWindow = 8192;

// Free tokens of `count` rows, all empty at first: a tournament tree whose nodes hold the largest
// value below them, so that the first row with room is found in log(count).
class FreeSpace {
 public:
  FreeSpace(size_t count, int64_t capacity)
      : leaves_(std::bit_ceil(count)), largest_(2 * leaves_, capacity) {}

  // The first row with at least `length` free tokens, which it takes.
  size_t take_first(int64_t length) {
    size_t node = 1;
    while (node < leaves_) node = 2 * node + (largest_[2 * node] >= length ? 0 : 1);
    const size_t row = node - leaves_;
    largest_[node] -= length;
    while (node > 1) {
      node /= 2;
      largest_[node] = std::max(largest_[2 * node], largest_[2 * node + 1]);
    }
    return row;
  }

 private:
  size_t leaves_;
  std::vector<int64_t> largest_;
};

void pack_window(std::span<const uint32_t> window, const std::vector<Sample>& samples,
                 int64_t seq_len, SampleRows& out) {
  const auto length = [&](size_t place) {
    return static_cast<int64_t>(samples[window[place]].input_ids.size());
  };
  std::vector<size_t> by_length(window.size());  // places in the window
  std::iota(by_length.begin(), by_length.end(), size_t{0});
  std::stable_sort(by_length.begin(), by_length.end(),
                   [&](size_t a, size_t b) { return length(a) > length(b); });

  FreeSpace space(window.size(), seq_len);
  std::vector<std::vector<size_t>> rows(window.size());
  for (const size_t place : by_length) {
    RW_ASSERT(length(place) <= seq_len, "{} tokens, seq_len {}", length(place), seq_len);
    rows[space.take_first(length(place))].push_back(place);
  }
  std::erase_if(rows, [](const auto& row) { return row.empty(); });
  for (auto& row : rows) std::sort(row.begin(), row.end());
  std::sort(rows.begin(), rows.end());  // by first place: no two rows share one
  for (const auto& row : rows) {
    std::vector<uint32_t>& indices = out.emplace_back();
    for (const size_t place : row) indices.push_back(window[place]);
  }
}

}  // namespace

SampleRows pack_rows(const std::vector<uint32_t>& order, const std::vector<Sample>& samples,
                     int64_t seq_len) {
  SampleRows rows;
  for (size_t begin = 0; begin < order.size(); begin += kWindow) {
    const size_t count = std::min(kWindow, order.size() - begin);
    pack_window(std::span(order).subspan(begin, count), samples, seq_len, rows);
  }
  return rows;
}

}  // namespace rankwise
