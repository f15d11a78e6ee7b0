// SPDX-License-Identifier: Apache-2.0
// No reader opens a file outside the folder of its input, whatever the input says: all openings are
// seen, those of libraries too.
#include "tests/fuzz/opened_files.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "runtime/io/atomic_file.h"
#include "tests/fuzz/hostile_inputs.h"
#include "tests/fuzz/readers.h"
#include "tests/fuzz/sandbox.h"

namespace rankwise::testing {
namespace {

namespace fs = std::filesystem;

#define RW_REQUIRE_WATCH() \
  if (!opened_by([] {})) GTEST_SKIP() << "the kernel does not let a program watch its openings"

TEST(OpenedFiles, AreSeenUnderTheirRealPathsAlsoWhereOpeningFails) {
  RW_REQUIRE_WATCH();
  const Sandbox& sandbox = Sandbox::instance();
  const fs::path outside = fs::canonical(sandbox.outside());
  const auto opened = opened_by([&] {
    std::ifstream(sandbox.root() + "/out.safetensors");
    std::ifstream(sandbox.root() + "/../outside/nothing");
    std::ifstream("/nothing/at/all");
  });
  const std::vector<std::string> expected = {outside / "secret.safetensors", outside / "nothing",
                                             "/nothing/at/all"};
  EXPECT_EQ(*opened, expected);
  EXPECT_TRUE(Sandbox::instance().outside_was_opened());  // so far seen by the sandbox, too
}

// Read once by the C library's allocator, when a thread gives much memory back.
constexpr const char* kOfAllocator = "/proc/sys/vm/overcommit_memory";

class OpenedFilesOf : public ::testing::TestWithParam<InputReader> {};

TEST_P(OpenedFilesOf, EveryHostileInputLieInItsFolder) {
  RW_REQUIRE_WATCH();
  const InputReader& reader = GetParam();
  const std::string folder = fs::canonical(Sandbox::instance().root()).string() + "/";
  // Libraries read files of their own at their first use.
  for (const fs::directory_entry& seed :
       fs::directory_iterator("tests/fuzz/corpus/" + reader.name)) {
    refusal_of(reader.read, read_file(seed.path()));
  }
  for (const HostileInput& input : hostile_inputs_of(reader.name)) {
    const auto opened = opened_by([&] { refusal_of(reader.read, input.bytes); });
    for (const std::string& path : *opened) {
      EXPECT_TRUE(path.starts_with(folder) || path == kOfAllocator)
          << input.name << " opens " << path;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Reader, OpenedFilesOf, ::testing::ValuesIn(input_readers()),
                         [](const auto& tested) { return tested.param.name; });

}  // namespace
}  // namespace rankwise::testing
