// SPDX-License-Identifier: Apache-2.0
#include "optim/projector.h"

#include <algorithm>
#include <array>

#include "kernels/elementwise.h"
#include "runtime/transfer.h"

namespace rankwise {
namespace {

constexpr BasisSide kLeft = BasisSide::kLeft, kRight = BasisSide::kRight;
// What reaches 99 % of the energy of the exact subspace on gradients of language models, which
// between two refreshes turn away from most of an old basis.
constexpr int kColdIterations = 3, kWarmIterations = 4;
// Random starts of less than 16 vectors have 8 more, see SubspaceOptions.
constexpr int64_t kFewVectors = 16, kMoreVectors = 8;

bool has_side(ProjectionType type, BasisSide side, const Shape& whole) {
  const bool left = side == kLeft, tall = whole.dim(0) >= whole.dim(1);
  if (type == ProjectionType::kFull) return true;
  if (type == ProjectionType::kStd) return left != tall;
  if (type == ProjectionType::kReverseStd) return left == tall;
  return left == (type == ProjectionType::kLeft);
}

Shape basis_shape(const Shape& weight, BasisSide side, int64_t rank) {
  return side == kLeft ? Shape{weight.dim(0), rank} : Shape{rank, weight.dim(1)};
}

// y = x (F32), of which one may be a block of columns.
void copy_block(const Tensor& y, const Tensor& x, Stream& stream) {
  if (stream.is_cuda()) return copy(y, x, stream);
  for (int64_t i = 0; i < y.dim(0); ++i) copy(y.rows(i, i + 1), x.rows(i, i + 1), stream);
}

// The first element of x; waits for the stream. `measured` in measuring mode.
float value_of(const Tensor& x, float measured, Stream& stream) {
  download(&measured, x, stream);
  return measured;
}

// In measuring mode true: what follows a failure needs no less memory.
bool has_failed(const Tensor& failed, Stream& stream) {
  return value_of(failed, 1.0f, stream) != 0.0f;
}

MatrixSlice part_of_weight(const Parameter& weight, const ShardSpec& spec, Communicator& ranks) {
  const Shape& shape = shape_of(weight.weight);
  std::array<int64_t, 2> whole{shape.dim(0), shape.dim(1)};
  if (spec.kind == ShardSpec::Kind::kSharded) {
    auto& extent = whole[static_cast<size_t>(spec.dim)];
    extent = static_cast<int64_t>(
        all_reduce_numbers(ranks, {static_cast<double>(extent)}, ReduceOp::kSum, weight.name)[0]);
  }
  return spec.slice({whole[0], whole[1]}, ranks.rank(), ranks.size(), weight.name);
}

}  // namespace

Projector::Projector(const Parameter& weight, const ProjectionOptions& options,
                     const DeviceMesh& mesh, Arena& arena, Stream& stream)
    : name_(weight.name), options_(options), mesh_(&mesh), arena_(&arena) {
  const Shape& shape = shape_of(weight.weight);
  RW_ASSERT(!is_quantized(weight.weight) && shape.rank() == 2, "{}: no dense matrix", name_);
  RW_ASSERT(weight.spec.kind != ShardSpec::Kind::kPartial && weight.spec.copies == 1,
            "{}: neither whole nor split", name_);
  RW_ASSERT(options.rank > 0 && options.refresh > 0 && options.offset >= 0 &&
                options.offset < options.refresh,
            "{}: rank {}, refresh {}, offset {}", name_, options.rank, options.refresh,
            options.offset);
  if (mesh.tensor().size() > 1) spec_ = weight.spec;
  part_ = part_of_weight(weight, spec_, mesh.tensor());
  RW_ASSERT(part_.shape() == shape, "{}: {} of {}", name_, to_string(shape),
            to_string(part_.whole));
  rank_ = std::min({options.rank, part_.whole.dim(0), part_.whole.dim(1)});
  for (const BasisSide side : {kLeft, kRight}) {
    if (!has_side(options.type, side, part_.whole)) continue;
    const Tensor vectors =
        arena.allocate("projections", DType::kF32, basis_shape(shape, side, rank_));
    (side == kLeft ? projection_.left : projection_.right) = vectors;
    randomize(vectors, side, stream);
  }
  status_ = arena.allocate("projections", DType::kF32, {2});
  failed_ = arena.allocate("projections", DType::kF32, {1});
  fill(status_, 0.0f, stream);
}

ShardSpec Projector::projected_spec() const {
  const bool kept = is_split() && !basis(spec_.dim == 0 ? kLeft : kRight).defined();
  return kept ? spec_ : ShardSpec::replicated();
}

Tensor Projector::part_of(const Tensor& whole, BasisSide side) const {
  return side == kLeft ? whole.rows(part_.row_begin, part_.row_end)
                       : whole.columns(part_.column_begin, part_.column_end);
}

RankSum Projector::over_tensor_ranks(ReduceOp op, Stream& stream) const {
  return [this, op, &stream](const Tensor& x) {
    mesh_->tensor().all_reduce(x, op, "projection of " + name_, stream);
  };
}

SubspaceSums Projector::sums(BasisSide side, Stream& stream) const {
  if (!is_split()) return {};
  const RankSum sum = over_tensor_ranks(ReduceOp::kSum, stream);
  const RankSum any = over_tensor_ranks(ReduceOp::kMax, stream);
  if (splits(side)) return {.projected = sum, .sketch_gram = sum, .failed = any};
  return {.sketch = sum, .projected_gram = sum, .failed = any};
}

void Projector::randomize(const Tensor& vectors, BasisSide side, Stream& stream) const {
  const Arena::Scope scope = arena_->scope("workspace");
  const bool left = side == kLeft;
  const Tensor whole = temporary(basis_shape(part_.whole, side, vectors.dim(left ? 1 : 0)));
  fill_normal(whole, 0.0f, 1.0f, Rng(options_.seed, name_ + (left ? ".left" : ".right")), stream);
  copy_block(vectors, part_of(whole, side), stream);
  const RankSum sum = splits(side) ? over_tensor_ranks(ReduceOp::kSum, stream) : RankSum();
  orthonormalize(vectors, side, temporary({1}), sum, stream);
}

void Projector::find_exact(BasisSide side, const Tensor& g, const Tensor& failed,
                           Stream& stream) const {
  if (!is_split()) return exact_basis(basis(side), side, failed, g, stream);
  const Tensor whole = temporary(part_.whole);
  fill(whole, 0.0f, stream);
  copy_block(part_of(whole, spec_.dim == 0 ? kLeft : kRight), g, stream);
  over_tensor_ranks(ReduceOp::kSum, stream)(whole);
  const Tensor vectors = temporary(basis_shape(part_.whole, side, rank_));
  exact_basis(vectors, side, failed, whole, stream);
  if (!has_failed(failed, stream)) copy_block(basis(side), part_of(vectors, side), stream);
}

void Projector::find_cold(BasisSide side, const Tensor& g, const Tensor& failed,
                          Stream& stream) const {
  const int64_t most = std::min(part_.whole.dim(0), part_.whole.dim(1));
  const int64_t vectors = rank_ < kFewVectors ? std::min(rank_ + kMoreVectors, most) : rank_;
  // (the singular vectors choose the wanted ones of a larger block; without a choice to make they
  // are not worth it, and those of the smallest values are rounding)
  const SubspaceOptions options{
      .iterations = kColdIterations, .rotate = vectors > rank_, .sums = sums(side, stream)};
  if (vectors > rank_) {
    const Tensor block = temporary(basis_shape(g.shape(), side, vectors));
    randomize(block, side, stream);
    subspace_iteration(block, side, failed, g, options, stream);
    const Tensor first = side == kLeft ? block.columns(0, rank_) : block.rows(0, rank_);
    if (!has_failed(failed, stream)) return copy_block(basis(side), first, stream);
  }
  // A gradient may have rank enough for the basis, but not for the larger block.
  subspace_iteration(basis(side), side, failed, g, options, stream);
}

bool Projector::can_follow() const {
  return !options_.exact && !options_.rotate_moments && rank_ >= kFewVectors && !is_split();
}

void Projector::follow(const Tensor& g, const Tensor& vectors, BasisSide side,
                       Stream& stream) const {
  const SubspaceOptions options{.iterations = kWarmIterations, .sums = sums(side, stream)};
  subspace_iteration(vectors, side, failed_, g, options, stream);
}

size_t Projector::following_scratch_bytes(DType type) const {
  RW_ASSERT(can_follow(), "{}", name_);
  const Device device = arena_->device();
  Stream measuring(device, Stream::Mode::kMeasure);
  const Tensor g(nullptr, type, part_.shape(), device);
  for (const BasisSide side : {kLeft, kRight}) {
    if (basis(side).defined()) follow(g, basis(side), side, measuring);
  }
  project(Tensor(nullptr, DType::kF32, projected_shape(), device), g, measuring);
  return measuring.scratch_peak_bytes();
}

void Projector::refresh(const Tensor& g, const Tensor& moment, Stream& stream) const {
  RW_ASSERT(g.shape() == part_.shape(), "{}: gradient {}", name_, to_string(g.shape()));
  const Arena::Scope scope = arena_->scope("workspace");
  if (!found_) found_ = value_of(status_.rows(0, 1), 0.0f, stream) != 0.0f;
  bool finds = !found_;
  Projection old;
  for (const BasisSide side : {kLeft, kRight}) {
    const Tensor& vectors = basis(side);
    if (!vectors.defined()) continue;
    if (moment.defined()) {
      const Tensor& before = (side == kLeft ? old.left : old.right) = temporary(vectors.shape());
      copy(before, vectors, stream);
    }
    if (options_.exact) {
      find_exact(side, g, failed_, stream);
    } else if (found_ && rank_ >= kFewVectors) {
      follow(g, vectors, side, stream);
    } else {
      find_cold(side, g, failed_, stream);
    }
    add(status_.rows(1, 2), failed_, stream);
    finds = finds && !has_failed(failed_, stream);
  }
  if (finds) fill(status_.rows(0, 1), 1.0f, stream);
  found_ = found_ || finds;
  if (moment.defined()) rotate(moment, old, stream);
}

void Projector::rotate(const Tensor& moment, const Projection& old, Stream& stream) const {
  // new^T old of the left side and old new^T of the right one, both transposed.
  const auto overlap = [&](BasisSide side, const Projection& before) {
    if (!basis(side).defined()) return Tensor();
    const Tensor square = temporary({rank_, rank_});
    rankwise::project(square, basis(side), before, stream);
    if (splits(side)) over_tensor_ranks(ReduceOp::kSum, stream)(square);
    return square;
  };
  const Projection change{overlap(kLeft, {old.left, {}}), overlap(kRight, {{}, old.right})};
  const Tensor before = temporary(moment.shape());
  copy(before, moment, stream);
  rankwise::project(moment, before, change, stream);
}

void Projector::project(const Tensor& r, const Tensor& g, Stream& stream) const {
  rankwise::project(r, g, projection_, stream);
  if (is_split() && projected_spec().kind == ShardSpec::Kind::kReplicated) {
    over_tensor_ranks(ReduceOp::kSum, stream)(r);
  }
}

int64_t Projector::failed_refreshes(Stream& stream) const {
  return static_cast<int64_t>(value_of(status_.rows(1, 2), 0.0f, stream));
}

std::vector<NamedTensor> Projector::state() const {
  std::vector<NamedTensor> state{{name_ + ".projection_status", status_}};
  const auto& [left, right] = projection_;
  if (left.defined()) state.push_back({name_ + ".projection_left", left});
  if (right.defined()) state.push_back({name_ + ".projection_right", right});
  return state;
}

}  // namespace rankwise
