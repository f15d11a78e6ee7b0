// SPDX-License-Identifier: Apache-2.0
#include "launch/program.h"

#include <fmt/format.h>
#include <omp.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <iostream>
#include <new>
#include <ostream>
#include <thread>

#include "launch/config/nearest_name.h"
#include "launch/output_folder.h"
#include "launch/preemption.h"
#include "launch/progress_line.h"
#include "launch/verbs/verb.h"
#include "launch/version.h"
#include "parallel/collective.h"
#include "parallel/mpi_runtime.h"
#include "runtime/data/utf8.h"
#include "runtime/errors.h"
#include "runtime/failpoint.h"

namespace rankwise {

namespace {

struct Failure {
  ExitCode code = ExitCode::kInternal;
  std::string message;
};

// The exception being handled, as what the user is told.
Failure current_failure() {
  try {
    throw;
  } catch (const Error& error) {
    return {error.exit_code(), error.what()};
  } catch (const std::bad_alloc&) {
    return {ExitCode::kOutOfMemory, "out of host memory"};
  } catch (const std::filesystem::filesystem_error& error) {
    // A path that the system refuses to look at: too long, or below a folder without permission.
    return {ExitCode::kDisk, fmt::format("{}: {}", error.path1().string(), error.code().message())};
  } catch (const std::exception& error) {
    return {ExitCode::kInternal, fmt::format("internal error: {}", error.what())};
  } catch (...) {
    return {ExitCode::kInternal, "internal error: unknown exception"};
  }
}

// One write, so that lines of several ranks do not mix.
void print_line(std::string line) {
  // Names in messages come from users and files; one error stays one line all the same.
  line = without_controls(std::move(line));
  line += '\n';
  std::cout.flush();
  std::cerr << line << std::flush;
}

void report(std::string_view prefix, const Failure& failure) {
  print_line(fmt::format("rankwise: error: {}{}{}", prefix, failure.message,
                         failure.code == ExitCode::kDisk ? disk_advice(failure.message) : ""));
}

// Before MPI is up, several ranks can be told apart only by what their launcher says.
bool is_first_rank() {
  for (const char* name : {"OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK"}) {
    if (const char* rank = std::getenv(name)) return std::string_view(rank) == "0";
  }
  return true;
}

// One rank's failure makes the others' collectives fail too. Only the cause shall be printed: the
// rank that prints ends the job, so ranks that merely notice wait for that, and of several ranks
// that find the same fault on their own the first one speaks.
void let_the_cause_speak_first(const Failure& failure, int rank) {
  using std::chrono::milliseconds;
  const bool is_echo = failure.code == ExitCode::kCommunication;
  const milliseconds wait(is_echo ? 2000 : rank == 0 ? 0 : 500);
  std::this_thread::sleep_for(wait);
}

// Every rank is one thread unless OMP_NUM_THREADS says otherwise: launchers place one rank per
// core. Alone, OpenMP's own default (all cores) holds.
void choose_thread_count(int ranks) {
  if (ranks > 1 && std::getenv("OMP_NUM_THREADS") == nullptr) omp_set_num_threads(1);
}

// MPI may be what hangs: this process ends in any case.
[[noreturn]] void abort_job(Communicator& world, int exit_code) {
  std::thread([exit_code] {
    std::this_thread::sleep_for(std::chrono::milliseconds(1500));
    std::_Exit(exit_code);
  }).detach();
  world.abort(exit_code);
  std::_Exit(exit_code);  // gcc does not see that abort() never returns
}

// What the monitor of the ranks does when the job has to end; on its own thread.
void end_for(const Verdict& verdict, Communicator& world) {
  const int code = static_cast<int>(verdict.code);
  // A rank that has spoken ends the others by its launcher.
  if (verdict.message.empty() || is_terminated()) end_process(code);
  report("", {verdict.code, verdict.message});
  // A launcher that has just seen the rank end by a signal says so, instead of this code.
  std::this_thread::sleep_for(std::chrono::milliseconds(300));
  abort_job(world, code);
}

void flush_output() {
  if (!std::cout.flush()) throw DiskError("standard output: cannot write");
}

int run_verb(Verb& verb, const Preparation& prepare, int* argc, char*** argv) {
  if (verb.is_preemptible()) listen_for_requests();
  MpiRuntime mpi(argc, argv, [&mpi](const Verdict& verdict) { end_for(verdict, mpi.world()); });
  Communicator& world = mpi.world();
  PeerMonitor* monitor = mpi.monitor();
  choose_thread_count(world.size());
#if RANKWISE_FAILPOINTS
  if (const char* points = std::getenv("RANKWISE_FAILPOINTS")) arm_failpoints(points, world.rank());
#endif
  if (prepare) prepare(world);
  // Long for what reports nothing while it works.
  world.activity().report(verb.name(), kFilePatience);
  std::ostream silent(nullptr);
  VerbContext context = {.world = world,
                         .local_rank = mpi.local_rank(),
                         .local_size = mpi.local_size(),
                         .host = mpi.host(),
                         .out = world.rank() == 0 ? std::cout : silent,
                         .set_hang_deadline = [monitor](int64_t seconds) {
                           if (monitor != nullptr)
                             monitor->set_deadline(static_cast<double>(seconds));
                         }};
  if (monitor != nullptr && world.rank() == 0 && !monitor->problem().empty()) {
    print_line(fmt::format("rankwise: warning: {}; a rank that ends or hangs is noticed late",
                           monitor->problem()));
  }
  try {
    const int code = verb.run(context);
    flush_output();
    return code;
  } catch (...) {
    if (world.size() == 1) throw;
    // Here, while MPI is still up: ending the other ranks needs it.
    const Failure failure = current_failure();
    const std::string operation = world.activity().status().doing();
    let_the_cause_speak_first(failure, world.rank());
    if (monitor != nullptr) monitor->claim_report(failure.code);
    report(fmt::format("rank {} on {} during {}: ", world.rank(), context.host, operation),
           failure);
    abort_job(world, static_cast<int>(failure.code));
  }
}

struct CommandLine {
  CLI::App app{"rankwise fine-tunes large language models on many ranks.", "rankwise"};
  bool version = false;
  std::vector<std::unique_ptr<Verb>> verbs = make_verbs();
  std::vector<CLI::App*> subcommands;

