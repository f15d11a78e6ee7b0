// SPDX-License-Identifier: Apache-2.0
// Damaged headers; files that break one rule of the format each are in tests/fuzz.
#include <gtest/gtest.h>

#include "runtime/io/safetensors.h"
#include "tests/runtime/io/safetensors_bytes.h"
#include "tests/support/scratch_folder.h"

namespace rankwise {
namespace {

using testing::entry;

// No single changed byte of a header may crash the reader or read outside the file.
TEST(SafetensorsMutation, AnyHeaderByteMayBeWrong) {
  const std::string good = testing::safetensors_bytes(
      testing::object_of({entry("a", "U8", "[4]", "[0,4]"), entry("b", "U8", "[4]", "[4,8]")}), 8);
  const testing::ScratchFolder folder;
  int refused = 0;
  for (size_t i = 0; i + 8 < good.size(); ++i) {
    for (const int change : {0x01, 0x80}) {
      std::string bad = good;
      bad[i] = static_cast<char>(bad[i] ^ change);
      try {
        const SafetensorsFile file(folder.write(fmt::format("{}-{}", i, change), bad));
        for (const SafetensorsEntry& tensor : file.entries()) {
          EXPECT_EQ(file.read_bytes(tensor).size(), 4u);
        }
      } catch (const FormatError&) {
        ++refused;
      }
    }
  }
  EXPECT_GT(refused, 200);  // the rest changes names or types of the same size
}

}  // namespace
}  // namespace rankwise
