// SPDX-License-Identifier: Apache-2.0
// A small run that is stopped and resumed in a folder, and what it leaves there.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <functional>
#include <sstream>
#include <stdexcept>

#include "launch/preemption.h"
#include "launch/training_run.h"
#include "runtime/io/sha256.h"
#include "tests/end_to_end/small_run.h"
#include "tests/support/program.h"
#include "tests/support/raise_here.h"
#include "tests/support/thread_ranks.h"

namespace rankwise::testing {

namespace fs = std::filesystem;

inline constexpr int64_t kSteps = 12;

struct RunLayout {
  int data = 1;
  int tensor = 1;
};

inline void ask_to_stop() { raise_here(SIGUSR1); }
inline void fail() { throw std::logic_error("fails"); }

// One rank of a run in `config`'s folder. `action` happens on the last rank: in step `at`, or, with
// a `report` from 1, at that report of its evaluation (the second is of the first micro-batch).
inline ExitCode train_rank(const TrainConfig& config, const std::string& resume,
                           Communicator& world, int64_t at = 0,
                           const std::function<void()>& action = ask_to_stop, int report = 0) {
  std::ostringstream out;
  VerbContext context{.world = world,
                      .local_rank = world.rank(),
                      .local_size = world.size(),
                      .host = "host",
                      .out = out};
  TrainingRun run(config, context);  // its memory plan walks a step too
  int reports = at == 0 ? 0 : -1;    // of evaluations since step `at`
  if (world.rank() == world.size() - 1) {
    world.activity().set_observer([&](std::string_view work) {
      const bool is_begin = work == fmt::format("step {}", at);
      if (is_begin) reports = 0;
      if (work == "evaluate" && reports >= 0) ++reports;
      if ((is_begin || work == "evaluate") && reports == report) action();
    });
  }
  return run.run({.resume = resume});
}

// On ranks that are threads.
inline ExitCode train_in_folder(TrainConfig config, const std::string& resume,
                                RunLayout layout = {}, int64_t at = 0,
                                const std::function<void()>& action = ask_to_stop, int report = 0) {
  listen_for_requests();
  config.parallel.tensor = layout.tensor;
  std::vector<ExitCode> codes(static_cast<size_t>(layout.data * layout.tensor));
  run_ranks_as_threads(static_cast<int>(codes.size()), [&](Communicator& world) {
    codes[static_cast<size_t>(world.rank())] =
        train_rank(config, resume, world, at, action, report);
  });
  for (const ExitCode code : codes) EXPECT_EQ(code, codes[0]);
  return codes[0];
}

// All that a run computed.
struct Outcome {
  std::vector<double> losses, norms, evals, emas, tokens;
  std::string weights;  // digests of the results
  bool operator==(const Outcome&) const = default;
};

inline Outcome outcome_of(const std::string& folder) {
  const std::string metrics = folder + "/metrics.jsonl";
  Outcome outcome{read_metric(metrics, "loss"),      read_metric(metrics, "grad_norm"),
                  read_metric(metrics, "eval_loss"), read_metric(metrics, "loss_ema"),
                  read_metric(metrics, "tokens"),    ""};
  for (const char* name : {"/adapter/adapter_model.safetensors", "/model/model.safetensors"}) {
    if (fs::exists(folder + name)) outcome.weights += sha256_file(folder + name) + " ";
  }
  return outcome;
}

// `resumed`, in a folder of its own, computed in its steps what `whole` did, bit for bit.
inline void expect_end_of(const Outcome& whole, const Outcome& resumed) {
  const auto end = [&](const std::vector<double>& all, const std::vector<double>& like) {
    const auto first = std::ssize(all) - std::ssize(like);
    return std::vector<double>(all.begin() + std::max<ptrdiff_t>(0, first), all.end());
  };
  EXPECT_EQ(resumed.losses, end(whole.losses, resumed.losses));
  EXPECT_EQ(resumed.norms, end(whole.norms, resumed.norms));
  EXPECT_EQ(resumed.evals, end(whole.evals, resumed.evals));
  EXPECT_EQ(resumed.emas, end(whole.emas, resumed.emas));
  EXPECT_EQ(resumed.tokens, end(whole.tokens, resumed.tokens));
  EXPECT_EQ(resumed.weights, whole.weights);
}

// Digests of all files below a folder.
inline std::map<std::string, std::string> contents_of(const std::string& folder) {
  std::map<std::string, std::string> contents;
  for (const auto& entry : fs::recursive_directory_iterator(folder)) {
    if (entry.is_regular_file()) contents[entry.path()] = sha256_file(entry.path());
  }
  return contents;
}

// Later ones of the same key hold.
inline TrainConfig run_config(const SmallRun& run, const std::string& name,
                              const std::vector<std::string>& overrides) {
  std::map<std::string, std::string> by_key;
  const auto add = [&](const std::string& text) { by_key[text.substr(0, text.find('='))] = text; };
  for (const char* text : {"train.micro_batch=1", "data.shuffle=true", "optim.schedule=cosine",
                           "eval.every=4", "checkpoint.every=5"}) {
    add(text);
  }
  add(fmt::format("train.steps={}", kSteps));
  add(fmt::format("data.eval=[{{path: {}, format: tokens}}]", run.folder().file("rows.jsonl")));
  add("checkpoint.dir=" + run.folder().file(name));
  for (const std::string& text : overrides) add(text);
  std::vector<std::string> all;
  for (const auto& [key, text] : by_key) all.push_back(text);
  return run.config(all);
}

using Overrides = std::vector<std::string>;

}  // namespace rankwise::testing
