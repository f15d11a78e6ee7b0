// SPDX-License-Identifier: Apache-2.0
// Runs under mpirun with 1, 2 and 4 ranks.
#include "parallel/mpi_communicator.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "parallel/device_mesh.h"
#include "tests/parallel/communicator_contract.h"
#include "tests/parallel/gradient_scenario.h"
#include "tests/support/test_world.h"

namespace rankwise {
namespace {

TEST(MpiCommunicator, KeepsTheContract) { testing::expect_communicator_contract(testing::world()); }

TEST(MpiCommunicator, SplitsTensorsThatExceedOneCall) {
  MpiCommunicator small(MPI_COMM_WORLD, MpiCommunicator::Ownership::kBorrowed, 5);
  testing::expect_communicator_contract(small);
}

TEST(MpiCommunicator, ErrorNamesOperationTextRankAndHost) {
  Communicator& world = testing::world();
  testing::expect_unknown_root_is_an_error_naming_the_operation(world);
  Stream stream;
  std::vector<float> values(1);
  try {
    world.broadcast(testing::view_of(values), -7, "seeds", stream);
    FAIL() << "no error";
  } catch (const CommunicationError& error) {
    const std::string message = error.what();
    EXPECT_NE(message.find("MPI_ERR_ROOT"), std::string::npos) << message;
    EXPECT_NE(message.find("rank " + std::to_string(world.rank()) + ", host "), std::string::npos)
        << message;
  }
}

TEST(MpiCommunicator, MeshAxesCoverTheWorld) {
  Communicator& world = testing::world();
  for (int tensor = 1; tensor <= world.size(); tensor *= 2) {
    const DeviceMesh mesh(world, tensor);
    EXPECT_EQ(mesh.tensor().size(), tensor);
    EXPECT_EQ(mesh.data().size(), world.size() / tensor);
    EXPECT_EQ(mesh.data().rank() * tensor + mesh.tensor().rank(), world.rank());
  }
}

TEST(MpiCommunicator, GradientsAreReducedExactly) {
  for (int64_t bucket_bytes : {int64_t{1}, int64_t{200}, int64_t{25} << 20}) {
    testing::expect_exact_gradients(testing::world(), 3, bucket_bytes);
  }
}

}  // namespace
}  // namespace rankwise
