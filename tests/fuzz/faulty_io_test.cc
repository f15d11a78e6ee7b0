// SPDX-License-Identifier: Apache-2.0
// The preload library itself, in a program (this one, started again) that writes files with it.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <iostream>
#include <map>
#include <sstream>

#include "runtime/io/atomic_file.h"
#include "runtime/io/hdf5_file.h"
#include "tests/launch/checkpoint/toy_state.h"
#include "tests/support/error_of.h"
#include "tests/support/program.h"
#include "tests/support/scratch_folder.h"

namespace rankwise::testing {
namespace {

std::string preload() { return RANKWISE_FAULTY_IO; }

class FaultyIo : public ::testing::Test {
 protected:
  // What this program's test of the name prints, as a child with the library preloaded.
  std::string run(const std::string& work, int call, const std::string& error,
                  std::map<std::string, std::string> more = {}) {
    std::map<std::string, std::string> environment = {
        {"LD_PRELOAD", preload()},
        {"ASAN_OPTIONS", "verify_asan_link_order=0:detect_leaks=0"},
        {"FAULTY_IO_ROOT", folder_.file("disk")},
        {"FAULTY_IO_CALL", std::to_string(call)},
        {"FAULTY_IO_ERROR", error},
        {"FAULTY_IO_LIST", folder_.file("calls")},
        {"FAULTY_IO_TEST_FOLDER", folder_.path()}};
    environment.merge(more);
    unlink(folder_.file("calls").c_str());
    const ProgramResult result = run_program(
        {"/proc/self/exe", "--gtest_also_run_disabled_tests", "--gtest_filter=*.DISABLED_" + work},
        environment);
    EXPECT_EQ(result.exit_code, 0) << result.output << result.errors;
    const size_t begin = result.output.find("result: ");
    if (begin == std::string::npos) return result.output;
    return result.output.substr(begin + 8, result.output.find('\n', begin) - begin - 8);
  }
  // Names of the calls that the last run counted.
  std::string calls() const {
    std::istringstream list(read_file(folder_.file("calls")));
    std::string names, number, name, path;
    while (list >> number >> name >> path) names += (names.empty() ? "" : " ") + name;
    return names;
  }
  bool exists(const std::string& name) const {
    return access(folder_.file(name).c_str(), F_OK) == 0;
  }

  void SetUp() override { mkdir(folder_.file("disk").c_str(), 0700); }

