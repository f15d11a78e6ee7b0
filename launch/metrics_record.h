// SPDX-License-Identifier: Apache-2.0
// MetricsRecord: what is known of one logged step, under the names of metrics.jsonl.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "runtime/io/json.h"

namespace rankwise {

// An unset field was not measured at this step: null in metrics.jsonl, empty in metrics.csv. So is
// a number that is not finite.
struct MetricsRecord {
  int64_t step = 0;  // optimizer steps done, from 1
  double epoch = 0.0;
  double loss = 0.0;  // mean over the trained tokens of the global batch
  double loss_ema = 0.0;
  std::optional<double> eval_loss = std::nullopt;
  std::optional<double> token_accuracy = std::nullopt;
  double grad_norm = 0.0;  // before clipping
  double lr = 0.0;
  int64_t tokens = 0;  // processed since the start of the run, all ranks
  double tokens_per_s = 0.0;
  double tokens_per_s_per_rank = 0.0;
  std::optional<double> mfu = std::nullopt;  // share of the machine's measured matmul rate, 0..1
  double step_ms = 0.0;
  int64_t slowest_rank = 0;
  int64_t peak_bytes = 0;  // largest of all ranks
  double data_wait_ms = 0.0;
  double comm_ms = 0.0;
  std::optional<int64_t> adalora_budget = std::nullopt;    // triplets that may be kept, of all
  std::optional<int64_t> adalora_active = std::nullopt;    // matrices; and those that are not 0
  std::optional<double> orth_loss = std::nullopt;          // AdaLoRA's regulariser, not in `loss`
  std::optional<double> galore_refresh_ms = std::nullopt;  // of the slowest rank
  int64_t wire_bytes = 0;                                  // sent by one rank in this step
  int64_t skipped_steps = 0;  // without an update, since the start of the run

  // Name and value of every field, in the order of the files.
  std::vector<std::pair<std::string, Json>> fields() const;
};

}  // namespace rankwise
