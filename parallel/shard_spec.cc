// SPDX-License-Identifier: Apache-2.0
#include "parallel/shard_spec.h"

#include "runtime/errors.h"

namespace rankwise {

ShardSpec::Range ShardSpec::range(const Shape& global, int rank, int size,
                                  const std::string& what) const {
  RW_ASSERT(size >= 1 && rank >= 0 && rank < size, "rank {} of {}", rank, size);
  const int64_t extent = global.rank() == 0 ? 1 : global.dim(dim);
  if (kind != Kind::kSharded) return {0, extent};
  if (extent % size != 0) {
    throw ConfigError(
        fmt::format("{} {}: dimension {} of size {} cannot be split into {} equal parts; "
                    "choose a parallel.tensor that divides it",
                    what, to_string(global), dim, extent, size));
  }
  const int64_t part = extent / size;
  return {rank * part, (rank + 1) * part};
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

}  // namespace rankwise
