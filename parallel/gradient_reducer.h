// SPDX-License-Identifier: Apache-2.0
// GradientReducer: owns the gradients, sums them over the ranks in buckets while backward runs.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <unordered_map>
#include <vector>

#include "parallel/device_mesh.h"
#include "parallel/parameter.h"
#include "runtime/arena.h"

namespace rankwise {

// Gradients are sums over tokens; finish_step divides once by the global count of trained tokens,
// so the loss is exact whatever the ranks, micro-batches and packing. A replicated parameter is
// summed over the world: each tensor rank holds the gradient of the slice it used, or a summand,
// and of what all of them compute alike only the first hands in a gradient. A sharded one is summed
// over the data axis. Buckets leave in the order of `parameters` on every rank, whatever the order
// of ready(), since collectives must match.
class GradientReducer {
 public:
  // `parameters` in the order backward finishes them; sets Parameter::gradient to views of one flat
  // buffer ("gradients" in the arena).
  GradientReducer(std::span<Parameter* const> parameters, const DeviceMesh& mesh, Arena& arena,
                  int64_t bucket_bytes = 25 << 20);
  ~GradientReducer();

  void begin_step(Stream& stream);  // zeroes gradients and the token count
  // Before each backward pass; in the last one of a step full buckets leave at once.
  void begin_micro_batch(int64_t trained_tokens, bool last);
  // Backward will not touch this parameter's gradient again in this micro-batch.
  void ready(const Parameter& parameter, Stream& stream);
  // Waits for all buckets, divides by the global token count and returns it.
  int64_t finish_step(Stream& stream);
  // Instead, when no micro-batch was the last: gradients are this rank's sums.
  void end_without_reducing();

  std::span<Parameter* const> parameters() const { return parameters_; }
  // All gradients as one flat F32 tensor, in parameter order (with alignment gaps that stay zero).
  Tensor flat() const { return flat_; }

 private:
  struct Bucket;
  void start_full_buckets(Stream& stream);
  void start(Bucket& bucket, Stream& stream);
  void check_all_ready() const;

  std::vector<Parameter*> parameters_;
  std::unordered_map<const Parameter*, size_t> index_;  // into parameters_, bucket_of_, ready_
  std::vector<size_t> bucket_of_;
  std::vector<bool> ready_;  // in this micro-batch
  std::vector<Bucket> buckets_;
  size_t next_bucket_ = 0;  // the first that has not left in this step
  const DeviceMesh* mesh_;
  Tensor flat_;
  int64_t tokens_ = 0;
  bool in_step_ = false;
  bool last_ = false;  // the micro-batch under way is the step's last
};

}  // namespace rankwise
