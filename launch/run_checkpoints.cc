// SPDX-License-Identifier: Apache-2.0
#include "launch/run_checkpoints.h"

#include <filesystem>
#include <limits>
#include <utility>

#include "launch/checkpoint/checkpoint_folder.h"
#include "launch/output_folder.h"
#include "launch/progress_line.h"
#include "launch/run_folder.h"
#include "runtime/failpoint.h"
#include "runtime/io/atomic_file.h"
#include "runtime/io/regular_file.h"

namespace rankwise {
namespace {

constexpr int kFutileStarts = 3;

// In a row from this step.
int counted_starts(const std::string& folder, int64_t step) {
  try {
    const Json known = read_json_file(folder + "/" + kStartsFile);
    if (known.at("step") == step) return known.at("starts").get<int>();
  } catch (const std::exception&) {  // none yet, or damaged: the count begins
  }
  return 0;
}

void refuse_futile_start(const std::string& folder, int64_t step) {
  const int starts = counted_starts(folder, step);
  if (starts < kFutileStarts) return;
  throw Error(ExitCode::kDoNotRequeue,
              fmt::format("{}: {} starts in a row have committed nothing after step {}; see "
                          "log.txt for the cause, then start again with --resume {}/{}",
                          folder, starts, step, folder, checkpoint_name(step)));
}

bool is_finished(const std::string& folder, Communicator& world) {
  const bool here = world.rank() == 0 && file_type_of(folder + "/" + std::string(kSummaryFile)) !=
                                             std::filesystem::file_type::not_found;
  return all_reduce_numbers(world, {here ? 1.0 : 0.0}, ReduceOp::kMax, "state of the run")[0] > 0.0;
}

RunStart find_newest(const std::string& folder, Communicator& world) {
  RunStart start;
  start.in_place = true;
  start.is_finished = is_finished(folder, world);
  if (start.is_finished) return start;
  FoundCheckpoint found = find_checkpoint(folder, world);
  start.reader = std::move(found.reader);
  start.warnings = std::move(found.warnings);
  if (world.rank() == 0 && start.reader) refuse_futile_start(folder, start.reader->step());
  return start;
}

}  // namespace

RunStart find_start(const std::string& folder, const std::string& resume, Communicator& world) {
  if (resume == "none") return {};
  RW_FAILPOINT("resume.find");
  if (resume == "auto") return find_newest(folder, world);
  RunStart start;
  start.reader.emplace(resume, world);
  start.warnings = start.reader->warnings();
  std::error_code ignored;
  const std::filesystem::path path = std::filesystem::weakly_canonical(resume, ignored);
  start.in_place = std::filesystem::equivalent(
      path.has_filename() ? path.parent_path() : path.parent_path().parent_path(), folder, ignored);
  if (start.in_place && is_finished(folder, world)) {
    throw ConfigError(fmt::format(
        "checkpoint.dir: {} holds a finished run, whose results would be lost; go on from {} in "
        "another folder",
        folder, resume));
  }
  return start;
}

void count_start(const std::string& folder, int64_t step, int change) {
  const Json count = {{"step", step}, {"starts", counted_starts(folder, step) + change}};
  write_file_atomically(folder + "/" + kStartsFile, count.dump() + "\n");
}

RunCheckpoints::RunCheckpoints(const CheckpointSection& section, CheckpointOptions options,
                               std::vector<CheckpointTensor> tensors, Communicator& world,
                               Stream& stream, Say say)
    : section_(section),
      world_(&world),
      stream_(&stream),
      say_(std::move(say)),
      state_{.tensors = std::move(tensors)},
      writer_(std::move(options), world) {}

void RunCheckpoints::prove(Json scalars) {
  save(0, std::nullopt, std::move(scalars), /*at_exit=*/true);
  RW_FAILPOINT("prove.read_back");
  const CheckpointReader reader(section_.dir + "/" + checkpoint_name(0), *world_);
}

void RunCheckpoints::restore_best(const Json& scalars, int64_t step) {
  const Json loss = scalars.value("best_loss", Json()), of = scalars.value("best_step", Json());
  if (loss.is_number() && of.is_number_integer()) {
    best_loss_ = loss.get<double>();
    best_step_ = of.get<int64_t>();
  }
  if (world_->rank() != 0) return;
  // BEST may be of a continuation that this one gives up.
  const std::optional<int64_t> pointed = read_pointer(section_.dir, kBestPointer);
  if (!pointed || *pointed <= step) return;
  if (best_step_) return write_pointer(section_.dir, kBestPointer, *best_step_);
  std::filesystem::remove(section_.dir + "/" + kBestPointer);
}

void RunCheckpoints::add_eval_loss(int64_t step, double loss) {
  if (!is_best(loss)) return;
  best_loss_ = loss, best_step_ = step;
  if (world_->rank() == 0) write_pointer(section_.dir, kBestPointer, step);
}

double RunCheckpoints::seconds_since_commit() const {
  return committed_ ? seconds_since(*committed_) : std::numeric_limits<double>::infinity();
}

bool RunCheckpoints::is_time() const {
  return section_.every_minutes > 0.0 && seconds_since(saved_) >= 60.0 * section_.every_minutes;
}

void RunCheckpoints::warn(const std::string& text) const {
  say_("WARNING: " + text + disk_advice(text));
}

void RunCheckpoints::save(int64_t step, std::optional<double> loss, Json scalars, bool at_exit) {
  if (writer_.in_flight()) finish(/*wait=*/true, /*at_exit=*/false);
  world_->activity().report(kCheckpointWork, kFilePatience);
  state_.step = step;
  state_.best = is_best(loss);
  saved_loss_ = loss;
  const std::optional<double> least = state_.best ? loss : best_loss_;
  const std::optional<int64_t> least_at = state_.best ? step : best_step_;
  scalars["best_loss"] = least ? Json(*least) : Json();
  scalars["best_step"] = least_at ? Json(*least_at) : Json();
  state_.scalars = std::move(scalars);
  saved_ = Clock::now();
  try {
    RW_FAILPOINT("save.begin");
    writer_.begin(state_, *stream_);
    RW_FAILPOINT("save.begun");
  } catch (const DiskError& error) {
    if (at_exit) throw;
    return warn(fmt::format("{}; training goes on", error.what()));
  }
  if (at_exit) finish(/*wait=*/true, at_exit);
}

void RunCheckpoints::finish(bool wait, bool at_exit) {
  if (!writer_.in_flight()) return;
  std::optional<CommitReport> report;
  try {
    if (wait) world_->activity().report(kCheckpointWork, kFilePatience);
    report = writer_.try_commit(wait);
  } catch (const DiskError& error) {
    if (at_exit) throw;
    return warn(fmt::format("{}; training goes on", error.what()));
  }
  if (!report) return;
  RW_FAILPOINT("save.committed");
  committed_ = Clock::now();
  if (state_.best) best_loss_ = saved_loss_, best_step_ = report->step;
  for (const std::string& warning : report->warnings) warn(warning);
  say_(fmt::format("checkpoint of step {}: {}, training waited {:.3f} s, durable after {:.3f} s",
                   report->step, format_bytes(report->bytes), report->blocked_seconds,
                   report->durable_seconds));
}

}  // namespace rankwise
