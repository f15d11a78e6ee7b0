// SPDX-License-Identifier: Apache-2.0
#include "launch/checkpoint/checkpoint_folder.h"

#include <fcntl.h>
#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cstdio>
#include <filesystem>

#include "runtime/errors.h"
#include "runtime/io/atomic_file.h"
#include "runtime/io/regular_file.h"

namespace rankwise {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kTrashPrefix = ".trash-";
constexpr std::string_view kStepPrefix = "step-";

std::string checkpoint_path(const std::string& run_folder, int64_t step) {
  return run_folder + "/" + checkpoint_name(step);
}

bool is_folder(const fs::path& path) { return file_type_of(path) == fs::file_type::directory; }

}  // namespace

std::vector<std::string> names_in(const std::string& folder) {
  std::vector<std::string> names;
  std::error_code error;
  for (fs::directory_iterator at(folder, error), end; !error && at != end; at.increment(error)) {
    names.push_back(at->path().filename().string());
  }
  if (error) throw_unreadable(folder, error.value());
  return names;
}

std::string checkpoint_name(int64_t step) { return fmt::format("{}{:08}", kStepPrefix, step); }

std::optional<int64_t> step_of_checkpoint(std::string_view name) {
  int64_t step = -1;
  if (!name.starts_with(kStepPrefix)) return std::nullopt;
  std::from_chars(name.data() + kStepPrefix.size(), name.data() + name.size(), step);
  if (step < 0 || name != checkpoint_name(step)) return std::nullopt;
  return step;
}

std::vector<int64_t> committed_steps(const std::string& run_folder) {
  std::vector<int64_t> steps;
  for (const std::string& name : names_in(run_folder)) {
    const auto step = step_of_checkpoint(name);
    if (step && is_folder(fs::path(run_folder) / name)) steps.push_back(*step);
  }
  std::ranges::sort(steps, std::greater());
  return steps;
}

void write_pointer(const std::string& run_folder, const std::string& pointer, int64_t step) {
  write_file_atomically(run_folder + "/" + pointer, checkpoint_name(step) + "\n");
}

std::optional<int64_t> read_pointer(const std::string& run_folder, const std::string& pointer) {
  const std::string path = run_folder + "/" + pointer;
  if (file_type_of(path) == fs::file_type::not_found) return std::nullopt;
  std::string text = read_file(path);
  if (text.ends_with('\n')) text.pop_back();
  const auto step = step_of_checkpoint(text);
  return step && is_folder(checkpoint_path(run_folder, *step)) ? step : std::nullopt;
}

void commit_folder(const std::string& run_folder, const std::string& temporary, int64_t step) {
  const std::string path = checkpoint_path(run_folder, step);
  if (!is_folder(path)) {
    rename_path(temporary, path);
    return sync_folder(run_folder);
  }
  if (renameat2(AT_FDCWD, temporary.c_str(), AT_FDCWD, path.c_str(), RENAME_EXCHANGE) == 0) {
    sync_folder(run_folder);
    remove_folder(temporary);  // now the former content
    return;
  }
  // File systems without exchange: for an instant this step has no checkpoint.
  const std::string former = move_to_trash(run_folder, step);
  rename_path(temporary, path);
  sync_folder(run_folder);
  remove_folder(former);
}

std::string move_to_trash(const std::string& run_folder, int64_t step) {
  const std::string trash = fmt::format("{}/{}{}", run_folder, kTrashPrefix, checkpoint_name(step));
  remove_folder(trash);
  rename_path(checkpoint_path(run_folder, step), trash);
  return trash;
}

std::string remove_folder(const std::string& path) {
  std::error_code error;
  fs::remove_all(path, error);
  return error ? fmt::format("{}: cannot remove: {}", path, error.message()) : "";
}

std::string remove_leftovers(const std::string& run_folder) {
  std::string first;
  for (const std::string& name : names_in(run_folder)) {
    const bool unfinished = name.starts_with(kStepPrefix) && name.find(".tmp-") != name.npos;
    if (!unfinished && !name.starts_with(kTrashPrefix)) continue;
    const std::string error = remove_folder(run_folder + "/" + name);
    if (first.empty()) first = error;
  }
  return first;
}

std::vector<int64_t> superseded_steps(const std::vector<int64_t>& steps, int64_t committed,
                                      std::optional<int64_t> best, int keep,
                                      const std::set<int64_t>& given_up,
                                      const std::function<bool(int64_t)>& is_valid) {
  std::vector<int64_t> superseded;
  int kept = 1;  // the one just committed
  for (int64_t step : steps) {
    if (step == committed || (step == best && !given_up.contains(step))) continue;
    if (!given_up.contains(step) && kept < keep && is_valid(step)) {
      ++kept;
    } else {
      superseded.push_back(step);
    }
  }
  return superseded;
}

}  // namespace rankwise
