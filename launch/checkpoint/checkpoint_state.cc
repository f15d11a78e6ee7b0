// SPDX-License-Identifier: Apache-2.0
#include "launch/checkpoint/checkpoint_state.h"

#include <fmt/format.h>

#include <cmath>
#include <utility>

#include "runtime/errors.h"

namespace rankwise {
namespace {

bool is_split(const ShardSpec& spec) { return spec.kind == ShardSpec::Kind::kSharded; }

int split_dimension(const LocalTensor& tensor) {
  const int dim = tensor.spec.dim;
  return dim < 0 ? dim + tensor.shape.rank() : dim;
}

// Of the split dimension of every tensor; 0 for one that is not split.
std::vector<int64_t> whole_extents(const std::vector<LocalTensor>& tensors, Communicator& axis) {
  std::vector<double> extents;
  for (const LocalTensor& tensor : tensors) {
    RW_ASSERT(tensor.spec.kind != ShardSpec::Kind::kPartial, "{}", tensor.name);
    extents.push_back(is_split(tensor.spec) ? static_cast<double>(tensor.shape.dim(tensor.spec.dim))
                                            : 0.0);
  }
  extents = all_reduce_numbers(axis, std::move(extents), ReduceOp::kSum, "checkpoint shapes");
  std::vector<int64_t> whole;
  for (size_t i = 0; i < tensors.size(); ++i) {
    whole.push_back(std::llround(extents[i]) / tensors[i].spec.copies);
  }
  return whole;
}

}  // namespace

bool writes_part(const ShardSpec& spec, const DeviceMesh& mesh) {
  const int rank = mesh.tensor().rank();
  return mesh.data().rank() == 0 && (is_split(spec) ? rank % spec.copies == 0 : rank == 0);
}

std::vector<CheckpointTensor> place_tensors(std::vector<LocalTensor> tensors,
                                            const DeviceMesh& mesh) {
  Communicator& axis = mesh.tensor();
  const std::vector<int64_t> extents = whole_extents(tensors, axis);
  std::vector<CheckpointTensor> placed;
  for (size_t i = 0; i < tensors.size(); ++i) {
    LocalTensor& tensor = tensors[i];
    Shape shape = tensor.shape;
    MatrixSlice part = whole_part(shape);
    if (is_split(tensor.spec)) {
      const int dim = split_dimension(tensor);
      RW_ASSERT(dim == 0 || tensor.shape.rank() == 2, "{} is split along {}", tensor.name, dim);
      std::vector<int64_t> dims(shape.dims().begin(), shape.dims().end());
      dims[static_cast<size_t>(dim)] = extents[i];
      shape = Shape(std::span<const int64_t>(dims));
      part = whole_part(shape);
      const auto range = tensor.spec.range(shape, axis.rank(), axis.size(), tensor.name);
      RW_ASSERT(range.end - range.begin == tensor.shape.dim(dim), "{}", tensor.name);
      (dim == 0 ? part.row_begin : part.column_begin) = range.begin;
      (dim == 0 ? part.row_end : part.column_end) = range.end;
    }
    placed.push_back({std::move(tensor.name), tensor.value, shape, part,
                      writes_part(tensor.spec, mesh), tensor.layout_bound});
  }
  return placed;
}

MatrixSlice whole_part(const Shape& shape) {
  const int64_t rows = shape.rank() == 0 ? 1 : shape.dim(0);
  return MatrixSlice::all({rows, rows == 0 ? 1 : shape.numel() / rows});
}

bool same_part(const MatrixSlice& a, const MatrixSlice& b) {
  return a.whole == b.whole && a.row_begin == b.row_begin && a.row_end == b.row_end &&
         a.column_begin == b.column_begin && a.column_end == b.column_end;
}

std::string part_text(const Shape& shape, const MatrixSlice& part) {
  return fmt::format("{}[{}:{}, {}:{}]", to_string(shape), part.row_begin, part.row_end,
                     part.column_begin, part.column_end);
}

}  // namespace rankwise
