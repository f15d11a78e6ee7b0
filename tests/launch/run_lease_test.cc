// SPDX-License-Identifier: Apache-2.0
#include "launch/run_lease.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <filesystem>
#include <thread>

#include "runtime/errors.h"
#include "runtime/io/atomic_file.h"
#include "runtime/io/json.h"
#include "tests/launch/tiny_model.h"
#include "tests/support/error_of.h"
#include "tests/support/scratch_folder.h"

namespace rankwise {
namespace {

namespace fs = std::filesystem;
using testing::error_of;
using testing::names_in;

constexpr int64_t kNoProcess = 999'999'999;

class Lease : public ::testing::Test {
 protected:
  std::string folder() const { return scratch_.file("run"); }
  std::string file() const { return folder() + "/lease.json"; }
  Json holder() const { return read_json_file(file()); }
  static std::string host() {
    char name[256] = {};
    gethostname(name, sizeof(name) - 1);
    return name;
  }
  // As another process left it, so long ago.
  void leave(const std::string& text, std::chrono::seconds age = std::chrono::seconds(0)) const {
    fs::create_directories(folder());
    write_file_atomically(file(), text);
    fs::last_write_time(file(), fs::file_time_type::clock::now() - age);
  }
  static std::string lease_of(const std::string& host, int64_t pid) {
    const std::string space = fs::read_symlink("/proc/self/ns/pid").string();
    return Json{
        {"host", host}, {"pid", pid}, {"birth", "1"}, {"job", "41-0"}, {"pid_namespace", space}}
        .dump();
  }
  std::string refusal() const {
    return error_of<ConfigError>([&] { const RunLease lease(folder(), "42-0"); });
  }

 private:
  const testing::ScratchFolder scratch_;
};

TEST_F(Lease, NamesItsHolderAndIsGivenBack) {
  {
    const RunLease lease(folder(), "42-1");
    EXPECT_EQ(holder()["host"], host());
    EXPECT_EQ(holder()["pid"], getpid());
    EXPECT_EQ(holder()["job"], "42-1");
    EXPECT_NO_THROW(lease.require_held());
  }
  EXPECT_TRUE(names_in(folder()).empty());
}

TEST_F(Lease, NamesOfAnyBytesAreWrittenAsText) {
  const RunLease lease(folder(), "42\xff-0");
  EXPECT_EQ(holder()["job"], "42\xef\xbf\xbd-0");
  EXPECT_NO_THROW(lease.require_held());
}

TEST_F(Lease, IsRefusedWhileItsProcessLives) {
  const RunLease lease(folder(), "41-0");
  RW_EXPECT_HAS(refusal(),
                fmt::format("checkpoint.dir: {} is in use by process {} on {} (job 41-0)", folder(),
                            getpid(), host()));
  EXPECT_NO_THROW(lease.require_held());
}

// The last had the number of this process before it.
TEST_F(Lease, OfAProcessThatIsGoneIsTakenAtOnce) {
  for (const int64_t pid : {kNoProcess, static_cast<int64_t>(getpid())}) {
    leave(lease_of(host(), pid));
    const RunLease lease(folder(), "42-0");
    EXPECT_EQ(holder()["job"], "42-0");
  }
  EXPECT_TRUE(names_in(folder()).empty());
}

TEST_F(Lease, OfAnotherHostIsTakenAfterTwoMinutesOfSilence) {
  leave(lease_of("elsewhere", 7), std::chrono::seconds(125));
  const RunLease lease(folder(), "42-0");
  EXPECT_EQ(holder()["host"], host());
}

TEST_F(Lease, OfAnotherHostIsRefusedAsSoonAsItIsRenewed) {
  leave(lease_of("elsewhere", 7), std::chrono::seconds(60));
  std::atomic<bool> ends = false;
  std::thread other([&] {
    while (!ends) {
      std::this_thread::sleep_for(std::chrono::milliseconds(300));
      fs::last_write_time(file(), fs::file_time_type::clock::now());
    }
  });
  const std::string error = refusal();
  ends = true;
  other.join();
  RW_EXPECT_HAS(error, "is in use by process 7 on elsewhere (job 41-0)");
  EXPECT_EQ(names_in(folder()), std::vector<std::string>{"lease.json"});
}

TEST_F(Lease, DamagedOneIsTakenWhenItIsOld) {
  leave("{\"host\": \"el", std::chrono::seconds(125));
  const RunLease lease(folder(), "42-0");
  EXPECT_EQ(holder()["job"], "42-0");
}

TEST_F(Lease, ThatWasTakenOverEndsTheRunAndStays) {
  {
    const RunLease lease(folder(), "42-0");
    leave(lease_of("elsewhere", 7));
    RW_EXPECT_HAS(error_of<ConfigError>([&] { lease.require_held(); }),
                  "process 7 on elsewhere (job 41-0) has taken it over");
  }
  EXPECT_EQ(names_in(folder()), std::vector<std::string>{"lease.json"});
  fs::remove(file());
  const RunLease lease(folder(), "42-0");
  fs::remove(file());
  RW_EXPECT_HAS(error_of<ConfigError>([&] { lease.require_held(); }), "the lease is gone");
}

TEST_F(Lease, FolderThatCannotBeMadeIsADiskError) {
  leave("");
  EXPECT_THROW(RunLease(file() + "/below", "42-0"), DiskError);
}

// All find the lease of a process that is gone.
TEST_F(Lease, OfSeveralProcessesOneTakesIt) {
  constexpr int kProcesses = 8;
  leave(lease_of(host(), kNoProcess));
  int pipe_ends[2];
  ASSERT_EQ(pipe(pipe_ends), 0);
  std::vector<pid_t> processes;
  for (int i = 0; i < kProcesses; ++i) {
    processes.push_back(fork());
    if (processes.back() != 0) continue;
    close(pipe_ends[1]);
    try {
      const RunLease lease(folder(), "42-0");
      char unused = 0;
      if (read(pipe_ends[0], &unused, 1) == 0) _exit(0);  // the others have ended
    } catch (const ConfigError&) {
      _exit(2);
    }
    _exit(1);
  }
  int refused = 0;
  for (int attempt = 0; attempt < 300 && refused < kProcesses - 1; ++attempt) {
    int status = 0;
    for (const pid_t pid : processes) {
      if (waitpid(pid, &status, WNOHANG) != pid) continue;
      EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 2);
      ++refused;
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
  }
  EXPECT_EQ(refused, kProcesses - 1);
  close(pipe_ends[1]);
  int status = 0;
  EXPECT_GT(wait(&status), 0);
  EXPECT_EQ(status, 0);
}

}  // namespace
}  // namespace rankwise
