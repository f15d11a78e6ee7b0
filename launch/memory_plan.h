// SPDX-License-Identifier: Apache-2.0
// MemoryPlan: what a training step needs, measured without memory, and the recomputation that fits.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "launch/config/train_config.h"
#include "launch/model_files.h"
#include "parallel/device_mesh.h"
#include "runtime/arena.h"
#include "runtime/data/micro_batch.h"

namespace rankwise {

std::string_view name_of(Recompute choice);

struct MemoryPlan {
  Device device;
  Recompute recompute = Recompute::kNone;
  std::vector<Arena::Usage> usage = {};  // largest first
  int64_t scratch_bytes = 0;             // of the stream
  // Of the copy in host memory that is written while training goes on.
  int64_t checkpoint_bytes = 0;
  int64_t available_bytes = 0;                                // 0: unknown
  std::vector<std::pair<Recompute, int64_t>> too_large = {};  // tried before, and what they need

  // On the device: of a GPU without the checkpoint.
  int64_t total_bytes() const;
  // All of it, so that no step needs to grow.
  void reserve(Arena& arena, Stream& stream) const;
  // One line by purpose, then the choice.
  std::string table() const;
  // "needs 5.1 GiB of 138.2 GiB available on cuda:0; recompute none".
  std::string summary() const;
};

// A micro-batch as large as the configuration and the data allow.
MicroBatch largest_micro_batch(const TrainConfig& config, const Dataset& dataset);

// Walks a step over `batch` in measuring mode, with train.recompute as given; auto is the first of
// none, selective and full that fits into available_bytes, else full. Needs no GPU.
MemoryPlan plan_memory(const TrainConfig& config, const ModelFiles& files, const DeviceMesh& mesh,
                       const MicroBatch& batch, int64_t total_steps, Device device,
                       int64_t available_bytes);

}  // namespace rankwise
