// SPDX-License-Identifier: Apache-2.0
// The sbatch templates on a real Slurm of this one machine: training as under mpirun, exit codes, a
// killed task. What only other clusters have, pyxis and apptainer, is stood in for by a few lines
// of shell that check how they are called.
#include <gtest/gtest.h>
#include <signal.h>

#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <memory>
#include <regex>
#include <sstream>
#include <thread>

#include "tests/end_to_end/small_run.h"
#include "tests/support/program.h"
#include "tests/support/slurm_cluster.h"

namespace rankwise::testing {
namespace {

std::string slurp(const std::string& path) {
  std::ostringstream text;
  text << std::ifstream(path).rdbuf();
  return text.str();
}

std::string rankwise_binary() { return std::getenv("RANKWISE_BINARY"); }

class Slurm : public ::testing::Test {
 protected:
  static void SetUpTestSuite() { start_cluster({}); }
  static void TearDownTestSuite() { cluster_.reset(); }
  void SetUp() override {
    if (!cluster_->missing().empty()) GTEST_SKIP() << cluster_->missing();
  }

  static void start_cluster(const std::vector<std::string>& lines) {
    cluster_ = std::make_unique<SlurmCluster>(lines);
  }
  const SlurmCluster& cluster() const { return *cluster_; }
  std::string file(const std::string& name) const { return run_.folder().file(name); }
  std::string log() const { return slurp(file("job.log")); }

  // RUN.yaml of a small run, its results in folder `run`.
  std::string run_file(const std::vector<std::string>& overrides = {}) const {
    return run_.folder().write("run.yaml", print_config(run_.config(overrides)));
  }

  // A template of launch/slurm as a user would edit it: `values` for its variables.
  std::string edited(const std::string& name, std::map<std::string, std::string> values) const {
    std::ifstream in("launch/slurm/" + name);
    std::string text;
    for (std::string line; std::getline(in, line);) {
      const auto value = values.find(line.substr(0, line.find('=')));
      if (value != values.end()) {
        line = value->first + "=" + value->second;
        values.erase(value);
      }
      text += line + "\n";
    }
    EXPECT_TRUE(values.empty()) << name << " has no variable " << values.begin()->first;
    return run_.folder().write(name, text);
  }
  std::string write(const std::string& name, const std::string& text) const {
    return run_.folder().write(name, text);
  }
  std::string bare() const { return edited("bare.sbatch", {{"rankwise", rankwise_binary()}}); }

  // sbatch for two tasks on this machine.
  ProgramResult submit(std::vector<std::string> arguments,
                       const std::map<std::string, std::string>& environment = {}) const {
    const std::vector<std::string> options = {
        "sbatch",           "--parsable",          "--output=" + file("job.log"),
        "--nodes=1",        "--ntasks-per-node=2", "--cpus-per-task=1",
        "--gpus-per-node=0"};
    arguments.insert(arguments.begin(), options.begin(), options.end());
    return cluster().run(arguments, environment);
  }

  // NAME=VALUE of `scontrol show job`.
  std::string field(const std::string& job, const std::string& name) const {
    const std::string text = cluster().run({"scontrol", "show", "job", job}).output;
    const size_t begin = text.find(name + "=");
    if (begin == std::string::npos) return "";
    const size_t value = begin + name.size() + 1;
    return text.substr(value, text.find_first_of(" \n", value) - value);
  }

  // Waits for the end of the submitted job; its exit code and signal, such as "75:0".
  std::string ending(const ProgramResult& submitted) const {
    if (submitted.exit_code != 0) return "not submitted: " + submitted.errors;
    const std::string job = job_number(submitted);
    const bool ended = await([&] {
      const std::string state = field(job, "JobState");
      return state == "COMPLETED" || state == "FAILED";
    });
    return ended ? field(job, "ExitCode") : "still " + field(job, "JobState");
  }

  static std::string job_number(const ProgramResult& submitted) {
    return submitted.output.substr(0, submitted.output.find_first_of(";\n"));
  }

