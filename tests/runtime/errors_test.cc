// SPDX-License-Identifier: Apache-2.0
#include "runtime/errors.h"

#include <gtest/gtest.h>

namespace rankwise {
namespace {

TEST(Errors, EachTypeCarriesItsExitCode) {
  EXPECT_EQ(ConfigError("").exit_code(), ExitCode::kConfig);
  EXPECT_EQ(DataError("").exit_code(), ExitCode::kData);
  EXPECT_EQ(FormatError("").exit_code(), ExitCode::kFormat);
  EXPECT_EQ(OutOfMemoryError("").exit_code(), ExitCode::kOutOfMemory);
  EXPECT_EQ(CommunicationError("").exit_code(), ExitCode::kCommunication);
  EXPECT_EQ(DiskError("").exit_code(), ExitCode::kDisk);
}

TEST(Errors, QuoteKeepsOneShortLine) {
  EXPECT_EQ(quote("a b"), "'a b'");
  EXPECT_EQ(quote(std::string_view("a\n\0\x7f", 4)), "'a\\x0a\\x00\\x7f'");
  EXPECT_LT(quote(std::string(1'000'000, 'x')).size(), 300u);
}

TEST(ErrorsDeathTest, AssertionNamesConditionPlaceAndValues) {
  const int three = 3;
  EXPECT_DEATH(RW_ASSERT(three == 4, "three {}", three),
               "errors_test\\.cc:[0-9]+: three == 4: three 3");
  EXPECT_DEATH(RW_ASSERT(three == 4), "three == 4");
}

}  // namespace
}  // namespace rankwise
