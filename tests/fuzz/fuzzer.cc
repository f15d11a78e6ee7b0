// SPDX-License-Identifier: Apache-2.0
// fuzz --reader=READER [libFuzzer's arguments]
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <ctime>
#include <span>
#include <stdexcept>

#include "tests/fuzz/readers.h"
#include "tests/fuzz/sandbox.h"

namespace {

const rankwise::testing::InputReader* reader = nullptr;

// Processor time: libFuzzer's own figures count the waiting of a busy machine too.
struct Account {
  std::clock_t slowest = 0;  // input
  ~Account() {
    constexpr double kTick = 1.0 / CLOCKS_PER_SEC;
    std::fprintf(stderr, "processor time: %.1f s, slowest input: %.3f s\n",
                 kTick * static_cast<double>(std::clock()), kTick * static_cast<double>(slowest));
  }
};

}  // namespace

// NOLINTBEGIN(readability-identifier-naming): names of libFuzzer and of the leak checker
extern "C" const char* __lsan_default_suppressions() {
  return "leak:libhdf5";  // forgets some bytes when it refuses a damaged file
}

extern "C" int LLVMFuzzerInitialize(int* count, char*** arguments) {
  const std::span<char*> all(*arguments, static_cast<size_t>(*count));
  for (const auto& candidate : rankwise::testing::input_readers()) {
    if (std::ranges::count(all, "--reader=" + candidate.name) > 0) reader = &candidate;
  }
  if (reader == nullptr) throw std::invalid_argument("--reader=READER is missing");
  return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static Account account;
  rankwise::testing::Sandbox::instance();  // made before the clock is read
  const std::clock_t begin = std::clock();
  rankwise::testing::refusal_of(reader->read, {reinterpret_cast<const char*>(data), size});
  account.slowest = std::max(account.slowest, std::clock() - begin);
  if (account.slowest > CLOCKS_PER_SEC) throw std::logic_error("more than a second");
  return 0;
}
// NOLINTEND(readability-identifier-naming)
