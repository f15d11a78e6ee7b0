// SPDX-License-Identifier: Apache-2.0
#include "launch/run_checkpoints.h"

#include <filesystem>
#include <utility>

#include "launch/checkpoint/checkpoint_folder.h"
#include "launch/progress_line.h"
#include "launch/run_folder.h"
#include "runtime/failpoint.h"
#include "runtime/io/atomic_file.h"

namespace rankwise {
namespace {

constexpr int kFutileStarts = 3;

// Counts starts from the same step; kDoNotRequeue instead of one more than kFutileStarts.
void count_start(const std::string& folder, int64_t step) {
  const std::string path = folder + "/" + kStartsFile;
  int starts = 0;
  try {
    const Json known = read_json_file(path);
    if (known.at("step") == step) starts = known.at("starts").get<int>();
  } catch (const std::exception&) {  // none yet, or damaged: the count begins
  }
  if (starts >= kFutileStarts) {
    throw Error(ExitCode::kDoNotRequeue,
                fmt::format("{}: {} starts in a row have committed nothing after step {}; see "
                            "log.txt for the cause, then start again with --resume {}/{}",
                            folder, starts, step, folder, checkpoint_name(step)));
  }
  write_file_atomically(path, Json{{"step", step}, {"starts", starts + 1}}.dump() + "\n");
}

RunStart find_newest(const std::string& folder, Communicator& world) {
  RunStart start;
  start.in_place = true;
  const bool finished = std::filesystem::exists(folder + "/" + kSummaryFile);
  start.is_finished = all_reduce_numbers(world, {finished && world.rank() == 0 ? 1.0 : 0.0},
                                         ReduceOp::kMax, "state of the run")[0] > 0.0;
  if (start.is_finished) return start;
  FoundCheckpoint found = find_checkpoint(folder, world);
  start.reader = std::move(found.reader);
  start.warnings = std::move(found.warnings);
  if (world.rank() == 0 && start.reader) count_start(folder, start.reader->step());
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
  return start;
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

void RunCheckpoints::restore(const CheckpointReader& reader, Stream& stream) {
  RW_FAILPOINT("resume.restore");
  reader.restore(state_.tensors, stream);
  const auto best = reader.scalars().find("best_loss");
  if (best != reader.scalars().end() && best->is_number()) best_loss_ = best->get<double>();
}

bool RunCheckpoints::is_time() const {
  return section_.every_minutes > 0.0 && seconds_since(saved_) >= 60.0 * section_.every_minutes;
}

void RunCheckpoints::save(int64_t step, std::optional<double> loss, Json scalars, bool at_exit) {
  if (writer_.in_flight()) finish(/*wait=*/true, /*at_exit=*/false);
  world_->activity().report("checkpoint", kFilePatience);
  state_.step = step;
  state_.best = section_.best && loss && (!best_loss_ || *loss < *best_loss_);
  if (state_.best) best_loss_ = loss;
  scalars["best_loss"] = best_loss_ ? Json(*best_loss_) : Json();
  state_.scalars = std::move(scalars);
  saved_ = Clock::now();
  try {
    RW_FAILPOINT("save.begin");
    writer_.begin(state_, *stream_);
    RW_FAILPOINT("save.begun");
  } catch (const DiskError& error) {
    if (at_exit) throw;
    return say_(fmt::format("WARNING: {}; training goes on", error.what()));
  }
  if (at_exit) finish(/*wait=*/true, at_exit);
}

void RunCheckpoints::finish(bool wait, bool at_exit) {
  if (!writer_.in_flight()) return;
  try {
    if (wait) world_->activity().report("checkpoint", kFilePatience);
    const std::optional<CommitReport> report = writer_.try_commit(wait);
    if (!report) return;
    RW_FAILPOINT("save.committed");
    committed_ = Clock::now();
    for (const std::string& warning : report->warnings) say_("WARNING: " + warning);
    say_(fmt::format("checkpoint of step {}: {}, training waited {:.3f} s, durable after {:.3f} s",
                     report->step, format_bytes(report->bytes), report->blocked_seconds,
                     report->durable_seconds));
  } catch (const DiskError& error) {
    if (at_exit) throw;
    say_(fmt::format("WARNING: {}; training goes on", error.what()));
  }
}

}  // namespace rankwise
