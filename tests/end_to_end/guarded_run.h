// SPDX-License-Identifier: Apache-2.0
// Small runs with steps that give no finite loss or gradient, or a spike: planted in the data.
#pragma once

#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>

#include "launch/run_state.h"
#include "model/hf_folder.h"
#include "tests/end_to_end/rank_run.h"
#include "tests/end_to_end/resumed_run.h"
#include "tests/support/error_of.h"

namespace rankwise::testing {

// Of the small model, whose row of this token is NaN.
inline constexpr int kBadToken = 66;
inline constexpr int64_t kRowsPerStep = 8;

inline void write_model_with_bad_token(const ScratchFolder& folder) {
  const ModelConfig config = parse_model_config(parse_json(small_model_config(), "model"), "model");
  const auto weights = make_random_weights(config, 3);
  Arena arena;
  std::vector<NamedTensor> tensors;
  for (const auto& [name, shape] : weight_shapes(config)) {
    tensors.push_back({name, arena.allocate("weights", DType::kF32, shape)});
    weights->read(name, tensors.back().tensor);
    if (name != "model.embed_tokens.weight") continue;
    const Tensor row = tensors.back().tensor.rows(kBadToken, kBadToken + 1);
    std::fill_n(row.data<float>(), row.numel(), std::nanf(""));
  }
  write_hf_folder(folder.file("weights"), config, tensors, {});
}

enum class Bad { kLoss, kGradient };  // the latter alone

// 8 rows for each step. The last row of the `bad` steps (from 1) has the token within, so that the
// loss is NaN, or at its end, where it is no input of any loss but of products with zero gradients.
inline std::string rows_with_bad_steps(const std::vector<int64_t>& bad, Bad kind,
                                       int64_t steps = kSteps) {
  std::string text;
  const Rng rng(5, "rows");
  uint64_t draw = 0;
  for (int64_t row = 0; row < steps * kRowsPerStep; ++row) {
    std::vector<int> ids;
    for (int i = 0; i < 9; ++i) ids.push_back(static_cast<int>(rng.below(draw++, kBadToken)));
    const bool is_bad = std::ranges::count(bad, row / kRowsPerStep + 1) > 0;
    if (is_bad && row % kRowsPerStep == kRowsPerStep - 1) {
      ids[kind == Bad::kLoss ? 4 : 8] = kBadToken;
    }
    const std::string list = fmt::format("{}", fmt::join(ids, ","));
    text += "{\"input_ids\": [" + list + "], \"labels\": [" + list + "]}\n";
  }
  return text;
}

// None trains the embedding, of which the bad row could not be saved.
inline const std::map<std::string, Overrides>& guarded_methods() {
  static const std::map<std::string, Overrides> table = {
      {"lora", {"adapt.0.dropout=0.1"}},
      {"dora", {"adapt.0.method=dora"}},
      {"adalora",
       {"adapt.0={method: adalora, adalora: {init_rank: 6, target_rank: 3, warmup: 2, final: 3, "
        "interval: 2}}"}},
      {"galore", {"adapt.0={match: \"*_proj\", method: galore, galore: {rank: 8, refresh: 4}}"}},
      {"full", {"adapt.0={match: \"*_proj\", method: full}"}},
  };
  return table;
}

// Rows in their order, evaluation without the bad token.
inline TrainConfig guarded_config(const SmallRun& files, const std::string& name,
                                  const Overrides& overrides) {
  const auto path = [&](const char* file) { return files.folder().file(file); };
  Overrides all = {fmt::format("model={{path: {}, quant: none}}", path("weights")),
                   fmt::format("data.train=[{{path: {}, format: tokens}}]", path("bad.jsonl")),
                   fmt::format("data.eval=[{{path: {}, format: tokens}}]", path("good.jsonl")),
                   "data.shuffle=false"};
  all.insert(all.end(), overrides.begin(), overrides.end());
  return run_config(files, name, all);
}

// The files of such a run.
inline void write_guarded_files(const SmallRun& files, const std::vector<int64_t>& bad,
                                Bad kind = Bad::kLoss) {
  write_model_with_bad_token(files.folder());
  files.folder().write("bad.jsonl", rows_with_bad_steps(bad, kind));
  files.folder().write("good.jsonl", rows_with_bad_steps({}, kind, 2));
}

// Bytes of weights, moments, importance, bases.
inline std::map<std::string, std::string> state_of(RankRun& run) {
  std::map<std::string, std::string> state;
  for (const LocalTensor& tensor : run_tensors(run.trainer())) {
    state[tensor.name].assign(static_cast<const char*>(tensor.value.raw()),
                              static_cast<size_t>(tensor.value.bytes()));
  }
  state["steps"] = fmt::format("{}", run.trainer().optimizer().steps_taken());
  return state;
}

// Of the Error that `run` throws, after a look for parts of its message; kDone without one.
inline ExitCode code_of(const std::function<void()>& run, const std::vector<std::string>& parts) {
  try {
    run();
  } catch (const Error& error) {
    for (const std::string& part : parts) RW_EXPECT_HAS(error.what(), part);
    return error.exit_code();
  }
  return ExitCode::kDone;
}

}  // namespace rankwise::testing
