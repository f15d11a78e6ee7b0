// SPDX-License-Identifier: Apache-2.0
// bench.save_table: how long training waits for a checkpoint, and until it is durable.
#include <exception>
#include <iostream>

#include "tests/bench/save_table.h"

int main(int argc, char** argv) {
  try {
    rankwise::testing::print_save_table({argv + 1, argv + argc}, std::cout);
    return 0;
  } catch (const std::exception& error) {
    std::cerr << "save_table: " << error.what() << "\n";
    return 1;
  }
}
