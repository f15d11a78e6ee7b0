// SPDX-License-Identifier: Apache-2.0
// bench.step_table: where the time of a training step goes, operation by operation.
#include <exception>
#include <iostream>

#include "tests/bench/step_table.h"

int main(int argc, char** argv) {
  try {
    rankwise::testing::print_step_table({argv + 1, argv + argc}, std::cout);
    return 0;
  } catch (const std::exception& error) {
    std::cerr << "step_table: " << error.what() << "\n";
    return 1;
  }
}
