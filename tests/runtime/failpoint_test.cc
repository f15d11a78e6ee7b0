// SPDX-License-Identifier: Apache-2.0
#include "runtime/failpoint.h"

#include <gtest/gtest.h>

#include <chrono>
#include <csignal>
#include <thread>
#include <vector>

#include "runtime/errors.h"
#include "tests/support/error_of.h"

namespace rankwise {
namespace {

using testing::error_of;

#if RANKWISE_FAILPOINTS

class FailpointTest : public ::testing::Test {
 protected:
  ~FailpointTest() override { arm_failpoints("", 0); }
};

void reach(int times) {
  for (int i = 0; i < times; ++i) RW_FAILPOINT("save");
}

TEST_F(FailpointTest, DoesNothingUntilArmed) { reach(3); }

TEST_F(FailpointTest, ActsOnceAtItsHit) {
  arm_failpoints("save:0:3:throw", 0);
  reach(2);
  EXPECT_EQ(error_of<DiskError>([] { reach(1); }), "failpoint save: thrown");
  reach(5);
}

TEST_F(FailpointTest, ActsOnItsRankAndUnderItsNameOnly) {
  arm_failpoints("save:1:1:throw;load:0:1:throw", 0);
  reach(1);
  arm_failpoints("save:-1:1:throw", 5);
  error_of<DiskError>([] { reach(1); });
}

TEST_F(FailpointTest, TwoOfOneNameCountEachForThemselves) {
  arm_failpoints("save:0:1:throw;save:0:2:errno:28", 0);
  RW_EXPECT_HAS(error_of<DiskError>([] { reach(1); }), "thrown");
  RW_EXPECT_HAS(error_of<DiskError>([] { reach(1); }), "No space left on device");
}

TEST_F(FailpointTest, SleepDelaysAndGoesOn) {
  arm_failpoints("save:0:1:sleep:50", 0);
  const auto begin = std::chrono::steady_clock::now();
  reach(1);
  EXPECT_GE(std::chrono::steady_clock::now() - begin, std::chrono::milliseconds(50));
}

TEST_F(FailpointTest, IsReachedFromSeveralThreadsAndActsInOne) {
  arm_failpoints("save:0:500:throw", 0);
  std::vector<int> thrown(4, 0);
  std::vector<std::thread> threads;
  for (int& count : thrown) {
    threads.emplace_back([&count] {
      for (int i = 0; i < 250; ++i) {
        try {
          RW_FAILPOINT("save");
        } catch (const DiskError&) {
          ++count;
        }
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(thrown[0] + thrown[1] + thrown[2] + thrown[3], 1);
}

TEST_F(FailpointTest, KillAndAbortEndTheProcess) {
  EXPECT_EXIT((arm_failpoints("save:0:1:kill", 0), reach(1)), ::testing::KilledBySignal(SIGKILL),
              "");
  EXPECT_EXIT((arm_failpoints("save:0:1:abort", 0), reach(1)), ::testing::KilledBySignal(SIGABRT),
              "");
}

TEST_F(FailpointTest, WrongTextIsAConfigError) {
  for (const char* text : {"save", "save:0:1", "save:0:1:explode", "save:0:0:throw",
                           "save:x:1:throw", "save:-2:1:throw", "save:0:1:sleep",
                           "save:0:1:sleep:x", "save:0:1:kill:9", "save:0:99999999999:throw"}) {
    RW_EXPECT_HAS(error_of<ConfigError>([&] { arm_failpoints(text, 0); }), "failpoint");
  }
}

#else

TEST(Failpoint, ArmingIsRefusedInABuildWithoutThem) {
  arm_failpoints("", 0);
  RW_EXPECT_HAS(error_of<ConfigError>([] { arm_failpoints("save:0:1:throw", 0); }),
                "no failpoints");
  RW_FAILPOINT("save");
}

#endif

}  // namespace
}  // namespace rankwise
