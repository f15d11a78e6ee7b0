// SPDX-License-Identifier: Apache-2.0
#include "launch/verbs/bench.h"

#include <algorithm>
#include <filesystem>
#include <ostream>

#include "launch/device_choice.h"
#include "launch/memory_plan.h"
#include "launch/verbs/choice_options.h"
#include "launch/version.h"
#include "runtime/io/atomic_file.h"

namespace rankwise {
namespace {

using Benchmark = std::vector<BenchmarkRow> (*)(const BenchmarkShape&, const BenchmarkCeiling&);

constexpr std::pair<const char*, Benchmark> kBenchmarks[] = {{"matmul", benchmark_matmul},
                                                             {"nf4", benchmark_nf4},
                                                             {"attention", benchmark_attention},
                                                             {"step", benchmark_step},
                                                             {"allreduce", benchmark_allreduce}};

Json small_llama() {
  return {{"model_type", "llama"},    {"vocab_size", 1024},     {"hidden_size", 256},
          {"intermediate_size", 688}, {"num_hidden_layers", 4}, {"num_attention_heads", 4},
          {"num_key_value_heads", 4}, {"hidden_act", "silu"},   {"max_position_embeddings", 4096},
          {"rms_norm_eps", 1e-5},     {"rope_theta", 10000.0},  {"tie_word_embeddings", false}};
}

// A folder, a quantised store, or the config.json alone.
ModelConfig read_model_config(const std::string& path) {
  if (path.empty()) return parse_model_config(small_llama(), "bench");
  if (!std::filesystem::exists(path)) {
    throw ConfigError(fmt::format("--model: '{}' does not exist", path));
  }
  if (path.ends_with(".json")) {
    return parse_model_config(read_json_file(path), path);
  }
  return load_model_config(path);
}

template <class T>
Json or_null(const std::optional<T>& value) {
  return value ? Json(*value) : Json();
}

class BenchVerb : public Verb {
 public:
  std::string name() const override { return "bench"; }
  std::string help() const override {
    return "measured rates of matmul, nf4, attention, a training step and all-reduce beside this "
           "machine's ceiling";
  }
  void add_options(CLI::App& app) override {
    std::vector<std::string> names;
    for (const auto& [name, run] : kBenchmarks) names.emplace_back(name);
    app.add_option("what", what_,
                   "matmul, nf4, attention, step, allreduce (and all-gather, over several ranks); "
                   "all when none is given")
        ->check(CLI::IsMember(names));
    options_.add_to(app);
  }

  int run(VerbContext& context) override {
    options_.resolve(context.world, context.local_rank);
    const BenchmarkCeiling ceiling = measure_ceiling(options_.shape);
    std::vector<BenchmarkRow> rows;
    for (const auto& [name, benchmark] : kBenchmarks) {
      const bool wanted = what_.empty()
                              ? benchmark != benchmark_allreduce || context.world.size() > 1
                              : std::ranges::find(what_, name) != what_.end();
      if (!wanted) continue;
      for (BenchmarkRow& row : benchmark(options_.shape, ceiling)) rows.push_back(std::move(row));
    }
    Json list = Json::array();
    for (const BenchmarkRow& row : rows) list.push_back(to_json(row));
    const std::string report = options_.report(ceiling, std::move(list));
    if (options_.json) {
      context.out << report;
    } else {
      print_table(ceiling, rows, context.out);
    }
    return static_cast<int>(ExitCode::kDone);
  }

 private:
  void print_table(const BenchmarkCeiling& ceiling, const std::vector<BenchmarkRow>& rows,
                   std::ostream& out) const {
    size_t width = 52;
    for (const BenchmarkRow& row : rows) width = std::max(width, row.name.size() + 4);
    out << options_.table_header(ceiling, width) << "\n";
    for (const BenchmarkRow& row : rows) out << table_line(row.name, row, width) << "\n";
  }

