// SPDX-License-Identifier: Apache-2.0
// Jobs that give way to one of higher priority, on a private Slurm of this machine.
#include <regex>

#include "tests/end_to_end/slurm_jobs.h"

namespace rankwise::testing {
namespace {

struct Preemption {
  const char* name;
  const char* partition;
  bool tells_shell =
      true;  // USR1 to the batch shell, as before a time limit; else TERM to the tasks
  bool by_mpirun = false;
};

#ifdef __SANITIZE_ADDRESS__
constexpr bool kSanitizes = true;
#else
constexpr bool kSanitizes = false;
#endif

// One stands for all where a start takes ten times as long.
std::vector<Preemption> sites() {
  const Preemption with_signal = {"WithSignal", "patient"};
  if (kSanitizes) return {with_signal};
  return {with_signal,
          {"WithMpirun", "patient", /*tells_shell=*/true, /*by_mpirun=*/true},
          {"WithGraceTime", "patient", /*tells_shell=*/false},
          {"WithoutGraceTime", "all", /*tells_shell=*/false}};
}

// A site where jobs of one partition put those of the others back into the queue.
class Preempted : public Slurm, public ::testing::WithParamInterface<Preemption> {
 protected:
  static void SetUpTestSuite() {
    start_cluster({"PreemptType=preempt/partition_prio", "PreemptMode=REQUEUE",
                   "SlurmctldParameters=preempt_send_user_signal",
                   "PartitionName=patient Nodes=ALL GraceTime=60",
                   "PartitionName=urgent Nodes=ALL PriorityTier=10"});
  }

  // The template as GetParam() wants it.
  std::string job() const {
    std::string text = slurp(bare());
    if (GetParam().by_mpirun) {
      static const std::regex command(R"re(# \(With mpirun: (.*)\)\nsrun[^&]*&\n)re");
      text = std::regex_replace(text, command, "$1\n");
      static const std::regex cores("ppr:8:node:PE=8 --bind-to core");
      text = std::regex_replace(text, cores, "ppr:2:node --bind-to none");
      EXPECT_EQ(text.find("srun --mpi"), std::string::npos) << text;
    }
    // What asks for no signal gets TERM, as everything does without preempt_send_user_signal.
    static const std::regex signal("#SBATCH --signal");
    if (!GetParam().tells_shell) text = std::regex_replace(text, signal, "#$&");
    return write("job.sbatch", text);
  }
};

// The job goes on from the queue and ends with the weights of a run that was not disturbed.
TEST_P(Preempted, JobGivesWayAndGoesOn) {
  // Few steps, long enough that the other job comes in one of them.
  const std::string yaml =
      run_file({"train.steps=40", kSanitizes ? "train.global_batch=512" : "train.global_batch=4096",
                "train.micro_batch=32", "checkpoint.every=2"});
  const std::string weights = "/adapter/adapter_model.safetensors";
  static const std::string expected = [&] {  // of all cases
    const std::string twin = file("twin");
    EXPECT_EQ(run_rankwise({"train", yaml, "checkpoint.dir=" + twin}, 2).exit_code, 0);
    return slurp(twin + weights);
  }();

  const std::string partition = std::string("--partition=") + GetParam().partition;
  // (mpirun in the job refuses root without)
  const ProgramResult low =
      submit({partition, job(), yaml},
             {{"OMPI_ALLOW_RUN_AS_ROOT", "1"}, {"OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1"}});
  ASSERT_EQ(low.exit_code, 0) << low.errors;
  const std::string number = job_number(low);
  const auto has_begun = [&] { return log().find("checkpoint of step 0") != std::string::npos; };
  await([&] { return has_begun() || field(number, "JobState") == "FAILED"; });
  ASSERT_TRUE(has_begun()) << log();
  const ProgramResult high =
      cluster().run({"sbatch", "--parsable", "--partition=urgent", "--ntasks=2",
                     "--output=" + file("urgent.log"), "--wrap", "scontrol show job " + number});
  EXPECT_EQ(ending(high), "0:0") << log();
  EXPECT_EQ(slurp(file("urgent.log")).find("JobState=RUNNING"), std::string::npos);
  ASSERT_TRUE(begins_again(number)) << log();
  EXPECT_NE(log().find(GetParam().tells_shell ? "on request" : "asked to terminate"),
            std::string::npos)
      << log();
  EXPECT_EQ(ending(low), "0:0") << log();
  EXPECT_NE(log().find("goes on after step"), std::string::npos) << log();
  EXPECT_TRUE(slurp(file("run") + weights) == expected);
}

INSTANTIATE_TEST_SUITE_P(Sites, Preempted, ::testing::ValuesIn(sites()),
                         [](const auto& site) { return site.param.name; });

}  // namespace
}  // namespace rankwise::testing
