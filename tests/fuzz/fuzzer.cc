// SPDX-License-Identifier: Apache-2.0
// libFuzzer's entry for the reader that the build names: RANKWISE_FUZZ_READER.
#include <cstddef>
#include <cstdint>
#include <ctime>
#include <stdexcept>

#include "tests/fuzz/readers.h"

// NOLINTNEXTLINE(readability-identifier-naming): libFuzzer's name
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace rankwise::testing;
  // Processor time: libFuzzer's own limit counts the waiting of a busy machine too.
  const std::clock_t begin = std::clock();
  refusal_of(RANKWISE_FUZZ_READER, {reinterpret_cast<const char*>(data), size});
  if (std::clock() - begin > CLOCKS_PER_SEC) throw std::logic_error("more than a second");
  return 0;
}