  static bool await(const std::function<bool()>& condition) {
    for (int attempt = 0; attempt < 900; ++attempt) {
      if (condition()) return true;
      std::this_thread::sleep_for(std::chrono::milliseconds(100));
    }
    return false;
  }

  // Environment in which `script` is the command `name`, before the system's.
  std::map<std::string, std::string> stand_in(const std::string& name,
                                              const std::string& script) const {
    const std::string path = run_.folder().write("bin/" + name, "#!/bin/bash\n" + script);
    std::filesystem::permissions(path, std::filesystem::perms::owner_all);
    return {{"PATH", file("bin") + ":" + cluster().variable("PATH")}};
  }

  // The job trains; the same one again finds nothing left to do.
  void expect_trains_once(const std::string& job,
                          const std::map<std::string, std::string>& environment) const {
    const std::string yaml = run_file();
    EXPECT_EQ(ending(submit({job, yaml}, environment)), "0:0") << log();
    EXPECT_TRUE(std::filesystem::exists(file("run/adapter"))) << log();
    EXPECT_EQ(ending(submit({job, yaml}, environment)), "0:0") << log();
    EXPECT_NE(log().find("this run is finished"), std::string::npos) << log();
  }

 private:
  inline static std::unique_ptr<SlurmCluster> cluster_;
  SmallRun run_;
};

TEST_F(Slurm, KnowsWhatEachTemplateAsksFor) {
  for (const char* name : {"bare.sbatch", "pyxis.sbatch", "apptainer.sbatch"}) {
    const ProgramResult result = submit({"--test-only", std::string("launch/slurm/") + name, "x"});
    EXPECT_EQ(result.exit_code, 0) << name << ": " << result.errors;
  }
}

TEST_F(Slurm, BareTemplateTrainsAsMpirunDoes) {
  const std::string yaml = run_file();
  ASSERT_EQ(ending(submit({bare(), yaml})), "0:0") << log();
  EXPECT_TRUE(std::filesystem::exists(file("run/adapter/adapter_model.safetensors"))) << log();

  const std::string twin = file("mpirun");
  ASSERT_EQ(run_rankwise({"train", yaml, "checkpoint.dir=" + twin}, 2).exit_code, 0);
  const std::vector<double> expected = read_metric(twin + "/metrics.jsonl", "loss");
  const std::vector<double> losses = read_metric(file("run/metrics.jsonl"), "loss");
  ASSERT_EQ(losses.size(), expected.size());
  for (size_t step = 0; step < losses.size(); ++step) {
    EXPECT_NEAR(losses[step], expected[step], 1e-4 * expected[step]) << "step " << step;
  }
}

TEST_F(Slurm, AFailedJobEndsWithTheProgramsExitCode) {
  const std::string yaml = run_file();
  EXPECT_EQ(ending(submit({bare(), yaml, "train.steps=many"})), "2:0");
  EXPECT_NE(log().find("train.steps"), std::string::npos) << log();
  EXPECT_EQ(ending(submit({bare(), yaml, "data.train.0.path=/nowhere.jsonl"})), "3:0");
  EXPECT_NE(log().find("/nowhere.jsonl"), std::string::npos) << log();
}

TEST_F(Slurm, AKilledTaskEndsTheJob) {
  const ProgramResult job = submit({bare(), run_file(), "train.steps=1000000"});
  ASSERT_EQ(job.exit_code, 0) << job.errors;
  const std::string metrics = file("run/metrics.jsonl");
  ASSERT_TRUE(await([&] {
    return std::filesystem::exists(metrics) && std::filesystem::file_size(metrics) > 0;
  })) << log();
  // PID JOBID STEPID LOCALID GLOBALID
  std::istringstream processes(cluster().run({"scontrol", "listpids", job_number(job)}).output);
  pid_t second_task = 0;
  for (std::string line; std::getline(processes, line);) {
    std::istringstream words(line);
    std::string pid, number, step, local, global;
    words >> pid >> number >> step >> local >> global;
    if (step == "0" && global == "1") second_task = std::stoi(pid);
  }
  ASSERT_GT(second_task, 0) << processes.str();
  ASSERT_EQ(kill(second_task, SIGKILL), 0);
  // Of the killed task, or of the other one, which has noticed.
  const std::string code = ending(job);
  EXPECT_TRUE(code == "137:0" || code == "72:0") << code << log();
}

// Each would train alone and overwrite the files of the other.
TEST_F(Slurm, TasksThatMpiDoesNotConnectDoNotTrain) {
  const ProgramResult result =
      cluster().run({"srun", "--ntasks=2", "--mpi=none", rankwise_binary(), "train", run_file()});
  EXPECT_NE(result.exit_code, 0);
  EXPECT_NE(result.errors.find("srun --mpi=pmix"), std::string::npos) << result.errors;
  EXPECT_FALSE(std::filesystem::exists(file("run")));
}

TEST_F(Slurm, PyxisTemplateNamesImageAndFolders) {
  const std::map<std::string, std::string> environment = stand_in("srun", R"(
for argument in "$@"; do
  case $argument in
    --container-image=/an/image.sqsh) ;;
    --container-mounts="$PWD:$PWD,/data set:/data,/models:/models") ;;
    --container-workdir="$PWD") ;;
    --container*) exit 40 ;;
    *) others+=("$argument") ;;
  esac
