// SPDX-License-Identifier: Apache-2.0
// Runs a verb in this process with command-line arguments, as the program does.
#pragma once

#include <CLI/CLI.hpp>
#include <sstream>
#include <string>
#include <vector>

#include "launch/verbs/verb.h"

namespace rankwise::testing {

// What the verb prints. CLI::ParseError for arguments it does not know.
inline std::string run_verb(Verb& verb, std::vector<std::string> arguments) {
  CLI::App app;
  verb.add_options(app);
  std::reverse(arguments.begin(), arguments.end());  // CLI11 takes them from the back
  app.parse(arguments);
  const auto alone = make_single_communicator();
  std::ostringstream out;
  VerbContext context{.world = *alone, .host = "here", .out = out};
  verb.run(context);
  return out.str();
}

}  // namespace rankwise::testing
