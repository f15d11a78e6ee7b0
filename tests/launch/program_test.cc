// SPDX-License-Identifier: Apache-2.0
// The command line as a user meets it: what is printed where, and the exit code.
#include "tests/support/program.h"

#include <gtest/gtest.h>

#include <CLI/CLI.hpp>
#include <filesystem>

#include "launch/verbs/verb.h"
#include "launch/version.h"
#include "tests/support/scratch_folder.h"

namespace rankwise {
namespace {

using testing::ProgramResult;
using testing::run_rankwise;
using testing::ScratchFolder;

size_t count(const std::string& text, const std::string& part) {
  size_t found = 0;
  for (size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++found;
  return found;
}

TEST(Program, HelpListsEveryVerbAndEveryVerbHasHelp) {
  const ProgramResult top = run_rankwise({"--help"});
  EXPECT_EQ(top.exit_code, 0);
  EXPECT_EQ(top.errors, "");
  for (const auto& verb : make_verbs()) {
    EXPECT_NE(top.output.find("\n  " + verb->name() + " "), std::string::npos) << verb->name();
    const ProgramResult help = run_rankwise({verb->name(), "--help"});
    EXPECT_EQ(help.exit_code, 0);
    EXPECT_TRUE(help.output.starts_with(verb->help())) << help.output;
  }
}

TEST(Program, OnlyATrainingThatTrainsIsPreemptible) {
  for (const char* option : {"--resume=auto", "--dry-run", "--print-config"}) {
    const std::unique_ptr<Verb> verb = make_train_verb();
    CLI::App app;
    verb->add_options(app);
    std::vector<std::string> arguments = {option, "run.yaml"};
    app.parse(arguments);
    EXPECT_EQ(verb->is_preemptible(), std::string_view(option) == "--resume=auto") << option;
  }
}

TEST(Program, VersionNamesCommitBuildAndLibraries) {
  const ProgramResult result = run_rankwise({"--version"});
  EXPECT_EQ(result.exit_code, 0);
  EXPECT_EQ(result.output, version_text());
  EXPECT_TRUE(result.output.starts_with("rankwise " + program_version() + " ("));
  for (const char* name : {"backends", "mpi", "hdf5", "yaml-cpp"}) {
    EXPECT_NE(result.output.find(std::string("\n  ") + name), std::string::npos) << name;
  }
}

TEST(Program, WrongCommandLinesEndWithCodeTwoAndOneLine) {
  const std::pair<std::vector<std::string>, std::string> vectors[] = {
      {{"trian"}, "'trian' is no verb; did you mean 'train'?"},
      {{"zzzzzzzz"}, "'zzzzzzzz' is no verb; `rankwise --help` lists them"},
      {{"--bogus"}, "The following argument was not expected: --bogus (see `rankwise --help`)"},
      {{"inspect"}, "PATH is required (see `rankwise inspect --help`)"},
      {{"doctor", "--bogus"},
       "The following argument was not expected: --bogus (see `rankwise doctor --help`)"},
      {{"inspect", "/nonexistent"}, "'/nonexistent' does not exist"},
      {{"inspect", "/\xe9t\xc3\xa9"},
       "command line: argument 2, '/\xef\xbf\xbdt\xc3\xa9': byte 2: invalid UTF-8"},
      {{"train", "run.yaml", "model.path=m\xff"},
       "command line: argument 3, 'model.path=m\xef\xbf\xbd': byte 13: invalid UTF-8"},
  };
  for (const auto& [arguments, message] : vectors) {
    const ProgramResult result = run_rankwise(arguments);
    EXPECT_EQ(result.exit_code, 2) << arguments[0];
    EXPECT_EQ(result.errors, "rankwise: error: " + message + "\n");
    EXPECT_EQ(result.output, "");
  }
}

TEST(Program, WithoutVerbTheHelpGoesToStandardError) {
  const ProgramResult result = run_rankwise({});
  EXPECT_EQ(result.exit_code, 2);
  EXPECT_EQ(result.output, "");
  EXPECT_NE(result.errors.find("Verbs:"), std::string::npos);
}

TEST(Program, WrongConfigurationIsReportedOnceByAllRanksTogether) {
  const ScratchFolder scratch;
  const std::string file = scratch.write("run.yaml", "modle: {path: m}\n");
  const ProgramResult result = run_rankwise({"train", file}, /*ranks=*/2);
  EXPECT_EQ(result.exit_code, 2);
  EXPECT_EQ(count(result.errors, "rankwise: error: "), 1u) << result.errors;
  EXPECT_NE(result.errors.find("rankwise: error: rank 0 on "), std::string::npos) << result.errors;
  EXPECT_NE(result.errors.find(": " + file + ":1:1: modle: unknown key, did you mean 'model'?\n"),
            std::string::npos)
      << result.errors;
}

TEST(Program, RanksThatShareACommandLineShareItsErrorToo) {
  const ProgramResult result = run_rankwise({"trian"}, /*ranks=*/2);
  EXPECT_EQ(result.exit_code, 2);
  EXPECT_EQ(count(result.errors, "rankwise: error: "), 1u) << result.errors;
  EXPECT_EQ(count(run_rankwise({"--version"}, 2).output, "backends"), 1u);
}

TEST(Program, UnwritableStandardOutputIsADiskError) {
  if (!std::filesystem::exists("/dev/full")) GTEST_SKIP() << "no /dev/full here";
  const std::string binary =
      run_rankwise({"--version"}).exit_code == 0 ? getenv("RANKWISE_BINARY") : "";
  const ProgramResult result =
      testing::run_program({"sh", "-c", "'" + binary + "' doctor > /dev/full"});
  EXPECT_EQ(result.exit_code, 74);
  EXPECT_EQ(result.errors, "rankwise: error: standard output: cannot write\n");
}

TEST(Program, DoctorDescribesThisMachine) {
  const ProgramResult result = run_rankwise({"doctor"});
  EXPECT_EQ(result.exit_code, 0) << result.errors;
  for (const char* field : {"host ", "cpu ", "simd ", "memory ", "gpu ", "nccl ", "slurm "}) {
    EXPECT_NE(("\n" + result.output).find(std::string("\n") + field), std::string::npos) << field;
  }
}

}  // namespace
}  // namespace rankwise
