// SPDX-License-Identifier: Apache-2.0
// ShardSpec: how one tensor lies on the tensor axis, and the arithmetic on it.
#pragma once

#include <cstdint>
#include <string>

#include "runtime/matrix_slice.h"
#include "runtime/shape.h"

namespace rankwise {

// A value. kReplicated: every rank holds all; kSharded: `dim` is split into consecutive ranges that
// differ by at most one element, and each range is held by `copies` neighbouring ranks; kPartial:
// every rank holds a summand of the full tensor.
struct ShardSpec {
  enum class Kind { kReplicated, kSharded, kPartial };
  Kind kind = Kind::kReplicated;
  int dim = 0;
  int copies = 1;

  static ShardSpec replicated() { return {}; }
  static ShardSpec sharded(int dim, int copies = 1) { return {Kind::kSharded, dim, copies}; }
  static ShardSpec partial() { return {Kind::kPartial, 0, 1}; }

  struct Range {
    int64_t begin = 0;
    int64_t end = 0;
  };
  // Range of `dim` that this rank holds. ConfigError naming `what` when there are more ranges than
  // elements.
  Range range(const Shape& global, int rank, int size, const std::string& what) const;
  // Shape of this rank's part.
  Shape local_shape(const Shape& global, int rank, int size, const std::string& what) const;
  // The part of a matrix that this rank holds.
  MatrixSlice slice(const Shape& global, int rank, int size, const std::string& what) const;
  bool operator==(const ShardSpec&) const = default;
};

}  // namespace rankwise
