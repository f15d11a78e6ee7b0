// SPDX-License-Identifier: Apache-2.0
// What a power loss may leave: of a file what was synced, of a folder the names that it had when it
// was synced. From the calls of a whole run: whatever gets its final name is on the disk before,
// and nothing that it replaces goes before the name is.
#include <gtest/gtest.h>

#include <filesystem>
#include <map>
#include <set>
#include <sstream>

#include "runtime/io/atomic_file.h"
#include "tests/end_to_end/small_run.h"
#include "tests/support/program.h"

namespace rankwise::testing {
namespace {

namespace fs = std::filesystem;

bool is_temporary(const std::string& path) { return path.find(".tmp-") != std::string::npos; }

// Calls as tests/support/faulty_io.cc lists them, in their order.
class Disk {
 public:
  void call(const std::string& name, const std::string& path) {
    const std::string folder = fs::path(path).parent_path();
    if (name == "write" || name == "pwrite" || name == "ftruncate") unsynced_.insert(path);
    if (name == "create" && is_temporary(path)) names_[folder].insert(path), unsynced_.insert(path);
    if (name == "mkdir") names_[folder].insert(path);
    if (name == "fsync" || name == "fdatasync") unsynced_.erase(path), names_.erase(path);
    if (!name.starts_with("rename")) return;
    if (fs::path(path).filename().string().starts_with(".trash-")) {
      for (const std::string& other : names_[folder]) {
        if (!is_temporary(other)) violations_.push_back(path + " before a sync of " + other);
      }
      return;
    }
    ++renames_;
    const std::string source = path + ".tmp-";
    for (const std::string& file : unsynced_) {
      if (file.starts_with(source)) violations_.push_back(path + ": unsynced " + file);
    }
    for (const auto& [parent, names] : names_) {
      if (parent.starts_with(source)) {
        violations_.push_back(path + ": unsynced name of " + *names.begin());
      }
    }
    std::erase_if(names_[folder], [&](const auto& other) { return other.starts_with(source); });
    names_[folder].insert(path);
  }
  // At the end.
  std::vector<std::string> violations() const {
    std::vector<std::string> all = violations_;
    for (const auto& [folder, names] : names_) {
      for (const std::string& path : names) all.push_back("never synced: name of " + path);
    }
    return all;
  }
  int renames() const { return renames_; }

 private:
  std::set<std::string> unsynced_;                      // files with content that may be lost
  std::map<std::string, std::set<std::string>> names_;  // of folders, made since their last sync
  std::vector<std::string> violations_;
  int renames_ = 0;
};

TEST(PowerLoss, TheModelOfTheDiskSeesWhatIsMissing) {
  using Calls = std::vector<std::pair<const char*, const char*>>;
  const auto violations = [](const Calls& calls) {
    Disk disk;
    for (const auto& [name, path] : calls) disk.call(name, path);
    return disk.violations();
  };
  const Calls good = {{"create", "/r/a.tmp-1"}, {"write", "/r/a.tmp-1"}, {"fsync", "/r/a.tmp-1"},
                      {"rename", "/r/a"},       {"fsync", "/r"},         {"rename", "/r/.trash-b"}};
  EXPECT_TRUE(violations(good).empty());
  for (const size_t left_out : {2u, 4u}) {
    Calls bad = good;
    bad.erase(bad.begin() + static_cast<ptrdiff_t>(left_out));
    EXPECT_FALSE(violations(bad).empty()) << "without call " << left_out;
  }
  const Calls folder = {{"mkdir", "/r/s.tmp-1"},
                        {"create", "/r/s.tmp-1/f.tmp-1"},
                        {"fsync", "/r/s.tmp-1/f.tmp-1"},
                        {"rename", "/r/s.tmp-1/f"},
                        {"fsync", "/r/s.tmp-1"},
                        {"rename", "/r/s"},
                        {"fsync", "/r"}};
  EXPECT_TRUE(violations(folder).empty());
  for (const size_t left_out : {2u, 4u, 6u}) {
    Calls bad = folder;
    bad.erase(bad.begin() + static_cast<ptrdiff_t>(left_out));
    EXPECT_FALSE(violations(bad).empty()) << "without call " << left_out;
  }
}

// Checkpoints, of which old ones go, pointers, metrics, and the results: adapter and weights.
TEST(PowerLoss, LeavesNoRunWithoutWhatItPublished) {
  const SmallRun files;
  const ScratchFolder& folder = files.folder();
  const std::string data = "[{path: " + folder.file("rows.jsonl") + ", format: tokens}]";
  const std::string run = folder.file("out/deep/run");
  fs::create_directory(folder.file("out"));
  const std::string config = print_config(files.config(
      {"checkpoint={dir: " + run + ", every: 1, keep: 1, best: true}", "data.eval=" + data,
       "eval.every=1", "train.steps=3",
       "adapt=[{match: '*.o_proj', method: full}, {match: all-linear, method: lora, rank: 4}]"}));
  const ProgramResult result =
      run_program({std::getenv("RANKWISE_BINARY"), "train", folder.write("run.yaml", config)},
                  {{"LD_PRELOAD", RANKWISE_FAULTY_IO},
                   {"ASAN_OPTIONS", "verify_asan_link_order=0:detect_leaks=0"},
                   {"FAULTY_IO_ROOT", folder.file("out")},
                   {"FAULTY_IO_LIST", folder.file("calls")}});
  ASSERT_EQ(result.exit_code, 0) << result.errors;
  Disk disk;
  std::istringstream list(read_file(folder.file("calls")));
  for (std::string number, name, path; list >> number >> name >> path;) disk.call(name, path);
  EXPECT_GT(disk.renames(), 30);
  for (const std::string& violation : disk.violations()) ADD_FAILURE() << violation;
  for (const char* name : {"step-00000003", "adapter", "model"}) {
    EXPECT_TRUE(fs::exists(run + "/" + name)) << name;
  }
}

}  // namespace
}  // namespace rankwise::testing
