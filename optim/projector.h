// SPDX-License-Identifier: Apache-2.0
// Projector: the low-rank basis that the gradients of one weight are projected on.
// Source: Zhao et al., "GaLore".
#pragma once

#include <string>
#include <vector>

#include "kernels/orthonormalize.h"
#include "kernels/projection.h"
#include "parallel/device_mesh.h"
#include "parallel/parameter.h"
#include "runtime/arena.h"
#include "runtime/named_tensor.h"

namespace rankwise {

// Sides that a gradient (out, in) is projected on. kStd keeps the state small: right where
// out >= in, else left; kReverseStd the other way round; kFull both.
enum class ProjectionType { kStd, kReverseStd, kLeft, kRight, kFull };

struct ProjectionOptions {
  ProjectionType type = ProjectionType::kStd;
  int64_t rank = 128;           // clipped to the smaller dimension
  int64_t refresh = 200;        // steps between refreshes
  int64_t offset = 0;           // of the steps after the first with a refresh: staggers layers
  double scale = 0.25;          // of updates
  bool exact = false;           // singular value decomposition on the host, not subspace iteration
  bool rotate_moments = false;  // takes the first moment over into the new basis; AdamW only
  uint64_t seed = 0;
};

// Decides by the shape of the whole weight and remembers. Of a weight that is split over the tensor
// axis each rank holds the part of the basis that belongs to its rows or columns; sums over that
// axis make the result that of the whole weight, up to rounding. Ranks of the data axis that are
// given the same gradients hold the same bits.
//
// Until the first refresh that succeeds the basis is random. One that fails (a gradient that is not
// finite, or of lower rank) is counted and leaves the basis as it is, of kFull each by itself.
class Projector {
 public:
  // `weight` is a matrix, of which no part lies on several ranks. Called by all tensor ranks. Bases
  // are allocated in the arena under "projections", working memory under "workspace".
  Projector(const Parameter& weight, const ProjectionOptions& options, const DeviceMesh& mesh,
            Arena& arena, Stream& stream);

  const ProjectionOptions& options() const { return options_; }
  const Projection& projection() const { return projection_; }
  // Of the whole weight, this rank's.
  const MatrixSlice& part() const { return part_; }
  // Of this rank's projected gradient R, and of all that has its shape. Where the weight is split
  // but R is not, each rank computes a summand of R.
  Shape projected_shape() const { return projection_.projected(part_.shape()); }
  ShardSpec projected_spec() const;

  // `step` is the number of updates before: 0, then each with step % refresh = offset.
  bool is_due(int64_t step) const {
    return step == 0 || step % options_.refresh == options_.offset;
  }
  // g (this rank's part of the weight), contiguous, the sum over the data axis: F32, or BF16 on
  // CUDA unless exact. 3 iterations until the first success, then 4 from the present basis.
  // moment (as R, F32; or undefined): what it stood for in the old basis, projected on the new one.
  // Waits for the stream unless follows(). Called by all tensor ranks.
  void refresh(const Tensor& g, const Tensor& moment, Stream& stream) const;
  // Whether refresh() only gives work to its stream and takes that one's scratch: no waiting, no
  // memory of the arena, no other ranks. Then several projectors may be refreshed at the same time,
  // each on a stream of its own. False until refresh() knows that a basis was found.
  bool follows() const { return can_follow() && found_; }
  // What follows() will be once a basis was found.
  bool can_follow() const;
  // Scratch of refresh() when follows(), and of project(), with g of this type.
  size_t following_scratch_bytes(DType type) const;
  // r (projected_shape()) = left^T g right^T of the whole g. Called by all tensor ranks.
  void project(const Tensor& r, const Tensor& g, Stream& stream) const;

  // Waits for the stream.
  int64_t failed_refreshes(Stream& stream) const;
  // "<weight>.projection_left" or "<weight>.projection_right" by the side, or both, and
  // "<weight>.projection_status".
  std::vector<NamedTensor> state() const;

 private:
  const Tensor& basis(BasisSide side) const {
    return side == BasisSide::kLeft ? projection_.left : projection_.right;
  }
  bool is_split() const { return spec_.kind == ShardSpec::Kind::kSharded; }
  bool splits(BasisSide side) const {
    return is_split() && spec_.dim == (side == BasisSide::kLeft ? 0 : 1);
  }
  Tensor temporary(const Shape& shape) const {
    return arena_->allocate("workspace", DType::kF32, shape);
  }
  // This rank's part of the basis of the whole weight.
  Tensor part_of(const Tensor& whole, BasisSide side) const;
  RankSum over_tensor_ranks(ReduceOp op, Stream& stream) const;
  SubspaceSums sums(BasisSide side, Stream& stream) const;

  void randomize(const Tensor& vectors, BasisSide side, Stream& stream) const;
  void follow(const Tensor& g, const Tensor& vectors, BasisSide side, Stream& stream) const;
  void find_exact(BasisSide side, const Tensor& g, const Tensor& failed, Stream& stream) const;
  void find_cold(BasisSide side, const Tensor& g, const Tensor& failed, Stream& stream) const;
  void rotate(const Tensor& moment, const Projection& old, Stream& stream) const;

  std::string name_;
  ProjectionOptions options_;
  ShardSpec spec_;  // replicated where one rank holds all
  const DeviceMesh* mesh_;
  Arena* arena_;
  MatrixSlice part_;
  int64_t rank_ = 0;
  Projection projection_;
  Tensor status_;               // (2) F32: 1 when the basis comes from a gradient; failed refreshes
  Tensor failed_;               // (1) F32, of a side
  mutable bool found_ = false;  // what refresh() knows of status_
};

}  // namespace rankwise
