// SPDX-License-Identifier: Apache-2.0
// A small run for end-to-end tests: a random Llama, random token rows, and a Trainer driven
// directly.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "launch/trainer.h"
#include "launch/training_data.h"
#include "parallel/communicator.h"
#include "tests/support/scratch_folder.h"

namespace rankwise::testing {

struct SmallRunOptions {
  int64_t rows = 24;
  int64_t min_length = 5;
  int64_t max_length = 24;
};

// config.json of a Llama with hidden 32, grouped-query attention and odd sizes.
std::string small_model_config();
// JSON lines of `tokens` records with random ids and some masked labels.
std::string random_token_rows(const SmallRunOptions& options, uint64_t seed);

// Files of a small run in a scratch folder, and the configuration that uses them.
class SmallRun {
 public:
  explicit SmallRun(const SmallRunOptions& options = {});
  // `overrides` on top of: 6 steps, global batch 8, LoRA rank 4, fp32 base, no packing, no shuffle.
  TrainConfig config(const std::vector<std::string>& overrides = {}) const;
  const ScratchFolder& folder() const { return folder_; }

 private:
  ScratchFolder folder_;
};

struct SmallRunResult {
  std::vector<double> losses;
  std::vector<double> norms;
  std::vector<float> adapter;  // all replicated weights after the last step
  // Of AdaLoRA, after every step: the triplets of each module that stay.
  std::vector<std::map<std::string, std::vector<bool>>> kept;
};

// Trains on `world` and returns this rank's view, after checking in every step that all ranks hold
// the same replicated weights, bit for bit.
SmallRunResult train(const TrainConfig& config, Communicator& world, Device device = {});
// On `ranks` threads; rank 0's view, after checking that every rank holds the same adapter bits.
SmallRunResult train_on_threads(const TrainConfig& config, int ranks);

}  // namespace rankwise::testing
