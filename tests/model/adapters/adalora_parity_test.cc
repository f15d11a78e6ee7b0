// SPDX-License-Identifier: Apache-2.0
#include "tests/model/adalora_run.h"

namespace rankwise::testing {
namespace {

TEST(AdaLoraParity, TinyLlamaHasTheLossesRanksAndAdapterOfPeft) {
  RW_REQUIRE_SHARED();
  expect_tiny_adalora({});
}

TEST(AdaLoraParity, Stories260kEndsWhereThatOfPeftDoes) {
  RW_REQUIRE_SHARED();
  expect_stories_adalora({});
}

}  // namespace
}  // namespace rankwise::testing
