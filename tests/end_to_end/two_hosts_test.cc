// SPDX-License-Identifier: Apache-2.0
// Two ranks on two hosts that share no memory, only a link: network namespaces with names of their
// own (tests/support/two_hosts.sh).
#include <gtest/gtest.h>

#include <cstdint>
#include <cstdlib>

#include "tests/end_to_end/small_run.h"
#include "tests/support/program.h"

namespace rankwise::testing {
namespace {

constexpr int kNotPossible = 69;
constexpr int64_t kAdapterBytes = 3616 * 4;  // rank 4 beside each of the 14 matrices

ProgramResult on_two_hosts(std::vector<std::string> command) {
  const std::vector<std::string> launcher = {"bash", "tests/support/two_hosts.sh"};
  command.insert(command.begin(), launcher.begin(), launcher.end());
  return run_program(command, {{"OMP_NUM_THREADS", "1"}});
}

int64_t sent_bytes(const ProgramResult& result) {
  const std::string marker = "sent over the link: ";
  const size_t at = result.output.find(marker);
  return at == std::string::npos ? 0 : std::stoll(result.output.substr(at + marker.size()));
}

class TwoHosts : public ::testing::Test {
 protected:
  void SetUp() override {
    const ProgramResult probe = on_two_hosts({"true"});
    if (probe.exit_code == kNotPossible) GTEST_SKIP() << probe.errors;
    ASSERT_EQ(probe.exit_code, 0) << probe.errors;
  }

  const SmallRun run_;
  const std::string yaml_ = run_.folder().write("run.yaml", print_config(run_.config()));
  const std::string binary_ = std::getenv("RANKWISE_BINARY");
};

TEST_F(TwoHosts, TrainTogetherAsOnOneHost) {
  for (const std::string layout : {"parallel.tensor=1", "parallel.tensor=2"}) {
    SCOPED_TRACE(layout);
    const std::string one = run_.folder().file("one " + layout);
    const std::string two = run_.folder().file("two " + layout);
    const ProgramResult on_two =
        on_two_hosts({binary_, "train", yaml_, layout, "checkpoint.dir=" + two});
    ASSERT_EQ(on_two.exit_code, 0) << on_two.errors;
    const ProgramResult on_one = run_rankwise({"train", yaml_, layout, "checkpoint.dir=" + one}, 2);
    ASSERT_EQ(on_one.exit_code, 0) << on_one.errors;
    const std::vector<double> expected = read_metric(one + "/metrics.jsonl", "loss");
    const std::vector<double> losses = read_metric(two + "/metrics.jsonl", "loss");
    ASSERT_EQ(losses.size(), expected.size());
    for (size_t step = 0; step < losses.size(); ++step) {
      EXPECT_NEAR(losses[step], expected[step], 1e-5 * expected[step]) << "step " << step;
    }
    // Every step at least the gradients of all adapters cross the link.
    EXPECT_GT(sent_bytes(on_two), static_cast<int64_t>(losses.size()) * kAdapterBytes);
  }
}

TEST_F(TwoHosts, EveryHostHasItsOwnLocalRanks) {
  const ProgramResult result = on_two_hosts({binary_, "doctor"});
  ASSERT_EQ(result.exit_code, 0) << result.errors;
  EXPECT_NE(result.output.find("host-a"), std::string::npos) << result.output;
  EXPECT_NE(result.output.find("2, 1 of them on this host"), std::string::npos) << result.output;
}

TEST_F(TwoHosts, AFailureNamesRankAndHost) {
  const ProgramResult result = on_two_hosts(
      {"sh", "-c",
       "if [ $(hostname) = host-b ]; then set -- \"$@\" data.train.0.path=/nowhere.jsonl; fi; "
       "exec \"$@\"",
       "sh", binary_, "train", yaml_});
  EXPECT_EQ(result.exit_code, 3) << result.errors;
  EXPECT_NE(result.errors.find("rank 1 on host-b"), std::string::npos) << result.errors;
}

TEST_F(TwoHosts, AKilledRankIsNamedWithItsHost) {
  const std::string metrics = run_.folder().file("run/metrics.jsonl");
  const ProgramResult result =
      on_two_hosts({"sh", "-c",
                    "if [ $(hostname) = host-a ]; then exec \"$@\"; fi; "
                    "\"$@\" & while [ ! -s " +
                        metrics + " ]; do sleep 0.1; done; kill -9 $!; wait $!",
                    "sh", binary_, "train", yaml_, "train.steps=1000000"});
  // Whichever of the two mpirun sees first.
  EXPECT_TRUE(result.exit_code == 72 || result.exit_code == 137) << result.exit_code;
  EXPECT_NE(result.errors.find("rank 1 on host-b"), std::string::npos) << result.errors;
}

}  // namespace
}  // namespace rankwise::testing
