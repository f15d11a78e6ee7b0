// SPDX-License-Identifier: Apache-2.0
// `rankwise merge MODEL --adapter DIR -o OUT`: folds an adapter into the weights of its base.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "launch/verbs/verb.h"

namespace rankwise {

// What the adapter is added to. An adapter trained beside 4-bit weights has learnt to make up for
// their error: added to the original weights it gives another model than the one that was trained.
enum class MergeBase { kOriginal, kDequantized };

struct MergeOptions {
  std::string model;  // HF folder or quantised store
  std::string adapter;
  std::string output;
  std::optional<MergeBase> base;  // unset: original for a folder, dequantised for a store
  bool trained_on_nf4 = false;    // of an HF folder; implied by base dequantised
  bool double_quant = true;       // of that NF4
  bool overwrite = false;
};

// Logits of the model with its adapter against those of the merged model as read back from disk,
// for fixed token ids.
struct MergeReport {
  MergeBase base = MergeBase::kOriginal;
  int64_t merged_modules = 0;
  int64_t probe_tokens = 0;
  double largest_logit = 0.0;
  double max_difference = 0.0;
  double mean_difference = 0.0;
  double base_max_difference = 0.0;  // the adapter's effect: with against without it
  int64_t equal_predictions = 0;     // of probe_tokens
};

// Writes an HF folder with the element types of the source. ConfigError for options that contradict
// each other or the model; DiskError leaves nothing under the name, or what stood there.
MergeReport merge_adapter(const MergeOptions& options);

}  // namespace rankwise
