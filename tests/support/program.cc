// SPDX-License-Identifier: Apache-2.0
#include "tests/support/program.h"

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <fstream>
#include <sstream>
#include <stdexcept>

#include "runtime/io/json.h"
#include "tests/support/scratch_folder.h"

namespace rankwise::testing {
namespace {

std::string slurp(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  std::ostringstream text;
  text << in.rdbuf();
  return text.str();
}

void redirect(const std::string& path, int descriptor) {
  const int file = open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
  dup2(file, descriptor);
  close(file);
}

}  // namespace

ProgramResult run_program(const std::vector<std::string>& arguments,
                          const std::map<std::string, std::string>& environment) {
  const ScratchFolder folder;
  const pid_t child = fork();
  if (child == 0) {
    sigset_t none;  // a test that listens for signals blocks some
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, nullptr);
    redirect(folder.file("out"), STDOUT_FILENO);
    redirect(folder.file("err"), STDERR_FILENO);
    redirect("/dev/null", STDIN_FILENO);
    for (const auto& [name, value] : environment) setenv(name.c_str(), value.c_str(), 1);
    std::vector<char*> argv;
    for (const std::string& argument : arguments)
      argv.push_back(const_cast<char*>(argument.c_str()));
    argv.push_back(nullptr);
    execvp(argv[0], argv.data());
    _exit(127);
  }
  int status = 0;
  waitpid(child, &status, 0);
  ProgramResult result;
  result.exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  result.output = slurp(folder.file("out"));
  result.errors = slurp(folder.file("err"));
  return result;
}

ProgramResult run_rankwise(std::vector<std::string> arguments, int ranks) {
  const char* binary = std::getenv("RANKWISE_BINARY");
  if (binary == nullptr) throw std::runtime_error("RANKWISE_BINARY is not set");
  arguments.insert(arguments.begin(), binary);
  if (ranks > 1) {
    const std::vector<std::string> launcher = {"mpirun", "--oversubscribe",    "--bind-to", "none",
                                               "-np",    std::to_string(ranks)};
    arguments.insert(arguments.begin(), launcher.begin(), launcher.end());
  }
  return run_program(arguments, {{"OMPI_ALLOW_RUN_AS_ROOT", "1"},
                                 {"OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1"},
                                 {"OMP_NUM_THREADS", "1"}});
}

std::vector<double> read_metric(const std::string& metrics_jsonl, const std::string& name) {
  std::vector<double> values;
  std::ifstream in(metrics_jsonl);
  for (std::string line; std::getline(in, line);) {
    const Json record = parse_json(line, metrics_jsonl);
    if (!record.at(name).is_null()) values.push_back(record.at(name).get<double>());
  }
  return values;
}

}  // namespace rankwise::testing
