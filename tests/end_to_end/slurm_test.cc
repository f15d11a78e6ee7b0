// SPDX-License-Identifier: Apache-2.0
// The sbatch templates on a real Slurm of this one machine: training as under mpirun, exit codes, a
// killed task, a time limit. What only other clusters have, pyxis and apptainer, is stood in for by
// a few lines of shell that check how they are called.
#include <signal.h>

#include "tests/end_to_end/slurm_jobs.h"

namespace rankwise::testing {
namespace {

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

// Without Slurm's signal, which comes up to a minute early: the ranks stop by themselves two
// minutes before the limit, here after the first step, and the job goes back into the queue.
TEST_F(Slurm, AJobStopsBeforeItsTimeLimitAndGoesOn) {
  std::string text = slurp(bare());
  text.insert(text.find("#SBATCH --signal"), "#");
  const std::string script = write("job.sbatch", text);
  const std::string twin = file("twin"), weights = "/adapter/adapter_model.safetensors";
  std::map<std::string, std::string> environment = stand_in(
      "scontrol", "echo \"$*\" >> " + file("asked") + "; PATH=${PATH#*:} exec scontrol \"$@\"\n");
  // `name` is what the job has to be called in requests.
  const auto expect_goes_on = [&](std::vector<std::string> options, const std::string& name) {
    const std::string run = file("run" + name);
    const std::string yaml =
        run_file({"train.steps=6", "checkpoint.every=0", "checkpoint.dir=" + run});
    options.insert(options.end(), {"--time=2", script, yaml});
    const ProgramResult job = submit(options, environment);
    const std::string number = job_number(job);
    ASSERT_EQ(job.exit_code, 0) << job.errors;
    ASSERT_TRUE(begins_again(number, {"TimeLimit=60"})) << log();
    EXPECT_NE(log().find("stopped after step 1 of 6"), std::string::npos) << log();
    EXPECT_EQ(ending(job), "0:0") << log();
    EXPECT_NE(log().find("goes on after step 1"), std::string::npos) << log();
    EXPECT_NE(slurp(file("asked")).find("requeue " + number + name + "\n"), std::string::npos)
        << slurp(file("asked"));
    if (!std::filesystem::exists(twin)) {
      ASSERT_EQ(run_rankwise({"train", yaml, "checkpoint.dir=" + twin}, 2).exit_code, 0);
    }
    EXPECT_TRUE(slurp(run + weights) == slurp(twin + weights));
    // As in a job that the first one submits.
    environment.insert({{"SLURM_ARRAY_JOB_ID", number},
                        {"SLURM_ARRAY_TASK_ID", "7"},
                        {"SLURM_JOB_END_TIME", "1"}});
  };
  expect_goes_on({"--array=7"}, "_7");
  expect_goes_on({}, "");
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

}  // namespace
}  // namespace rankwise::testing
