// SPDX-License-Identifier: Apache-2.0
#include "parallel/shard_spec.h"

#include "runtime/errors.h"

namespace rankwise {

ShardSpec::Range ShardSpec::range(const Shape& global, int rank, int size,
                                  const std::string& what) const {
  RW_ASSERT(size >= 1 && rank >= 0 && rank < size, "rank {} of {}", rank, size);
  const int64_t extent = global.rank() == 0 ? 1 : global.dim(dim);
  if (kind != Kind::kSharded) return {0, extent};
  RW_ASSERT(copies >= 1 && size % copies == 0, "{} copies on {} ranks", copies, size);
  const int64_t parts = size / copies;
  const int64_t part = rank / copies;
  if (parts > extent) {
    throw ConfigError(
        fmt::format("parallel.tensor: {} {} cannot be split into {} parts along dimension {}", what,
                    to_string(global), parts, dim));
  }
  return {extent * part / parts, extent * (part + 1) / parts};
}

Shape ShardSpec::local_shape(const Shape& global, int rank, int size,
                             const std::string& what) const {
  const Range mine = range(global, rank, size, what);
  if (kind != Kind::kSharded) return global;
  const int sharded = dim < 0 ? dim + global.rank() : dim;
  std::array<int64_t, Shape::kMaxRank> dims{};
  for (int d = 0; d < global.rank(); ++d) dims[d] = global.dim(d);
  dims[sharded] = mine.end - mine.begin;
  return Shape(std::span<const int64_t>(dims.data(), static_cast<size_t>(global.rank())));
}

MatrixSlice ShardSpec::slice(const Shape& global, int rank, int size,
                             const std::string& what) const {
  MatrixSlice out = MatrixSlice::all(global);
  if (kind != Kind::kSharded) return out;
  const Range mine = range(global, rank, size, what);
  (dim == 0 ? out.row_begin : out.column_begin) = mine.begin;
  (dim == 0 ? out.row_end : out.column_end) = mine.end;
  return out;
}

}  // namespace rankwise