done
[[ $(($# - ${#others[@]})) -eq 3 ]] || exit 41
PATH=${PATH#*:}
exec srun "${others[@]}"
)");
  const std::string job = edited("pyxis.sbatch", {{"rankwise", rankwise_binary()},
                                                  {"image", "/an/image.sqsh"},
                                                  {"mounts", "'/data set:/data,/models:/models'"}});
  expect_trains_once(job, environment);
}

TEST_F(Slurm, ApptainerTemplateEntersTheImageInEveryTask) {
  const std::map<std::string, std::string> environment = stand_in("apptainer", R"(
[[ "$1 $2 $3 $4" == "exec --nv --pwd $PWD" ]] || exit 40
[[ "$5 $6" == "--bind $PWD,$PMIX_SERVER_TMPDIR,/data set,/models" ]] || exit 41
[[ -d $PMIX_SERVER_TMPDIR && $7 == /an/image.sif ]] || exit 42
shift 7
exec "$@"
)");
  const std::string job = edited("apptainer.sbatch", {{"rankwise", rankwise_binary()},
                                                      {"image", "/an/image.sif"},
                                                      {"mounts", "'/data set,/models'"}});
  expect_trains_once(job, environment);
}

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
  const ProgramResult low = submit({partition, job(), yaml});
  ASSERT_EQ(low.exit_code, 0) << low.errors;
  const std::string number = job_number(low);
  ASSERT_TRUE(await([&] { return log().find("checkpoint of step 0") != std::string::npos; }))
      << log();
  const ProgramResult high =
      cluster().run({"sbatch", "--parsable", "--partition=urgent", "--ntasks=2",
                     "--output=" + file("urgent.log"), "--wrap", "scontrol show job " + number});
  EXPECT_EQ(ending(high), "0:0") << log();
  EXPECT_EQ(slurp(file("urgent.log")).find("JobState=RUNNING"), std::string::npos);
  ASSERT_TRUE(await([&] { return field(number, "JobState") == "PENDING"; })) << log();
  EXPECT_EQ(field(number, "Restarts"), "1");
  EXPECT_NE(log().find(GetParam().tells_shell ? "on request" : "asked to terminate"),
            std::string::npos)
      << log();
  // A requeued job waits for two minutes unless it is told to begin, which must not be before its
  // node has forgotten the first start.
  std::this_thread::sleep_for(std::chrono::seconds(3));
  cluster().run({"scontrol", "update", "JobId=" + number, "StartTime=now"});
  EXPECT_EQ(ending(low), "0:0") << log();
  EXPECT_NE(log().find("goes on after step"), std::string::npos) << log();
  EXPECT_TRUE(slurp(file("run") + weights) == expected);
}

INSTANTIATE_TEST_SUITE_P(Sites, Preempted, ::testing::ValuesIn(sites()),
                         [](const auto& site) { return site.param.name; });

}  // namespace
}  // namespace rankwise::testing
