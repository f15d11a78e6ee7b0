// SPDX-License-Identifier: Apache-2.0
// The shell scripts and the job templates of launch/slurm, as text; tests/end_to_end/slurm_test.cc
// runs the templates.
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>

#include "tests/support/error_of.h"
#include "tests/support/program.h"

namespace rankwise::testing {
namespace {

namespace fs = std::filesystem;

std::vector<std::string> scripts() {
  std::vector<std::string> paths;
  for (const char* folder : {".ci", "launch", "tests"}) {
    for (const fs::directory_entry& entry : fs::recursive_directory_iterator(folder)) {
      const std::string extension = entry.path().extension();
      std::string first;
      if (entry.is_regular_file()) std::getline(std::ifstream(entry.path()), first);
      if (extension == ".sh" || extension == ".sbatch" ||
          (first.starts_with("#!") && first.ends_with("bash"))) {
        paths.push_back(entry.path());
      }
    }
  }
  std::ranges::sort(paths);
  return paths;
}

TEST(Scripts, AreFound) {
  const std::vector<std::string> paths = scripts();
  for (const char* path : {".ci/run", "launch/quickstart.sh", "launch/slurm/bare.sbatch",
                           "launch/slurm/pyxis.sbatch", "launch/slurm/apptainer.sbatch"}) {
    EXPECT_TRUE(std::ranges::count(paths, path) == 1) << path;
  }
}

TEST(Scripts, AreValidBash) {
  for (const std::string& path : scripts()) {
    const ProgramResult result = run_program({"bash", "-n", path});
    EXPECT_EQ(result.exit_code, 0) << result.errors;
  }
}

TEST(Scripts, PassShellcheck) {
  std::vector<std::string> command = scripts();
  command.insert(command.begin(), {"shellcheck", "--external-sources"});
  const ProgramResult result = run_program(command);
  if (result.exit_code == 127) GTEST_SKIP() << "shellcheck is not installed";
  EXPECT_EQ(result.exit_code, 0) << result.output << result.errors;
}

// For scripts that kill ranks: a launcher, here a shell, that lives on with or without its rank.
TEST(Launches, ThatDoNotEndAreShownAndKilled) {
  const std::string rank = fmt::format("sleep 1{:07}", getpid());  // of this test alone
  const auto launch = [&](const std::string& command) {
    return run_program({"bash", "-c",
                        fmt::format("source tests/support/launch.sh; PATIENCE=5 launch 8 '^{}$' "
                                    "bash -c '{}'",
                                    rank, command)});
  };
  EXPECT_EQ(launch("exit 75").exit_code, 75);
  const ProgramResult rank_lives = launch(rank + " & wait");
  EXPECT_EQ(rank_lives.exit_code, 124);
  RW_EXPECT_HAS(rank_lives.errors, "hung: ");
  RW_EXPECT_HAS(rank_lives.errors, rank + "\n");
  EXPECT_NE(run_program({"pgrep", "-f", "^" + rank + "$"}).exit_code, 0);
  const ProgramResult launcher_lives = launch("exec sleep 1234");
  EXPECT_EQ(launcher_lives.exit_code, 125);
  RW_EXPECT_HAS(launcher_lives.errors, "sleep 1234");
}

// sbatch reads options up to the first command and silently takes later ones for comments.
TEST(JobTemplates, AskBeforeTheFirstCommand) {
  int options = 0;
  for (const std::string& path : scripts()) {
    if (!path.ends_with(".sbatch")) continue;
    bool commands_began = false;
    std::ifstream in(path);
    for (std::string line; std::getline(in, line);) {
      if (line.starts_with("#SBATCH ")) {
        EXPECT_FALSE(commands_began) << path << ": " << line;
        ++options;
      }
      commands_began = commands_began || (!line.empty() && line[0] != '#');
    }
  }
  EXPECT_GE(options, 24);
}

}  // namespace
}  // namespace rankwise::testing
