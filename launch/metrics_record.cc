// SPDX-License-Identifier: Apache-2.0
#include "launch/metrics_record.h"

#include <cmath>

namespace rankwise {

namespace {

Json number(double value) { return std::isfinite(value) ? Json(value) : Json(nullptr); }
Json count(std::optional<int64_t> value) { return value ? Json(*value) : Json(nullptr); }
Json number(std::optional<double> value) { return value ? number(*value) : Json(nullptr); }

}  // namespace

std::vector<std::pair<std::string, Json>> MetricsRecord::fields() const {
  return {
      {"step", step},
      {"epoch", number(epoch)},
      {"loss", number(loss)},
      {"loss_ema", number(loss_ema)},
      {"eval_loss", number(eval_loss)},
      {"token_accuracy", number(token_accuracy)},
      {"grad_norm", number(grad_norm)},
      {"lr", number(lr)},
      {"tokens", tokens},
      {"tokens_per_s", number(tokens_per_s)},
      {"tokens_per_s_per_rank", number(tokens_per_s_per_rank)},
      {"mfu", number(mfu)},
      {"step_ms", number(step_ms)},
      {"slowest_rank", slowest_rank},
      {"peak_bytes", peak_bytes},
      {"data_wait_ms", number(data_wait_ms)},
      {"comm_ms", number(comm_ms)},
      {"adalora_budget", count(adalora_budget)},
      {"adalora_active", count(adalora_active)},
      {"orth_loss", number(orth_loss)},
      {"galore_refresh_ms", number(galore_refresh_ms)},
      {"wire_bytes", wire_bytes},
      {"skipped_steps", skipped_steps},
  };
}

}  // namespace rankwise
