// SPDX-License-Identifier: Apache-2.0
#include "runtime/shape.h"

#include <algorithm>

#include "runtime/errors.h"

namespace rankwise {

Shape::Shape(std::initializer_list<int64_t> dims)
    : Shape(std::span<const int64_t>(dims.begin(), dims.size())) {}

Shape::Shape(std::span<const int64_t> dims) : rank_(static_cast<int>(dims.size())) {
  RW_ASSERT(dims.size() <= kMaxRank, "rank {}", dims.size());
  for (size_t i = 0; i < dims.size(); ++i) {
    RW_ASSERT(dims[i] >= 0, "dimension {} is {}", i, dims[i]);
    dims_[i] = dims[i];
  }
}

int64_t Shape::dim(int index) const {
  const int from_front = index < 0 ? index + rank_ : index;
  RW_ASSERT(from_front >= 0 && from_front < rank_, "dimension {} of rank {}", index, rank_);
  return dims_[static_cast<size_t>(from_front)];
}

int64_t Shape::numel() const {
  int64_t product = 1;
  for (const int64_t dim : dims()) {
    const bool overflow = __builtin_mul_overflow(product, dim, &product);
    RW_ASSERT(!overflow, "{}", to_string(*this));
  }
  return product;
}

bool Shape::operator==(const Shape& other) const {
  return std::ranges::equal(dims(), other.dims());
}

std::string to_string(const Shape& shape) {
  return fmt::format("({})", fmt::join(shape.dims(), ", "));
}

}  // namespace rankwise
