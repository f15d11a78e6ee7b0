// SPDX-License-Identifier: Apache-2.0
// Verb: one subcommand of the program, and the table of all of them.
#pragma once

#include <cstdint>
#include <functional>
#include <iosfwd>
#include <memory>
#include <string>
#include <vector>

#include "parallel/communicator.h"

namespace CLI {
class App;
}

namespace rankwise {

// What a verb may know about the process it runs in.
struct VerbContext {
  Communicator& world;
  int local_rank = 0;  // among the ranks of this host
  int local_size = 1;
  std::string host;
  std::ostream& out;  // the console of rank 0; other ranks' writes go nowhere
  // guard.hang_seconds of the run's configuration, once it is read.
  std::function<void(int64_t seconds)> set_hang_deadline = [](int64_t) {};
};

class Verb {
 public:
  virtual ~Verb() = default;
  virtual std::string name() const = 0;
  virtual std::string help() const = 0;  // one line
  // Options bind to members of the verb, which run() then reads.
  virtual void add_options(CLI::App& app) = 0;
  // Whether signals only ask it to stop (preemption.h), from before MPI is up.
  virtual bool is_preemptible() const { return false; }
  // Returns the exit code. User-caused failures are thrown as Error.
  virtual int run(VerbContext& context) = 0;
};

// Each in the file of its name.
std::unique_ptr<Verb> make_train_verb();
std::unique_ptr<Verb> make_evaluate_verb();
std::unique_ptr<Verb> make_quantize_verb();
std::unique_ptr<Verb> make_merge_verb();
std::unique_ptr<Verb> make_export_verb();
std::unique_ptr<Verb> make_generate_verb();
std::unique_ptr<Verb> make_bench_verb();
std::unique_ptr<Verb> make_inspect_verb();
std::unique_ptr<Verb> make_analyze_verb();
std::unique_ptr<Verb> make_doctor_verb();
std::unique_ptr<Verb> make_demo_verb();

// One instance of every verb, in the order of the help (registry.cc: one line per verb).
std::vector<std::unique_ptr<Verb>> make_verbs();

}  // namespace rankwise
