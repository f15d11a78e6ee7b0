// SPDX-License-Identifier: Apache-2.0
#include "kernels/machine_ceiling.h"

#include <gtest/gtest.h>

namespace rankwise {
namespace {

TEST(MachineCeiling, FiguresArePossible) {
  const MachineCeiling ceiling = measure_machine_ceiling();
  const double lanes = ceiling.vector_bits / 32.0;
  // At most 8 GHz and 4 multiply-add units a core; at least a hundredth of one unit at 1 GHz.
  EXPECT_LT(ceiling.core_gflops, 2.0 * lanes * 4 * 8.0);
  EXPECT_GT(ceiling.core_gflops, 2.0 * lanes * 0.01);
  EXPECT_LT(ceiling.all_gflops, 2.0 * lanes * 4 * 8.0 * ceiling.threads);
  EXPECT_GT(ceiling.core_copy_gb_per_s, 0.05);
  EXPECT_LT(ceiling.core_copy_gb_per_s, 1000.0);
  EXPECT_GT(ceiling.all_copy_gb_per_s, 0.05);
}

}  // namespace
}  // namespace rankwise
