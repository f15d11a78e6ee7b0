// SPDX-License-Identifier: Apache-2.0
// The program with a fault: its first argument is "ACTION RANK SECONDS OPERATION[>OPERATION]", the
// others are those of rankwise. On that rank (-1: on all), when operations with these beginnings
// have begun one after another, it waits so many seconds and then does kill (SIGKILL), abort, stop
// (SIGSTOP), throw (DiskError) or nothing (sleep; slow: waits in each of these operations).
#include <csignal>
#include <cstdlib>
#include <iostream>
#include <memory>
#include <sstream>
#include <thread>
#include <vector>

#include "launch/program.h"
#include "runtime/errors.h"

namespace {

struct Fault {
  std::string action;
  int rank = 0;
  double seconds = 0.0;
  std::vector<std::string> operations;  // still to come, the last one first
};

void commit(Fault& fault, std::string_view operation) {
  if (fault.operations.empty() || !operation.starts_with(fault.operations.back())) return;
  fault.operations.pop_back();
  if (!fault.operations.empty() && fault.action != "slow") return;
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  const double at = std::chrono::duration<double>(now).count();
  std::cerr << fmt::format("fault at {:.3f}\n", fault.action == "sleep" ? at : at + fault.seconds);
  std::this_thread::sleep_for(std::chrono::duration<double>(fault.seconds));
  if (fault.action == "kill") std::raise(SIGKILL);
  if (fault.action == "abort") std::abort();
  if (fault.action == "stop") std::raise(SIGSTOP);
  if (fault.action == "throw") throw rankwise::DiskError("injected fault");
}

}  // namespace

int main(int argc, char** argv) {
  auto fault = std::make_shared<Fault>();
  std::istringstream words(argc > 1 ? argv[1] : "");
  words >> fault->action >> fault->rank >> fault->seconds >> std::ws;
  for (std::string part; std::getline(words, part, '>');) {
    fault->operations.insert(fault->operations.begin(), part);
  }
  const auto prepare = [fault](rankwise::Communicator& world) {
    if (fault->rank != -1 && fault->rank != world.rank()) return;
    world.activity().set_observer(
        [fault](std::string_view operation) { commit(*fault, operation); });
  };
  return rankwise::run_program(argc - 1, argv + 1, prepare);
}
