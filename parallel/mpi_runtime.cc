// SPDX-License-Identifier: Apache-2.0
#include "parallel/mpi_runtime.h"

#include <array>
#include <cstdlib>
#include <exception>

#include "parallel/collective.h"
#include "parallel/mpi_communicator.h"

namespace rankwise {
namespace {

// Tasks that srun started in this step; 0 outside a step.
int slurm_step_tasks() {
  const char* tasks = std::getenv("SLURM_STEP_NUM_TASKS");
  return tasks == nullptr ? 0 : std::atoi(tasks);
}

// The variables by which Open MPI, PMIx and PMI tell a process that it is one rank of a job.
// This is the one place outside launch that reads the environment: MPI's own initialisation of a
// lone process starts a daemon, costs up to a second and may print.
bool started_as_rank() {
  for (const char* name : {"OMPI_COMM_WORLD_SIZE", "PMIX_RANK", "PMI_RANK"}) {
    if (std::getenv(name) != nullptr) return true;
  }
  return false;
}

// Without a process-management plugin every task would train alone and overwrite the others' files.
[[noreturn]] void refuse_unconnected_tasks() {
  throw ConfigError(fmt::format(
      "srun started {} tasks but MPI does not connect them: use srun --mpi=pmix (srun --mpi=list "
      "shows what this cluster offers) or mpirun",
      slurm_step_tasks()));
}

}  // namespace

MpiRuntime::MpiRuntime(int* argc, char*** argv, PeerMonitor::End end) : host_(host_name()) {
  if (!started_as_rank()) {
    if (slurm_step_tasks() > 1) refuse_unconnected_tasks();
    world_ = make_single_communicator();
    return;
  }
  int provided = MPI_THREAD_SINGLE;
  check_mpi(MPI_Init_thread(argc, argv, MPI_THREAD_SERIALIZED, &provided), "MPI_Init_thread", -1);
  auto world =
      std::make_unique<MpiCommunicator>(MPI_COMM_WORLD, MpiCommunicator::Ownership::kBorrowed);
  const int rank = world->rank();
  check_mpi(MPI_Comm_set_errhandler(MPI_COMM_SELF, MPI_ERRORS_RETURN), "set error handler", rank);
  if (provided < MPI_THREAD_SERIALIZED) {
    throw CommunicationError(fmt::format(
        "MPI_Init_thread: this MPI library offers thread level {}, MPI_THREAD_SERIALIZED ({}) is "
        "needed (rank {}, host {})",
        provided, static_cast<int>(MPI_THREAD_SERIALIZED), rank, host_));
  }
  if (world->size() == 1 && slurm_step_tasks() > 1) refuse_unconnected_tasks();
  MPI_Comm host_comm = MPI_COMM_NULL;
  check_mpi(
      MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, rank, MPI_INFO_NULL, &host_comm),
      "find the ranks of this host", rank);
  const MpiCommunicator local(host_comm, MpiCommunicator::Ownership::kOwned);
  local_rank_ = local.rank();
  local_size_ = local.size();
  world_ = std::move(world);
  if (world_->size() == 1) return;
  if (!end) end = [](const Verdict& verdict) { end_process(static_cast<int>(verdict.code)); };
  monitor_ = std::make_unique<PeerMonitor>(*world_, host_, std::move(end));
}

MpiRuntime::~MpiRuntime() {
  int initialized = 0;
  int finalized = 0;
  MPI_Initialized(&initialized);
  MPI_Finalized(&finalized);
  // MPI_Finalize waits for all ranks, so a rank that fails must not reach it: leaving without it
  // makes the launcher end the others.
  if (initialized == 0 || finalized != 0 || std::uncaught_exceptions() > 0) return;
  world_->activity().begin_collective("end of the program");
  MPI_Finalize();  // the monitor still watches: this is the last operation that can hang
}

std::string MpiRuntime::library_version() {
  std::array<char, MPI_MAX_LIBRARY_VERSION_STRING> text{};
  int length = 0;
  check_mpi(MPI_Get_library_version(text.data(), &length), "MPI_Get_library_version", -1);
  const std::string version(text.data(), static_cast<size_t>(length));
  return version.substr(0, version.find_first_of(",\n"));
}

}  // namespace rankwise