  std::vector<std::string> what_;
  BenchOptions options_;
};

}  // namespace

void BenchOptions::add_to(CLI::App& app) {
  app.add_option("--model", model,
                 "config.json or its folder (random weights); default: hidden 256, 4 layers");
  app.add_option("--tokens", shape.tokens, "tokens of one document")->check(CLI::PositiveNumber);
  app.add_option("--batch", shape.batch, "documents of the micro-batch")
      ->check(CLI::PositiveNumber);
  add_choice<AdaptMethod>(app, "--method", shape.method,
                          {{"lora", AdaptMethod::kLora},
                           {"dora", AdaptMethod::kDora},
                           {"adalora", AdaptMethod::kAdaLora},
                           {"galore", AdaptMethod::kGaLore},
                           {"full", AdaptMethod::kFull}},
                          "what the step trains; galore and full need --quant none");
  add_choice<OptimizerName>(app, "--optimizer", shape.optimizer,
                            {{"adamw", OptimizerName::kAdamW},
                             {"adamw8bit", OptimizerName::kAdamW8bit},
                             {"sgd", OptimizerName::kSgd}},
                            "of the step");
  app.add_option("--rank", shape.lora_rank, "of the adapters, or of projected gradients")
      ->check(CLI::PositiveNumber);
  add_quant_option(app, shape.quantize_nf4, "base weights of the step");
  app.add_option("--tensor", shape.tensor, "of the ranks of a step, those that share the model")
      ->check(CLI::PositiveNumber);
  app.add_flag("--shard-base", shape.shard_base, "the step's NF4 base is split over data ranks");
  add_choice<Recompute>(app, "--recompute", shape.recompute,
                        {{"none", Recompute::kNone},
                         {"selective", Recompute::kSelective},
                         {"full", Recompute::kFull}},
                        "what the step computes again to save memory");
  add_device_options(app, device, compute);
  app.add_option("--seconds", shape.seconds, "time spent on each row")->check(CLI::PositiveNumber);
  app.add_flag("--json", json, "print JSON instead of a table");
  app.add_option("--output", output, "file that the JSON goes to as well");
}

void BenchOptions::resolve(Communicator& world, int local_rank) {
  shape.model = read_model_config(model);
  shape.device = choose_device(device, world, local_rank);
  shape.compute = choose_compute(compute, shape.device);
  shape.world = &world;
}

std::string BenchOptions::report(const BenchmarkCeiling& ceiling, Json rows) const {
  const Json report = {{"program", program_version()},
                       {"machine", ceiling.machine},
                       {"device", to_string(shape.device)},
                       {"ranks", shape.world->size()},
                       {"tensor", shape.tensor},
                       {"shard_base", shape.shard_base},
                       {"compute", shape.compute == DType::kBF16 ? "bf16" : "fp32"},
                       {"model", model.empty() ? "default" : model},
                       {"layers", shape.model.num_hidden_layers},
                       {"tokens", shape.tokens},
                       {"batch", shape.batch},
                       {"lora_rank", shape.lora_rank},
                       {"quant", shape.quantize_nf4 ? "nf4" : "none"},
                       {"recompute", name_of(shape.recompute)},
                       {"ceiling_flops_per_s", ceiling.flops_per_s},
                       {"ceiling_bytes_per_s", ceiling.bytes_per_s},
                       {"rows", std::move(rows)}};
  const std::string text = report.dump(2) + "\n";
  if (!output.empty() && shape.world->rank() == 0) write_file_atomically(output, text);
  return text;
}

std::string BenchOptions::table_header(const BenchmarkCeiling& ceiling, size_t width) const {
  return fmt::format("{}, {}: {:.1f} TFLOP/s, copy {:.3f} TB/s\n", describe_device(shape.device),
                     ceiling.machine, ceiling.flops_per_s * 1e-12, ceiling.bytes_per_s * 1e-12) +
         fmt::format("{:<{}}{:>12}{:>10}{:>10}{:>10}{:>8} {:<8}", "operation", width, "us (median)",
                     "median", "best", "ceiling", "share", "");
}

std::string table_line(const std::string& name, const BenchmarkRow& row, size_t width) {
  const std::string ceiling_and_share =
      row.ceiling > 0.0
          ? fmt::format("{:>10.2f}{:>7.0f}%", row.ceiling, 100.0 * row.median / row.ceiling)
          : fmt::format("{:>10}{:>8}", "-", "");
  return fmt::format("{:<{}}{:>12.1f}{:>10.2f}{:>10.2f}{} {:<8}", name, width, row.microseconds,
                     row.median, row.best, ceiling_and_share, row.unit);
}

Json to_json(const BenchmarkRow& row) {
  return {{"name", row.name},
          {"unit", row.unit},
          {"median", row.median},
          {"best", row.best},
          {"ceiling", row.ceiling > 0.0 ? Json(row.ceiling) : Json()},
          {"microseconds", row.microseconds},
          {"tokens_per_s", or_null(row.tokens_per_s)},
          {"refresh_seconds", or_null(row.refresh_seconds)},
          {"first_refresh_seconds", or_null(row.first_refresh_seconds)},
          {"peak_bytes", or_null(row.peak_bytes)},
          {"wire_bytes", or_null(row.wire_bytes)}};
}

std::unique_ptr<Verb> make_bench_verb() { return std::make_unique<BenchVerb>(); }

}  // namespace rankwise