  ScratchFolder folder_;
};

// The work of the child.
class FaultyIoChild : public ::testing::Test {
 protected:
  std::string path(const std::string& name) const {
    return std::string(std::getenv("FAULTY_IO_TEST_FOLDER")) + "/" + name;
  }
  template <class Work>
  void report(Work work) {
    try {
      work();
      std::cout << "result: done" << std::endl;
    } catch (const Error& error) {
      std::cout << "result: " << error.what() << std::endl;
    }
  }
};

TEST_F(FaultyIoChild, DISABLED_WriteAtomically) {
  report([&] {
    write_file_atomically(path("outside"), "x");
    write_file_atomically(path("disk/file"), "content");
  });
}

TEST_F(FaultyIoChild, DISABLED_MakeFolders) {
  report([&] { make_folders(path("disk/a/b/")); });
}

TEST_F(FaultyIoChild, DISABLED_WriteHdf5) {
  report([&] {
    std::vector<float> values(300'000, 1.0f);
    Hdf5File file(path("disk/tensors.h5"), Hdf5File::Mode::kCreate);
    file.write("/w", Tensor(values.data(), DType::kF32, {300'000}));
    file.close();
    publish_file(path("disk/tensors.h5"), path("disk/final.h5"));
  });
}

TEST_F(FaultyIoChild, DISABLED_RestoreNewest) {
  try {
    const auto alone = make_single_communicator();
    Stream stream;
    ToyState state(DeviceMesh(*alone, 1), 0);
    const FoundCheckpoint found = find_checkpoint(path("disk"), *alone);
    found.reader->restore(state.tensors(), stream);
    std::cout << "result: step " << found.reader->step() << std::endl;
  } catch (const Error& error) {
    std::cout << "result: " << static_cast<int>(error.exit_code()) << " " << error.what()
              << std::endl;
  }
}

TEST_F(FaultyIoChild, DISABLED_EveryCall) {
  const int file = open(path("disk/a").c_str(), O_RDWR | O_CREAT, 0600);
  std::string said = file < 0 ? "open " : "";
  const auto note = [&](const char* name, int64_t result, int64_t good) {
    if (result != good) said += std::string(name) + " ";
  };
  note("write", write(file, "abcd", 4), 4);
  note("pwrite", pwrite(file, "abcd", 4, 0), 4);
  char byte = 0;
  note("read", read(file, &byte, 1), 0);
  note("pread", pread(file, &byte, 1, 0), 1);
  note("ftruncate", ftruncate(file, 2), 0);
  note("fsync", fsync(file), 0);
  note("fdatasync", fdatasync(file), 0);
  note("close", close(file), 0);
  note("rename", rename(path("disk/a").c_str(), path("disk/b").c_str()), 0);
  const int folder = open(path("disk").c_str(), O_RDONLY | O_DIRECTORY);
  if (folder < 0) said += "open ";
  note("renameat", renameat(folder, "b", folder, "c"), 0);
  note("renameat2", renameat2(folder, "c", folder, "e", RENAME_NOREPLACE), 0);
  note("link", link(path("disk/e").c_str(), path("disk/f").c_str()), 0);
  note("unlink", unlink(path("disk/f").c_str()), 0);
  const std::string made = path("disk/d");
  note("mkdir", mkdir(made.c_str(), 0700), 0);
  note("rmdir", rmdir(made.c_str()), 0);
  note("mkdir", mkdir(made.c_str(), 0700), 0);
  note("remove", remove(made.c_str()), 0);
  note("mkdir", mkdir(made.c_str(), 0700), 0);
  note("unlinkat", unlinkat(folder, "d", AT_REMOVEDIR), 0);
  close(folder);
  std::cout << "result: " << said << std::endl;
}

TEST_F(FaultyIo, CountsAndListsCallsInItsFolderOnly) {
  EXPECT_EQ(run("WriteAtomically", 0, "EIO"), "done");
  EXPECT_EQ(calls(), "create write fsync close rename open fsync");
  EXPECT_TRUE(exists("outside"));
}

TEST_F(FaultyIo, FailsExactlyTheCallOfItsNumber) {
  const std::vector<std::string> all = {
      "create",    "write", "pwrite", "read",  "pread",    "ftruncate", "fsync",
      "fdatasync", "close", "rename", "open",  "renameat", "renameat2", "link",
      "unlink",    "mkdir", "rmdir",  "mkdir", "remove",   "mkdir",     "unlinkat"};
  EXPECT_EQ(run("EveryCall", 0, "EIO"), "");
  EXPECT_EQ(calls(), fmt::format("{}", fmt::join(all, " ")));
  for (size_t call = 2; call <= all.size(); ++call) {
    const std::string said = run("EveryCall", call, "EIO");
    EXPECT_TRUE(said.starts_with(all[call - 1] + " ")) << call << ": " << said;
    std::filesystem::remove_all(folder_.file("disk"));
    SetUp();
  }
}

TEST_F(FaultyIo, EachErrorReachesTheMessage) {
  const auto said = [&](int call, const char* error) {
    return run("WriteAtomically", call, error);
  };
  RW_EXPECT_HAS(said(1, "EDQUOT"), "create failed: Disk quota exceeded");
  RW_EXPECT_HAS(said(2, "ENOSPC"), "write failed: No space left on device");
  RW_EXPECT_HAS(said(3, "EIO"), "sync failed: Input/output error");
  RW_EXPECT_HAS(said(4, "EIO"), "close failed: Input/output error");
  RW_EXPECT_HAS(said(5, "ENOSPC"), "rename failed: No space left on device");
  RW_EXPECT_HAS(said(6, "EIO"), "sync failed: Input/output error");
}

TEST_F(FaultyIo, InterruptedAndShortWritesAreContinued) {
  for (const char* error : {"EINTR", "SHORT"}) {
    EXPECT_EQ(run("WriteAtomically", 2, error), "done");
    EXPECT_EQ(calls(), "create write write fsync close rename open fsync");
    EXPECT_EQ(read_file(folder_.file("disk/file")), "content");
  }
}

TEST_F(FaultyIo, CountsMatchingCallsOnly) {
  RW_EXPECT_HAS(
      run("WriteAtomically", 1, "EIO", {{"FAULTY_IO_MATCH", "f*c " + folder_.file("d*k")}}),
      "/disk: sync failed");
  EXPECT_EQ(calls(), "fsync");
}

TEST_F(FaultyIo, ActsOnItsRankOnly) {
  EXPECT_EQ(run("WriteAtomically", 2, "EIO", {{"FAULTY_IO_RANK", "1"}, {"PMIX_RANK", "0"}}),
            "done");
  EXPECT_FALSE(exists("calls"));
  RW_EXPECT_HAS(run("WriteAtomically", 2, "EIO", {{"FAULTY_IO_RANK", "1"}, {"PMIX_RANK", "1"}}),
                "write failed");
}

// Rows of the promise: after a failure at any call of a file's life nothing has its final name.
TEST_F(FaultyIo, NoHdf5FileAppearsWhenAnyCallOfItsWritingFails) {
  ASSERT_EQ(run("WriteHdf5", 0, "EIO"), "done");
  std::istringstream words(calls());
  int count = 0, rename_call = 0;
  for (std::string name; words >> name;) {
    ++count;
    if (name == "rename") rename_call = count;
  }
  ASSERT_GT(rename_call, 5);
  for (const char* error : {"ENOSPC", "EIO"}) {
    for (int call = 2; call <= count; ++call) {  // 1: HDF5 looks whether the file is there
      unlink(folder_.file("disk/final.h5").c_str());
      unlink(folder_.file("disk/tensors.h5").c_str());
      const std::string said = run("WriteHdf5", call, error);
      EXPECT_NE(said, "done") << error << " at call " << call;
      EXPECT_EQ(exists("disk/final.h5"), call > rename_call) << error << " at call " << call;
    }
  }
}

TEST_F(FaultyIo, NewFoldersAreSyncedAndTheirFailuresTold) {
  EXPECT_EQ(run("MakeFolders", 0, "EIO"), "done");
  EXPECT_EQ(calls(), "mkdir open fsync mkdir open fsync");
  EXPECT_EQ(run("MakeFolders", 0, "EIO"), "done");
  EXPECT_FALSE(exists("calls"));
  std::filesystem::remove_all(folder_.file("disk/a"));
  RW_EXPECT_HAS(run("MakeFolders", 1, "ENOSPC"),
                "disk/a/b/: create failed: No space left on device");
  RW_EXPECT_HAS(run("MakeFolders", 3, "EIO"), "disk: sync failed: Input/output error");
  RW_EXPECT_HAS(run("MakeFolders", 1, "EIO"), "disk/a/b/: create failed: Input/output error");
}

// What cannot be read may be good: a run that went on from an older checkpoint would remove it.
TEST_F(FaultyIo, NoCheckpointIsPassedOverWhenAnyCallOfItsReadingFails) {
  save_steps(folder_.file("disk"), *make_single_communicator(), 1, {10, 20});
  ASSERT_EQ(run("RestoreNewest", 0, "EIO"), "step 20");
  const std::string all = calls();
  const auto count = 1 + std::ranges::count(all, ' ');
  ASSERT_GT(count, 10) << all;
  for (int call = 1; call <= count; ++call) {
    const std::string said = run("RestoreNewest", call, "EIO");
    EXPECT_TRUE(said.starts_with("74 ")) << "call " << call << ": " << said;
    RW_EXPECT_HAS(said, "/step-00000020/");
    RW_EXPECT_HAS(said, "Input/output error");
  }
}

}  // namespace
}  // namespace rankwise::testing
