// SPDX-License-Identifier: Apache-2.0
// Every hostile input ends in the refusal that names its fault, or in acceptance where it is legal,
// in little time and memory; and so does every file of the corpus.
#include "tests/fuzz/hostile_inputs.h"

#include <gtest/gtest.h>

#include <ctime>
#include <filesystem>
#include <fstream>

#include "runtime/io/atomic_file.h"
#include "tests/fuzz/readers.h"
#include "tests/support/error_of.h"

namespace rankwise::testing {
namespace {

namespace fs = std::filesystem;

#ifdef RANKWISE_SANITIZE
constexpr bool kSanitized = true;
#else
constexpr bool kSanitized = false;
#endif

double thread_seconds() {
  timespec now{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

// The largest resident size since the last reset, in bytes.
int64_t peak_bytes() {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.starts_with("VmHWM:")) return 1024 * std::stoll(line.substr(6));
  }
  return -1;
}

void reset_peak() { std::ofstream("/proc/self/clear_refs") << "5"; }

// The reader's refusal. Test failures: more than a second of processor time, or than the input's
// size and 64 MiB of memory (not known under the address sanitizer, which keeps what is freed).
std::string bounded_refusal(const InputReader& reader, const std::string& bytes) {
  constexpr int64_t kMostBytes = 64 << 20;
  reset_peak();
  const int64_t bytes_before = peak_bytes();
  const double begin = thread_seconds();
  const std::string refusal = refusal_of(reader.read, bytes);
  EXPECT_LT(thread_seconds() - begin, kSanitized ? 10.0 : 1.0);
  if (!kSanitized) {
    EXPECT_LT(peak_bytes() - bytes_before, static_cast<int64_t>(bytes.size()) + kMostBytes);
  }
  return refusal;
}

struct HostileCase {
  InputReader reader;
  HostileInput input;
};
void PrintTo(const HostileCase& hostile, std::ostream* out) { *out << hostile.input.name; }

std::vector<HostileCase> hostile_cases() {
  std::vector<HostileCase> cases;
  for (const InputReader& reader : input_readers()) {
    for (const HostileInput& input : hostile_inputs_of(reader.name))
      cases.push_back({reader, input});
  }
  return cases;
}

class Hostile : public ::testing::TestWithParam<HostileCase> {};

TEST_P(Hostile, IsRefusedByNameOrAccepted) {
  const auto& [reader, input] = GetParam();
  const std::string refusal = bounded_refusal(reader, input.bytes);
  EXPECT_EQ(refusal.empty(), input.refusal.empty()) << refusal;
  RW_EXPECT_HAS(refusal, input.refusal);
}

INSTANTIATE_TEST_SUITE_P(Input, Hostile, ::testing::ValuesIn(hostile_cases()),
                         [](const auto& tested) {
                           return tested.param.reader.name + "_" + tested.param.input.name;
                         });

TEST(HostileInputs, AreManyForEveryReader) {
  const auto count = [](const char* reader) { return hostile_inputs_of(reader).size(); };
  EXPECT_GE(count("safetensors"), 70u);
  EXPECT_GE(count("weight_index"), 40u);
  EXPECT_GE(count("training_yaml"), 40u);
  EXPECT_GE(count("store"), 25u);
}

class Corpus : public ::testing::TestWithParam<InputReader> {};

// Files named seed_* are whole: written by this program's own writers. The others once broke their
// reader.
TEST_P(Corpus, SeedsAreAcceptedAndFormerCrashesEndInARefusal) {
  const fs::path folder = fs::path("tests/fuzz/corpus") / GetParam().name;
  int files = 0;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder)) {
    SCOPED_TRACE(entry.path());
    const std::string refusal = bounded_refusal(GetParam(), read_file(entry.path()));
    if (entry.path().filename().string().starts_with("seed_")) {
      EXPECT_EQ(refusal, "");
    }
    ++files;
  }
  EXPECT_GT(files, 0);
}

INSTANTIATE_TEST_SUITE_P(Reader, Corpus, ::testing::ValuesIn(input_readers()),
                         [](const auto& tested) { return tested.param.name; });

}  // namespace
}  // namespace rankwise::testing
