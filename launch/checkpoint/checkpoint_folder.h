// SPDX-License-Identifier: Apache-2.0
// Names inside a run's folder: committed checkpoints, pointers to them, and what is being removed.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

namespace rankwise {

inline constexpr const char* kLatestPointer = "LATEST";
inline constexpr const char* kBestPointer = "BEST";

// "step-00000200"
std::string checkpoint_name(int64_t step);
// Errors of throw_unreadable().
std::vector<std::string> names_in(const std::string& folder);
// Of exactly such a name.
std::optional<int64_t> step_of_checkpoint(std::string_view name);
// Folders with such names, newest first. Whether they are valid is not looked at. DiskError when
// that cannot be told: one that was missed would count as absent.
std::vector<int64_t> committed_steps(const std::string& run_folder);

// Pointers are for people and for retention: a reader of checkpoints never needs one. DiskError.
void write_pointer(const std::string& run_folder, const std::string& pointer, int64_t step);
// Nothing when absent, or when it names no folder. Errors of read_file().
std::optional<int64_t> read_pointer(const std::string& run_folder, const std::string& pointer);

// Renames a finished temporary folder to the checkpoint and syncs the parent. What had the name is
// removed. DiskError.
void commit_folder(const std::string& run_folder, const std::string& temporary, int64_t step);

// Takes the name away, so that no reader sees a half-removed checkpoint; the result is to be given
// to remove_folder(). DiskError.
std::string move_to_trash(const std::string& run_folder, int64_t step);
// Whole folders. Failures are left to the next start: the text of the first, or "".
std::string remove_folder(const std::string& path);
// What killed runs left: step-*.tmp-* and .trash-*. As remove_folder().
std::string remove_leftovers(const std::string& run_folder);

// Which of `steps` (newest first) may go once `committed` is durable: all but that one, the best
// and the newest valid others up to `keep` in all. `given_up` are steps of a continuation that this
// run does not descend from, or faulty ones that it passed over: they go, the best one too.
std::vector<int64_t> superseded_steps(const std::vector<int64_t>& steps, int64_t committed,
                                      std::optional<int64_t> best, int keep,
                                      const std::set<int64_t>& given_up,
                                      const std::function<bool(int64_t)>& is_valid);

}  // namespace rankwise
