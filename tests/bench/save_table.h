// SPDX-License-Identifier: Apache-2.0
// The times of saving a training of random weights, as `train` saves it, beside a plain write.
#pragma once

#include <iosfwd>
#include <string>
#include <vector>

namespace rankwise::testing {

// Arguments: those of `rankwise bench step`, and --folder, in which a folder `saves` is made and
// removed again. ConfigError when it cannot be made.
void print_save_table(std::vector<std::string> arguments, std::ostream& out);

}  // namespace rankwise::testing
