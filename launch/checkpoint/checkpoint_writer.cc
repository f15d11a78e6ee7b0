// SPDX-License-Identifier: Apache-2.0
#include "launch/checkpoint/checkpoint_writer.h"

#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <utility>

#include "launch/checkpoint/checkpoint_folder.h"
#include "runtime/failpoint.h"
#include "runtime/io/atomic_file.h"
#include "runtime/io/regular_file.h"

namespace rankwise {
namespace {

constexpr double kReserve = 1.1;                    // room demanded, over what is needed
constexpr int64_t kBytesPerTensor = 4096;           // of headers and index, at most
constexpr const char* kBegin = "checkpoint begin";  // operations of the collectives
constexpr const char* kProgress = "checkpoint progress";
constexpr const char* kWritten = "checkpoint vote";
constexpr const char* kCommit = "checkpoint commit";

double seconds_since(std::chrono::steady_clock::time_point begin) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

void make_new_folder(const std::string& path) {
  if (mkdir(path.c_str(), 0777) != 0) {
    throw DiskError(fmt::format("{}: create failed: {}", path, std::strerror(errno)));
  }
}

int64_t needed_bytes(const std::vector<CheckpointTensor>& tensors) {
  int64_t bytes = 0;
  for (const CheckpointTensor& tensor : tensors) {
    if (tensor.writes) bytes += tensor.value.bytes() + kBytesPerTensor;
  }
  return bytes;
}

int64_t free_bytes(const std::string& folder) {
  std::error_code error;
  const auto space = std::filesystem::space(folder, error);
  if (error) throw DiskError(fmt::format("{}: {}", folder, error.message()));
  return static_cast<int64_t>(space.available);
}

// The same on every rank, as the numbers are.
void require_room(const std::string& folder, const std::vector<Json>& ranks) {
  int64_t needed = 0;
  int64_t available = INT64_MAX;
  for (const Json& rank : ranks) {
    needed += rank["bytes"].get<int64_t>();
    available = std::min(available, rank["free"].get<int64_t>());
  }
  if (static_cast<double>(available) < kReserve * static_cast<double>(needed)) {
    throw DiskError(fmt::format("{}: {}: a checkpoint needs {} bytes, {} with reserve, {} are free",
                                folder, std::strerror(ENOSPC), needed,
                                static_cast<int64_t>(kReserve * static_cast<double>(needed)),
                                available));
  }
}

// Errors of read_file() when there is a manifest that cannot be read; DiskError of a file.
bool has_valid_outline(const std::string& path) {
  const std::string manifest = path + "/" + kManifestName;
  if (file_type_of(manifest) == std::filesystem::file_type::not_found) return false;
  const std::string text = read_file(manifest, JsonLimits{}.max_bytes);
  try {
    require_files(path, parse_manifest(text, manifest));
    return true;
  } catch (const FormatError&) {
    return false;
  }
}

}  // namespace

CheckpointWriter::CheckpointWriter(CheckpointOptions options, Communicator& world)
    : options_(std::move(options)), world_(&world) {
  RW_ASSERT(options_.keep >= 1, "keep {}", options_.keep);
  if (!is_root()) return;
  startup_warning_ = remove_leftovers(options_.folder);
  for (int64_t step : committed_steps(options_.folder)) {
    if (step > options_.resumed_from.value_or(-1)) given_up_.insert(step);
  }
}

void CheckpointWriter::begin(const CheckpointState& state, Stream& stream) {
  RW_ASSERT(!in_flight_, "step {} is in flight", step_);
  started_ = Clock::now();
  step_ = state.step;
  best_ = state.best;
  scalars_ = state.scalars;
  temporary_.clear();  // what another job made under the name is not ours to remove
  const std::string temporary =
      fmt::format("{}/{}.tmp-{}", options_.folder, checkpoint_name(step_), options_.job);
  const std::string what = fmt::format("cannot save step {}", step_);
  const Vote ready = vote_on([&] {
    using namespace std::chrono_literals;
    // The write of an attempt that was given up holds the snapshot as long as it hangs.
    if (writing_.valid() && writing_.wait_for(0s) != std::future_status::ready) {
      throw DiskError(options_.folder + ": an earlier write still hangs");
    }
    if (is_root()) make_new_folder(temporary);
    temporary_ = temporary;
    return Json{{"bytes", needed_bytes(state.tensors)}, {"free", free_bytes(options_.folder)}};
  });
  try {
    require_room(options_.folder, require_agreement(*world_, ready, what, kBegin));
  } catch (...) {
    remove_temporary();
    throw;
  }
  // From here on nothing is thrown: what fails is told in the vote of try_commit().
  Vote started = vote_on([&] {
    RW_FAILPOINT("save.snapshot");
    snapshot_.take(state.tensors, stream);
    writing_ = std::async(std::launch::async,
                          [this, temporary] { return vote_on([&] { return write(temporary); }); });
    return Json();
  });
  if (started.code != ExitCode::kDone) {
    std::promise<Vote> failed;
    failed.set_value(std::move(started));
    writing_ = failed.get_future();
  }
  in_flight_ = true;
  blocked_seconds_ = seconds_since(started_);
}

Json CheckpointWriter::write(const std::string& folder) const {
  const std::vector<CheckpointTensor>& tensors = snapshot_.tensors();
  if (tensors.empty()) return Json();
  RW_FAILPOINT("save.write");
  const CheckpointFile file = write_rank_file(folder, world_->rank(), tensors);
  RW_FAILPOINT("save.written");
  return Json{{"bytes", file.bytes}, {"sha256", file.sha256}, {"tensors", index_of(tensors)}};
}

int CheckpointWriter::progress(bool wait) const {
  const auto deadline = started_ + std::chrono::duration_cast<Clock::duration>(
                                       std::chrono::duration<double>(options_.deadline_seconds));
  const auto until = wait ? deadline : std::min(deadline, Clock::now());
  if (writing_.wait_until(until) == std::future_status::ready) return 1;
  return Clock::now() >= deadline ? -1 : 0;
}

std::optional<CommitReport> CheckpointWriter::try_commit(bool wait) {
  RW_ASSERT(in_flight_, "step {}", step_);
  const auto begun = Clock::now();
  const int mine = progress(wait);
  const double least =
      all_reduce_numbers(*world_, {static_cast<double>(mine)}, ReduceOp::kMin, kProgress)[0];
  if (least == 0.0) {
    blocked_seconds_ += seconds_since(begun);
    return std::nullopt;
  }
  in_flight_ = false;
  world_->activity().report(kCheckpointWork, kFilePatience);
  const Vote written = mine == 1
                           ? writing_.get()
                           : Vote{.code = ExitCode::kDisk,
                                  .error = fmt::format("{}: not written after {} s", temporary_,
                                                       options_.deadline_seconds)};
  const std::string what = fmt::format("cannot save step {}", step_);
  CommitReport report{.step = step_, .path = options_.folder + "/" + checkpoint_name(step_)};
  try {
    RW_FAILPOINT("commit.vote");
    const std::vector<Json> votes = require_agreement(*world_, written, what, kWritten);
    const Vote committed = vote_on([&] {
      if (is_root()) commit(votes);
      return Json{{"bytes", total_bytes_}};
    });
    report.bytes = require_agreement(*world_, committed, what, kCommit)[0]["bytes"].get<int64_t>();
  } catch (...) {
    remove_temporary();
    throw;
  }
  report.durable_seconds = seconds_since(started_);
  const Vote tidied = vote_on([&] { return is_root() ? Json(tidy_up(wait)) : Json::array(); });
  const std::vector<Json> told = require_agreement(
      *world_, tidied, fmt::format("step {} is saved, nothing more can be", step_), kCommit);
  if (is_root()) report.warnings = told[0].get<std::vector<std::string>>();
  blocked_seconds_ += seconds_since(begun);
  report.blocked_seconds =
      all_reduce_numbers(*world_, {blocked_seconds_}, ReduceOp::kMax, kProgress)[0];
  return report;
}

void CheckpointWriter::commit(const std::vector<Json>& votes) {
  CheckpointManifest manifest{.step = step_, .ranks = world_->size(), .scalars = scalars_};
  total_bytes_ = 0;
  for (size_t rank = 0; rank < votes.size(); ++rank) {
    const Json& vote = votes[rank];
    if (vote.is_null()) continue;  // wrote nothing
    const auto bytes = vote["bytes"].get<int64_t>();
    manifest.files.push_back({rank_file_name(static_cast<int>(rank)), bytes, vote["sha256"]});
    add_index(manifest, manifest.files.size() - 1, vote["tensors"]);
    total_bytes_ += bytes;
  }
  const std::string path = temporary_ + "/" + kManifestName;
  RW_FAILPOINT("commit.manifest");
  const std::string text = manifest_text(manifest);
  write_file_atomically(path, text);
  // What a reader would refuse is never committed: parts that nobody wrote, files that other hosts
  // wrote to a disk of their own, numbers that JSON cannot hold.
  const CheckpointManifest kept = parse_manifest(text, path);
  require_files(temporary_, kept);
  if (kept.scalars != scalars_) throw FormatError(path + ": scalars read back changed");
  RW_FAILPOINT("commit.rename");
  options_.require_held();
  commit_folder(options_.folder, temporary_, step_);
  RW_FAILPOINT("commit.renamed");
}

std::vector<std::string> CheckpointWriter::tidy_up(bool wait) {
  std::vector<std::string> warnings;
  const auto note = [&](const std::string& text) {
    if (!text.empty()) warnings.push_back("rank 0: " + text);
  };
  note(std::exchange(startup_warning_, ""));
  try {
    options_.require_held();
  } catch (const DiskError& error) {  // not known: the next save asks again
    note(error.what());
    return warnings;
  }
  const Vote done = vote_on([&] {
    write_pointer(options_.folder, kLatestPointer, step_);
    RW_FAILPOINT("commit.pointed");
    if (best_) write_pointer(options_.folder, kBestPointer, step_);
    const std::optional<int64_t> best = read_pointer(options_.folder, kBestPointer);
    const std::vector<int64_t> superseded = superseded_steps(
        committed_steps(options_.folder), step_, best, options_.keep, given_up_, [&](int64_t step) {
          return has_valid_outline(options_.folder + "/" + checkpoint_name(step));
        });
    if (removal_.valid()) note(removal_.get());
    std::vector<std::string> trash;
    for (int64_t step : superseded) trash.push_back(move_to_trash(options_.folder, step));
    given_up_.clear();
    RW_FAILPOINT("commit.trashed");
    removal_ = std::async(std::launch::async, [trash] {
      std::string first;
      for (const std::string& path : trash) {
        const std::string error = remove_folder(path);
        if (first.empty()) first = error;
      }
      return first;
    });
    return Json();
  });
  note(done.error);
  if (wait && removal_.valid()) note(removal_.get());
  return warnings;
}

void CheckpointWriter::remove_temporary() const {
  if (is_root()) remove_folder(temporary_);
}

}  // namespace rankwise
