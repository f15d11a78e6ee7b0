// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/vector_math.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

namespace rankwise::cpu {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

TEST(VectorExp, IsWithinTwoUlpOverItsWholeRange) {
  for (int i = -87300; i <= 88700; ++i) {
    const float x = static_cast<float>(i) * 1e-3f + 1e-5f;
    const double expected = std::exp(static_cast<double>(x));
    ASSERT_NEAR(1.0, vector_exp(x) / expected, 2.0 * 0x1p-23) << x;
  }
}

TEST(VectorExp, OfZeroIsOne) { EXPECT_EQ(1.0f, vector_exp(0.0f)); }

TEST(VectorExp, GoesToZeroAndInfinityAtTheEnds) {
  EXPECT_EQ(0.0f, vector_exp(-kInfinity));
  EXPECT_EQ(0.0f, vector_exp(-1e30f));
  EXPECT_EQ(0.0f, vector_exp(-88.0f));
  EXPECT_EQ(kInfinity, vector_exp(89.0f));
  EXPECT_EQ(kInfinity, vector_exp(kInfinity));
}

TEST(VectorExp, KeepsNaN) {
  EXPECT_TRUE(std::isnan(vector_exp(std::numeric_limits<float>::quiet_NaN())));
}

TEST(VectorMax, FindsTheLargestAtEveryPlace) {
  for (const int64_t count : {1, 2, 31, 32, 33, 100}) {
    for (int64_t place = 0; place < count; ++place) {
      std::vector<float> x(static_cast<size_t>(count), -3.0f);
      x[static_cast<size_t>(place)] = -1.0f;
      ASSERT_EQ(-1.0f, vector_max(x.data(), count)) << place << " of " << count;
    }
  }
}

}  // namespace
}  // namespace rankwise::cpu
