// SPDX-License-Identifier: Apache-2.0
#include "parallel/gradient_reducer.h"

#include <algorithm>

#include "kernels/elementwise.h"

namespace rankwise {
namespace {

constexpr int64_t kAlignedFloats = Arena::kAlignment / static_cast<int64_t>(sizeof(float));

int64_t aligned(int64_t floats) {
  return (floats + kAlignedFloats - 1) / kAlignedFloats * kAlignedFloats;
}

Communicator* ranks_that_add(const Parameter& parameter, const DeviceMesh& mesh) {
  const ShardSpec::Kind kind = parameter.gradient_spec().kind;
  RW_ASSERT(kind != ShardSpec::Kind::kPartial, "{}", parameter.name);
  return kind == ShardSpec::Kind::kSharded ? &mesh.data() : &mesh.world();
}

}  // namespace

// Consecutive parameters with the same ranks to add over, and their range of the flat buffer.
struct GradientReducer::Bucket {
  Communicator* ranks = nullptr;
  Tensor gradients;
  int64_t begin = 0;  // floats
  int64_t end = 0;
  int parameter_count = 0;
  int missing = 0;  // parameters not ready in this micro-batch
  std::string operation;
  std::unique_ptr<PendingCollective> pending;
};

GradientReducer::GradientReducer(std::span<Parameter* const> parameters, const DeviceMesh& mesh,
                                 Arena& arena, int64_t bucket_bytes)
    : parameters_(parameters.begin(), parameters.end()),
      ready_(parameters_.size(), false),
      mesh_(&mesh) {
  std::vector<int64_t> offsets;
  int64_t end = 0;
  for (const Parameter* parameter : parameters_) {
    RW_ASSERT(parameter->trainable, "{}", parameter->name);
    RW_ASSERT(index_.emplace(parameter, index_.size()).second, "{} twice", parameter->name);
    Communicator* ranks = ranks_that_add(*parameter, mesh);
    const int64_t begin = end;
    end += aligned(parameter->gradient_shape().numel());
    const bool fits = !buckets_.empty() && buckets_.back().ranks == ranks &&
                      (end - buckets_.back().begin) * 4 <= bucket_bytes;
    if (!fits) {
      Bucket bucket;
      bucket.ranks = ranks;
      bucket.begin = begin;
      bucket.operation = fmt::format("gradient bucket {}", buckets_.size());
      buckets_.push_back(std::move(bucket));
    }
    buckets_.back().end = end;
    ++buckets_.back().parameter_count;
    bucket_of_.push_back(buckets_.size() - 1);
    offsets.push_back(begin);
  }
  flat_ = arena.allocate("gradients", DType::kF32, {end});
  for (size_t i = 0; i < parameters_.size(); ++i) {
    const Shape shape = parameters_[i]->gradient_shape();
    parameters_[i]->gradient = flat_.rows(offsets[i], offsets[i] + shape.numel()).reshaped(shape);
  }
  for (Bucket& bucket : buckets_) bucket.gradients = flat_.rows(bucket.begin, bucket.end);
}

GradientReducer::~GradientReducer() = default;

void GradientReducer::begin_step(Stream& stream) {
  RW_ASSERT(!in_step_, "the previous step was not finished");
  fill(flat_, 0.0f, stream);
  tokens_ = 0;
  next_bucket_ = 0;
  last_ = false;
  in_step_ = true;
  std::fill(ready_.begin(), ready_.end(), true);  // no micro-batch is open
}

void GradientReducer::begin_micro_batch(int64_t trained_tokens, bool last) {
  RW_ASSERT(in_step_, "begin_step comes first");
  RW_ASSERT(!last_, "a micro-batch after the last one of the step");
  check_all_ready();
  tokens_ += trained_tokens;
  last_ = last;
  std::fill(ready_.begin(), ready_.end(), false);
  for (Bucket& bucket : buckets_) bucket.missing = bucket.parameter_count;
}

void GradientReducer::ready(const Parameter& parameter, Stream& stream) {
  const auto found = index_.find(&parameter);
  RW_ASSERT(found != index_.end(), "{} is not reduced here", parameter.name);
  RW_ASSERT(!ready_[found->second], "{}: ready twice, or outside a micro-batch", parameter.name);
  ready_[found->second] = true;
  --buckets_[bucket_of_[found->second]].missing;
  if (!last_) return;
  if (next_bucket_ > 0) buckets_[next_bucket_ - 1].pending->progress();
  start_full_buckets(stream);
}

void GradientReducer::start_full_buckets(Stream& stream) {
  while (next_bucket_ < buckets_.size() && buckets_[next_bucket_].missing == 0) {
    start(buckets_[next_bucket_], stream);
    ++next_bucket_;
  }
}

void GradientReducer::start(Bucket& bucket, Stream& stream) {
  bucket.pending =
      bucket.ranks->start_all_reduce(bucket.gradients, ReduceOp::kSum, bucket.operation, stream);
}

void GradientReducer::check_all_ready() const {
  for (size_t i = 0; i < ready_.size(); ++i) {
    RW_ASSERT(ready_[i], "{}: never ready in the micro-batch", parameters_[i]->name);
  }
}

int64_t GradientReducer::finish_step(Stream& stream) {
  RW_ASSERT(in_step_, "begin_step comes first");
  check_all_ready();
  for (; next_bucket_ < buckets_.size(); ++next_bucket_) start(buckets_[next_bucket_], stream);
  for (Bucket& bucket : buckets_) {
    bucket.pending->wait();
    bucket.pending.reset();
  }
  // Tensor ranks see the same tokens, so these are counted over the data axis only.
  int64_t global_tokens = tokens_;
  const Tensor count(&global_tokens, DType::kI64, {1});
  mesh_->data().all_reduce(count, ReduceOp::kSum, "token count", stream);
  if (global_tokens > 0) {
    scale(flat_, static_cast<float>(1.0 / static_cast<double>(global_tokens)), stream);
  }
  in_step_ = false;
  return global_tokens;
}

void GradientReducer::end_without_reducing() {
  RW_ASSERT(in_step_ && !last_, "buckets may have left");
  check_all_ready();
  in_step_ = false;
}

}  // namespace rankwise
