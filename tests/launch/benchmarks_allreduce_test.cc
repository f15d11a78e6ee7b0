// SPDX-License-Identifier: Apache-2.0
// `rankwise bench allreduce`: its rows and their arithmetic.
#include <gtest/gtest.h>

#include "launch/benchmarks.h"
#include "tests/support/error_of.h"
#include "tests/support/thread_ranks.h"

namespace rankwise {
namespace {

TEST(BenchmarkAllreduce, RatesAreBytesOnTheWireOverTheTimeOfACall) {
  for (int n : {2, 3}) {
    run_ranks_as_threads(n, [n](Communicator& world) {
      BenchmarkShape shape;
      shape.world = &world;
      shape.seconds = 0.001;
      const std::vector<BenchmarkRow> rows = benchmark_allreduce(shape, {});
      ASSERT_EQ(rows.size(), 18u);
      EXPECT_EQ(rows.front().name, "all-reduce 64 KiB");
      EXPECT_EQ(rows[8].name, "all-reduce 16 MiB");
      EXPECT_EQ(rows.back().name, "all-gather 16 MiB");
      for (size_t i = 0; i < rows.size(); ++i) {
        const double sizes = rows[i].median * 1e3 * rows[i].microseconds /
                             static_cast<double>(int64_t{65536} << i % 9);
        EXPECT_NEAR(sizes, (i < 9 ? 2.0 : 1.0) * (n - 1) / n, 1e-3) << rows[i].name;
        EXPECT_GE(rows[i].best, rows[i].median);
        EXPECT_EQ(rows[i].ceiling, 0.0);
      }
    });
  }
}

TEST(BenchmarkAllreduce, OneRankIsRefused) {
  const auto alone = make_single_communicator();
  BenchmarkShape shape;
  shape.world = alone.get();
  RW_EXPECT_HAS(testing::error_of<ConfigError>([&] { benchmark_allreduce(shape, {}); }),
                "needs several ranks");
}

}  // namespace
}  // namespace rankwise
