// SPDX-License-Identifier: Apache-2.0
// main() of every test program: MPI is initialised when the program runs under mpirun, and a run
// whose tests were skipped says how many.
#include <gtest/gtest.h>

#include <cstdio>
#include <cstdlib>
#include <memory>

#include "parallel/mpi_runtime.h"
#include "tests/support/test_world.h"

namespace {
rankwise::Communicator* g_world = nullptr;
}

namespace rankwise::testing {
Communicator& world() { return *g_world; }
}  // namespace rankwise::testing

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  std::unique_ptr<rankwise::MpiRuntime> mpi;
  std::unique_ptr<rankwise::Communicator> alone;
  if (std::getenv("OMPI_COMM_WORLD_SIZE") != nullptr) {
    mpi = std::make_unique<rankwise::MpiRuntime>(&argc, &argv);
    g_world = &mpi->world();
  } else {
    alone = rankwise::make_single_communicator();
    g_world = alone.get();
  }
  const int result = RUN_ALL_TESTS();
  const int skipped = testing::UnitTest::GetInstance()->skipped_test_count();
  if (skipped > 0) std::printf("SKIPPED %d test(s) in this program\n", skipped);
  return result;
}
