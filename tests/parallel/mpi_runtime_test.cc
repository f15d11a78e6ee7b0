// SPDX-License-Identifier: Apache-2.0
#include "parallel/mpi_runtime.h"

#include <gtest/gtest.h>
#include <mpi.h>

#include <cstdio>
#include <cstdlib>

namespace rankwise {
namespace {

TEST(MpiRuntime, LoneProcessIsAWorldOfOneWithoutMpi) {
  MpiRuntime runtime(nullptr, nullptr);
  EXPECT_EQ(runtime.world().size(), 1);
  EXPECT_EQ(runtime.world().rank(), 0);
  EXPECT_EQ(runtime.local_rank(), 0);
  EXPECT_EQ(runtime.local_size(), 1);
  EXPECT_FALSE(runtime.host().empty());
  int initialized = 1;
  MPI_Initialized(&initialized);
  EXPECT_EQ(initialized, 0);
}

TEST(MpiRuntime, LibraryVersionIsOneShortLine) {
  const std::string version = MpiRuntime::library_version();
  EXPECT_FALSE(version.empty());
  EXPECT_LT(version.size(), 80u);
  EXPECT_EQ(version.find('\n'), std::string::npos);
}

// As in a step of srun without a PMI plugin: this process is one of two tasks, but MPI finds only
// it.
TEST(MpiRuntimeDeathTest, TasksThatMpiDoesNotConnectAreRefused) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  const auto start = [] {
    setenv("SLURM_STEP_NUM_TASKS", "2", 1);
    try {
      const MpiRuntime runtime(nullptr, nullptr);
    } catch (const ConfigError& error) {
      std::fprintf(stderr, "%s\n", error.what());
      std::_Exit(static_cast<int>(error.exit_code()));
    }
    std::_Exit(0);
  };
  EXPECT_EXIT(start(), ::testing::ExitedWithCode(2), "srun started 2 tasks.*--mpi=pmix");
}

}  // namespace
}  // namespace rankwise
