// SPDX-License-Identifier: Apache-2.0
#include "launch/verbs/tensor_rows.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>

#include "launch/progress_line.h"
#include "runtime/arena.h"
#include "runtime/errors.h"

namespace rankwise {

std::string describe_tensors(const std::vector<TensorRow>& rows, bool list) {
  struct Total {
    int64_t tensors = 0;
    int64_t elements = 0;
    int64_t bytes = 0;
  };
  std::map<std::string, Total> totals;
  size_t width = 0;
  for (const TensorRow& row : rows) {
    Total& total = totals[row.storage];
    ++total.tensors;
    total.elements += row.shape.numel();
    total.bytes += row.bytes;
    width = std::max(width, row.name.size());
  }
  std::string text;
  for (const auto& [storage, total] : totals) {
    text += fmt::format("{:<12} {} tensors, {} elements, {}\n", storage, total.tensors,
                        total.elements, format_bytes(total.bytes));
  }
  if (!list) return text;
  for (const TensorRow& row : rows) {
    text += fmt::format("  {:<{}}  {:<10}  {:<16}  {}\n", without_controls(row.name), width,
                        row.storage, to_string(row.shape), format_bytes(row.bytes));
  }
  return text;
}

void require_finite(const std::vector<TensorRow>& rows, const std::string& source,
                    const std::function<void(const std::string&, const Tensor&)>& read) {
  Arena arena;
  for (const TensorRow& row : rows) {
    if (!row.floating) continue;
    const Arena::Scope scope = arena.scope("inspect");
    const Tensor values = arena.allocate("inspect", DType::kF32, row.shape);
    read(row.name, values);
    for (int64_t i = 0; i < values.numel(); ++i) {
      if (std::isfinite(values.data<float>()[i])) continue;
      throw FormatError(fmt::format("{}: {}: element {} is not finite", source, row.name, i));
    }
  }
}

}  // namespace rankwise
