// SPDX-License-Identifier: Apache-2.0
#include "tests/bench/save_table.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <filesystem>
#include <ostream>
#include <utility>

#include "launch/benchmarks_workbench.h"
#include "launch/checkpoint/checkpoint_writer.h"
#include "launch/device_random_weights.h"
#include "launch/progress_line.h"
#include "launch/run_state.h"
#include "launch/verbs/bench.h"
#include "model/hf_folder.h"
#include "runtime/io/atomic_file.h"

namespace rankwise::testing {
namespace {

using Clock = std::chrono::steady_clock;
using Seconds = std::vector<double>;

constexpr int kRepetitions = 5;

double median_of(Seconds seconds) {
  std::ranges::sort(seconds);
  return seconds[seconds.size() / 2];
}

template <class Work>
double seconds_of(const Work& work) {
  const auto begin = Clock::now();
  work();
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

class SaveFolder {
 public:
  explicit SaveFolder(const std::string& parent) : path_(parent + "/saves") {
    std::error_code error;
    if (std::filesystem::create_directory(path_, error)) return;
    throw ConfigError(
        fmt::format("--folder: cannot make {}: {}", path_, error ? error.message() : "it exists"));
  }
  ~SaveFolder() { std::filesystem::remove_all(path_); }
  SaveFolder(const SaveFolder&) = delete;
  SaveFolder& operator=(const SaveFolder&) = delete;
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

class SavedTraining {
 public:
  SavedTraining(const BenchmarkShape& shape, const std::string& folder)
      : folder_(folder),
        config_(benchmark_config(shape)),
        files_{"", shape.model,
               shape.device.is_cuda() ? make_device_random_weights(shape.model, 1)
                                      : make_random_weights(shape.model, 1)},
        adaptation_(config_, files_.config),
        mesh_(*shape.world, 1, shape.device),
        arena_(shape.device),
        stream_(shape.device),
        batches_{benchmark_batch(shape, 0)},
        trainer_(config_, files_, adaptation_, mesh_, arena_, stream_, kTotalSteps),
        writer_({.folder = folder_.path(), .keep = 1}, *shape.world),
        state_{.tensors = place_tensors(run_tensors(trainer_), mesh_)} {}

  double step() {
    return seconds_of([&] { trainer_.train_step(steps_++, batches_); });
  }
  double begin_save() {
    ++state_.step;
    return seconds_of([&] { writer_.begin(state_, stream_); });
  }
  std::optional<CommitReport> commit(bool wait) { return writer_.try_commit(wait); }
  // As many bytes, without a format, a digest or a second look.
  double plain_write() {
    int64_t bytes = 0;
    for (const CheckpointTensor& tensor : state_.tensors) bytes += tensor.value.bytes();
    const std::vector<std::byte> content(static_cast<size_t>(bytes), std::byte{0x5a});
    return seconds_of([&] {
      AtomicFile file(folder_.path() + "/plain");
      file.write(content);
      file.commit();
    });
  }

 private:
  static constexpr int64_t kTotalSteps = 1'000'000;
  SaveFolder folder_;
  TrainConfig config_;
  ModelFiles files_;
  Adaptation adaptation_;
  DeviceMesh mesh_;
  Arena arena_;
  Stream stream_;
  std::vector<MicroBatch> batches_;
  Trainer trainer_;
  CheckpointWriter writer_;
  CheckpointState state_;
  int64_t steps_ = 0;
};

// `ceiling`: in GB/s; 0: none.
Json row_of(const std::string& name, int64_t bytes, const Seconds& seconds, double ceiling) {
  const double gigabytes = static_cast<double>(bytes) * 1e-9;
  BenchmarkRow row;
  row.name = name;
  row.unit = "GB/s";
  row.median = gigabytes / median_of(seconds);
  row.best = gigabytes / *std::ranges::min_element(seconds);
  row.ceiling = ceiling;
  row.microseconds = median_of(seconds) * 1e6;
  Json json = to_json(row);
  json["bytes"] = bytes;
  json["line"] = table_line(name, row, 64);
  return json;
}

Json measure_saves(const BenchmarkShape& shape, const std::string& folder) {
  SavedTraining run(shape, folder);
  run.step();  // tunes
  run.begin_save();
  const int64_t bytes = run.commit(/*wait=*/true)->bytes;  // takes the memory of the copy
  Seconds steps, steps_meanwhile, durable, plain, copied, waits, durable_meanwhile;
  for (int i = 0; i < kRepetitions; ++i) steps.push_back(run.step());
  for (int i = 0; i < kRepetitions; ++i) {
    run.begin_save();
    durable.push_back(run.commit(/*wait=*/true)->durable_seconds);
    plain.push_back(run.plain_write());
    // As a run does it, which asks after each step.
    copied.push_back(run.begin_save());
    std::optional<CommitReport> report;
    while (!report) {
      steps_meanwhile.push_back(run.step());
      report = run.commit(/*wait=*/false);
    }
    waits.push_back(report->blocked_seconds);
    durable_meanwhile.push_back(report->durable_seconds);
  }
  const int64_t every = CheckpointSection{}.every;
  const double share = median_of(waits) / (static_cast<double>(every) * median_of(steps));
  const double ceiling = static_cast<double>(bytes) * 1e-9 / median_of(plain);
  Json rows = Json::array();
  rows.push_back(row_of(fmt::format("save of {}: request to commit", format_bytes(bytes)), bytes,
                        durable, ceiling));
  rows.push_back(row_of("plain write and fsync", bytes, plain, 0.0));
  rows.push_back(row_of(fmt::format("training waits, {:.4f} % of {} steps of {:.0f} ms",
                                    100.0 * share, every, 1e3 * median_of(steps)),
                        bytes, waits, 0.0));
  rows.back()["share_of_training"] = share;
  rows.push_back(row_of("of that, to the end of the copy", bytes, copied, 0.0));
  rows.push_back(row_of(
      fmt::format("begin to commit during steps of {:.0f} ms", 1e3 * median_of(steps_meanwhile)),
      bytes, durable_meanwhile, 0.0));
  return rows;
}

}  // namespace

void print_save_table(std::vector<std::string> arguments, std::ostream& out) {
  CLI::App app{"The times of saving a training.", "save_table"};
  BenchOptions options;
  std::string folder;
  options.add_to(app);
  app.add_option("--folder", folder, "where the checkpoints go")->required();
  std::ranges::reverse(arguments);  // as CLI11 takes a vector
  app.parse(arguments);
  const auto alone = make_single_communicator();
  options.resolve(*alone, /*local_rank=*/0);
  Json rows = measure_saves(options.shape, folder);
  std::string table;
  for (Json& row : rows) {
    table += row["line"].get<std::string>() + "\n";
    row.erase("line");
  }
  const BenchmarkCeiling ceiling = measure_ceiling(options.shape);
  const std::string report = options.report(ceiling, std::move(rows));
  out << (options.json ? report : options.table_header(ceiling, 64) + "\n" + table);
}

}  // namespace rankwise::testing
