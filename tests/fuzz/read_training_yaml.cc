// SPDX-License-Identifier: Apache-2.0
#include <stdexcept>

#include "launch/config/config_tree.h"
#include "launch/config/train_config.h"
#include "runtime/errors.h"
#include "tests/fuzz/readers.h"

namespace rankwise::testing {

void read_training_yaml(std::string_view bytes) {
  const TrainConfig config = parse_train_config(bytes, "run.yaml", {});
  const std::string printed = print_config(config);
  // What is not said is printed too: a list of many empty rules grows beyond what is read.
  if (printed.size() > kMaxConfigBytes) return;
  const auto read_back = [&] {
    try {
      return parse_train_config(printed, "printed.yaml", {});
    } catch (const Error& error) {
      throw std::logic_error(std::string("does not read back: ") + error.what());
    }
  };
  if (read_back() != config) {
    throw std::logic_error("does not read back:\n" + printed);
  }
}

}  // namespace rankwise::testing
