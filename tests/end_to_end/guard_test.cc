// SPDX-License-Identifier: Apache-2.0
// Steps whose loss or gradients are not finite, spikes, and replicas that differ: found on all
// ranks before anything is changed, named, and skipped or the end of the run.
#include "runtime/io/atomic_file.h"
#include "tests/end_to_end/guarded_run.h"

namespace rankwise::testing {
namespace {

constexpr RunLayout kLayouts[] = {{1, 1}, {2, 1}, {1, 2}};

// "rank 1 (loss, gradient of ": who has the last row of a step.
std::string expected_source(const RunLayout& layout, Bad kind) {
  const char* what = kind == Bad::kLoss ? "loss, gradient of " : "gradient of ";
  if (layout.tensor == 1)
    return fmt::format("not finite by itself: rank {} ({}", layout.data - 1, what);
  return fmt::format("not finite by itself: rank 0 ({}", what);
}

void expect_finding(const std::string& text, const RunLayout& layout, Bad kind) {
  const std::string source = expected_source(layout, kind);
  EXPECT_NE(text.find(source), std::string::npos) << text << "\nlacks\n" << source;
  EXPECT_EQ(text.find("), rank 1 (") != std::string::npos, layout.tensor == 2) << text;
  EXPECT_EQ(text.find("loss nan") != std::string::npos, kind == Bad::kLoss) << text;
}

// Step `bad` of a run, and the one after it.
void expect_unchanged(const std::string& method, const RunLayout& layout, Bad kind,
                      const char* action, int64_t bad) {
  SCOPED_TRACE(fmt::format("{} on {} x {}, {}", method, layout.data, layout.tensor, action));
  const SmallRun files;
  write_guarded_files(files, {bad}, kind);
  Overrides overrides = guarded_methods().at(method);
  overrides.push_back(fmt::format("guard.nan={}", action));
  TrainConfig config = guarded_config(files, "run", overrides);
  config.parallel.tensor = layout.tensor;
  run_ranks_as_threads(layout.data * layout.tensor, [&](Communicator& world) {
    RankRun run(config, world);
    for (int64_t step = 1; step < bad; ++step) EXPECT_FALSE(run.step().skipped);
    const auto before = state_of(run);
    if (config.guard.nan == GuardAction::kStop) {
      try {
        run.step();
        ADD_FAILURE() << "no error on rank " << world.rank();
      } catch (const Error& error) {
        EXPECT_EQ(error.exit_code(), ExitCode::kDiverged);
        const std::string text = error.what();
        EXPECT_TRUE(text.starts_with(fmt::format("step {}: ", bad))) << text;
        EXPECT_TRUE(text.ends_with(fmt::format("weights are those of step {}", bad - 1))) << text;
        expect_finding(text, layout, kind);
      }
      EXPECT_TRUE(state_of(run) == before);
      return;
    }
    const StepMeasurement skipped = run.step();
    EXPECT_TRUE(skipped.skipped);
    expect_finding(skipped.finding, layout, kind);
    EXPECT_TRUE(state_of(run) == before);
    EXPECT_EQ(run.trainer().guard().skipped_in_row(), 1);
    const StepMeasurement next = run.step();
    EXPECT_FALSE(next.skipped) << next.finding;
    EXPECT_EQ(next.finding, "");
    EXPECT_TRUE(std::isfinite(next.loss) && std::isfinite(next.gradient_norm));
    EXPECT_FALSE(state_of(run) == before);
    EXPECT_EQ(run.trainer().guard().skipped(), 1);
    EXPECT_EQ(run.trainer().guard().skipped_in_row(), 0);
  });
}

class NotFinite : public ::testing::TestWithParam<std::string> {};

TEST_P(NotFinite, LossEndsTheRunWithWeightsAndStateOfTheStepBefore) {
  for (const RunLayout& layout : kLayouts) {
    expect_unchanged(GetParam(), layout, Bad::kLoss, "stop", 3);
  }
}

TEST_P(NotFinite, StepIsSkippedOnAllRanksAndChangesNothing) {
  for (const RunLayout& layout : kLayouts) {
    for (const Bad kind : {Bad::kLoss, Bad::kGradient}) {
      expect_unchanged(GetParam(), layout, kind, "skip", 3);
    }
  }
}

// (the first forward pass of DoRA makes its magnitudes)
TEST(NotFiniteLoss, OfTheFirstStepIsSkippedToo) {
  for (const char* method : {"lora", "adalora", "galore", "full"}) {
    expect_unchanged(method, {2, 1}, Bad::kLoss, "skip", 1);
  }
}

// Choices of AdaLoRA are due in steps 5 and, the last one, 10.
TEST_P(NotFinite, ResumeOverSkippedStepsHasTheSameBits) {
  const SmallRun files;
  write_guarded_files(files, {1, 3, 5, 10});
  Overrides method = guarded_methods().at(GetParam());
  method.push_back("guard.nan=skip");
  const TrainConfig whole = guarded_config(files, "whole", method);
  ASSERT_EQ(train_in_folder(whole, "none"), ExitCode::kDone);
  const Outcome expected = outcome_of(whole.checkpoint.dir);
  EXPECT_EQ(expected.losses.size(), static_cast<size_t>(kSteps - 4));
  const std::string metrics = whole.checkpoint.dir + "/metrics.jsonl";
  EXPECT_EQ(read_metric(metrics, "skipped_steps"),
            (std::vector<double>{1, 1, 2, 2, 3, 3, 3, 3, 3, 4, 4, 4}));
  const std::string log = read_file(whole.checkpoint.dir + "/log.txt");
  EXPECT_NE(log.find("WARNING: step 5: loss nan with gradient norm"), std::string::npos) << log;
  EXPECT_NE(log.find("no update (3 skipped so far)"), std::string::npos) << log;
  if (GetParam() == "adalora") {
    EXPECT_EQ(read_metric(metrics, "adalora_active").back(),
              read_metric(metrics, "adalora_budget").back());
    EXPECT_LT(read_metric(metrics, "adalora_active").back(),
              read_metric(metrics, "adalora_active").front());
  }
  for (const int64_t stop : {1, 4, 5, 10}) {
    SCOPED_TRACE(stop);
    const TrainConfig config = guarded_config(files, fmt::format("stop{}", stop), method);
    ASSERT_EQ(train_in_folder(config, "auto", {}, stop), ExitCode::kRequeue);
    ASSERT_EQ(train_in_folder(config, "auto"), ExitCode::kDone);
    EXPECT_TRUE(outcome_of(config.checkpoint.dir) == expected);
  }
}

INSTANTIATE_TEST_SUITE_P(Methods, NotFinite,
                         ::testing::Values("lora", "dora", "adalora", "galore", "full"),
                         [](const auto& method) { return method.param; });

// Choices are due from step 5 on, the last one in step 10; none has an update to come with.
TEST(SkippedSteps, AtTheEndLeaveNoChoiceOfRanksOwed) {
  const SmallRun files;
  write_guarded_files(files, {5, 6, 7, 8, 9, 10, 11, 12});
  Overrides method = guarded_methods().at("adalora");
  method.push_back("guard.nan=skip");
  const TrainConfig whole = guarded_config(files, "whole", method);
  ASSERT_EQ(train_in_folder(whole, "none", {2, 1}), ExitCode::kDone);
  const std::string folder = whole.checkpoint.dir;
  const double target = read_metric(folder + "/metrics.jsonl", "adalora_budget").front() / 2;
  EXPECT_EQ(read_metric(folder + "/metrics.jsonl", "adalora_budget").back(), target);
  EXPECT_EQ(read_metric(folder + "/metrics.jsonl", "adalora_active").back(), target);
  ptrdiff_t exported = 0;
  const Json adapter = read_json_file(folder + "/adapter/adapter_config.json");
  for (const Json& kept : adapter.at("rank_pattern")) {
    exported += std::ranges::count(kept, Json(true));
  }
  EXPECT_EQ(static_cast<double>(exported), target);
  const TrainConfig stopped = guarded_config(files, "stopped", method);
  ASSERT_EQ(train_in_folder(stopped, "auto", {2, 1}, 11), ExitCode::kRequeue);
  ASSERT_EQ(train_in_folder(stopped, "auto", {2, 1}), ExitCode::kDone);
  EXPECT_TRUE(outcome_of(stopped.checkpoint.dir) == outcome_of(folder));
}

TEST(SkippedSteps, EndTheRunWhenTooManyFollowOneAnother) {
  const SmallRun files;
  write_guarded_files(files, {2, 4, 5, 6});
  const TrainConfig config = guarded_config(files, "run", {"guard.nan=skip", "guard.max_skips=2"});
  EXPECT_EQ(
      code_of(
          [&] {
            train_in_folder(config, "none", {2, 1});
          },
          {"step 6: loss nan", "after 2 skipped steps in a row", "weights are those of step 3"}),
      ExitCode::kDiverged);
}

TEST(NotFiniteLoss, OfOneRankIsTheOneErrorOfTheProgram) {
  const SmallRun files;
  write_guarded_files(files, {2});
  const std::string yaml =
      files.folder().write("run.yaml", print_config(guarded_config(files, "run", {})));
  const ProgramResult result = run_rankwise({"train", yaml}, 2);
  EXPECT_EQ(result.exit_code, 76);
  RW_EXPECT_HAS(result.errors,
                "step 2: loss nan with gradient norm nan; not finite by itself: rank 1 (");
  EXPECT_EQ(result.errors.find("rankwise: error: "), result.errors.rfind("rankwise: error: "));
}

// A transient fault is not there when the gradients are computed again.
TEST(NotFiniteGradient, ThatIsGoneOnceMoreIsCalledSo) {
  const SmallRun files;
  write_guarded_files(files, {});
  TrainConfig config = guarded_config(files, "run", {});
  run_ranks_as_threads(1, [&](Communicator& world) {
    RankRun run(config, world);
    world.activity().set_observer([&](std::string_view work) {
      if (work != "step 1" && work != "step 1 once more") return;
      Parameter* first = run.trainer().model().trained_parameters()[0];
      *first->dense().data<float>() = work == "step 1" ? std::nanf("") : 1.0f;
    });
    EXPECT_EQ(code_of([&] { run.step(); },
                      {"step 1: loss nan", "computed once more, they are finite on every rank"}),
              ExitCode::kDiverged);
  });
}

}  // namespace
}  // namespace rankwise::testing
