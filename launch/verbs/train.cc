// SPDX-License-Identifier: Apache-2.0
#include <CLI/CLI.hpp>
#include <ostream>

#include "launch/training_run.h"
#include "launch/verbs/verb.h"

namespace rankwise {
namespace {

class TrainVerb : public Verb {
 public:
  std::string name() const override { return "train"; }
  std::string help() const override {
    return "fine-tune a model; alone, or on many ranks under mpirun or srun";
  }
  void add_options(CLI::App& app) override {
    app.add_option("RUN", run_, "configuration of the run (YAML)")->required();
    app.add_option("overrides", overrides_, "key=value pairs over the file, e.g. optim.lr=2e-4");
    app.add_flag("--dry-run", dry_run_, "check everything and show the memory plan; no steps");
    app.add_flag("--print-config", print_config_, "print the resolved configuration and stop");
    app.add_flag("--overwrite", options_.overwrite,
                 "replace the run that stands in checkpoint.dir");
    app.add_option("--resume", options_.resume,
                   "auto: go on with the run in checkpoint.dir, or begin it; PATH of a checkpoint: "
                   "go on from there; none")
        ->capture_default_str();
  }

  bool is_preemptible() const override { return !dry_run_ && !print_config_; }

  int run(VerbContext& context) override {
    const TrainConfig config = load_train_config(run_, overrides_);
    context.set_hang_deadline(config.guard.hang_seconds);
    if (print_config_) {
      context.out << rankwise::print_config(config);
      return static_cast<int>(ExitCode::kDone);
    }
    if (options_.overwrite && options_.resume != "none") {
      throw ConfigError("--overwrite and --resume exclude each other");
    }
    context.world.activity().report("read model and data", kFilePatience);
    TrainingRun training(config, context);
    if (dry_run_) {
      if (options_.resume == "none") training.require_free_folder(options_.overwrite);
      context.out << training.describe_plan();
      return static_cast<int>(ExitCode::kDone);
    }
    return static_cast<int>(training.run(options_));
  }

 private:
  std::string run_;
  std::vector<std::string> overrides_;
  bool dry_run_ = false;
  bool print_config_ = false;
  TrainOptions options_;
};

}  // namespace

std::unique_ptr<Verb> make_train_verb() { return std::make_unique<TrainVerb>(); }

}  // namespace rankwise