  CommandLine() {
    app.add_flag("--version", version, "print version, commit, backends and library versions");
    app.set_help_flag("-h,--help", "print this help, or after a verb the help of the verb");
    app.require_subcommand(0, 1);
    app.get_formatter()->label("SUBCOMMAND", "VERB");
    app.footer("`rankwise VERB --help` explains a verb.");
    for (const auto& verb : verbs) {
      CLI::App* subcommand = app.add_subcommand(verb->name(), verb->help());
      subcommand->group("Verbs")->footer("");
      verb->add_options(*subcommand);
      subcommands.push_back(subcommand);
    }
  }

  Verb* chosen() const {
    for (size_t i = 0; i < verbs.size(); ++i) {
      if (subcommands[i]->parsed()) return verbs[i].get();
    }
    return nullptr;
  }
};

void refuse_unknown_verb(const CommandLine& line, std::string_view word) {
  std::vector<std::string> names;
  for (const auto& verb : line.verbs) names.push_back(verb->name());
  if (word.starts_with("-") || std::find(names.begin(), names.end(), word) != names.end()) return;
  const std::string nearest = nearest_name(word, names);
  throw ConfigError(fmt::format("'{}' is no verb; {}", word,
                                nearest.empty() ? "`rankwise --help` lists them"
                                                : fmt::format("did you mean '{}'?", nearest)));
}

// What is said on the command line may end up in JSON, which holds no other text.
void refuse_invalid_utf8(int argc, char** argv) {
  for (int i = 1; i < argc; ++i) {
    const size_t invalid = find_invalid_utf8(argv[i]);
    if (invalid == std::string_view::npos) continue;
    throw ConfigError(fmt::format("command line: argument {}, {}: byte {}: invalid UTF-8", i,
                                  quote(replace_invalid_utf8(argv[i])), invalid + 1));
  }
}

int parse_and_run(int argc, char** argv, const Preparation& prepare) {
  refuse_invalid_utf8(argc, argv);
  CommandLine line;
  if (argc > 1) refuse_unknown_verb(line, argv[1]);
  try {
    line.app.parse(argc, argv);
  } catch (const CLI::CallForHelp&) {
    if (is_first_rank()) std::cout << line.app.help();
    flush_output();
    return static_cast<int>(ExitCode::kDone);
  } catch (const CLI::ParseError& error) {
    const Verb* verb = line.chosen();
    throw ConfigError(fmt::format("{} (see `rankwise {}--help`)", error.what(),
                                  verb == nullptr ? "" : verb->name() + " "));
  }
  if (line.version) {
    if (is_first_rank()) std::cout << version_text();
    flush_output();
    return static_cast<int>(ExitCode::kDone);
  }
  Verb* verb = line.chosen();
  if (verb == nullptr) {
    if (is_first_rank()) std::cerr << line.app.help();
    return static_cast<int>(ExitCode::kConfig);
  }
  return run_verb(*verb, prepare, &argc, &argv);
}

}  // namespace

int run_program(int argc, char** argv, const Preparation& prepare) {
  // A file at the size limit then fails like one on a full disk, instead of ending the process.
  std::signal(SIGXFSZ, SIG_IGN);
  try {
    return parse_and_run(argc, argv, prepare);
  } catch (...) {
    const Failure failure = current_failure();
    // What is wrong with a command line is the same on all ranks.
    const bool same_everywhere = failure.code == ExitCode::kConfig;
    if (!same_everywhere || is_first_rank()) report("", failure);
    return static_cast<int>(failure.code);
  }
}

}  // namespace rankwise
