// SPDX-License-Identifier: Apache-2.0
#include "launch/verbs/bench.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <filesystem>
#include <map>
#include <ostream>

#include "launch/benchmarks.h"
#include "launch/device_choice.h"
#include "launch/version.h"
#include "runtime/errors.h"
#include "runtime/io/atomic_file.h"
#include "runtime/io/json.h"

namespace rankwise {
namespace {

using Benchmark = std::vector<BenchmarkRow> (*)(const BenchmarkShape&, const BenchmarkCeiling&);

constexpr std::pair<const char*, Benchmark> kBenchmarks[] = {
    {"matmul", benchmark_matmul},       {"nf4", benchmark_nf4},
    {"attention", benchmark_attention}, {"step", benchmark_step},
    {"kernels", benchmark_kernels},     {"allreduce", benchmark_allreduce}};

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
                   "matmul, nf4, attention, step, kernels (of a step, one by one), allreduce (and "
                   "all-gather, over several ranks); all when none is given")
        ->check(CLI::IsMember(names));
    app.add_option("--model", model_,
                   "config.json or its folder (random weights); default: hidden 256, 4 layers");
    app.add_option("--tokens", tokens_, "tokens of one document")->check(CLI::PositiveNumber);
    app.add_option("--batch", batch_, "documents of the micro-batch")->check(CLI::PositiveNumber);
    app.add_option("--rank", rank_, "LoRA rank")->check(CLI::PositiveNumber);
    app.add_option("--quant", quant_, "base weights of the step")
        ->check(CLI::IsMember({"none", "nf4"}));
    app.add_option("--tensor", tensor_, "of the ranks of a step, those that share the model")
        ->check(CLI::PositiveNumber);
    app.add_flag("--shard-base", shard_base_, "the step's NF4 base is split over data ranks");
    app.add_option("--recompute", recompute_, "what the step computes again to save memory")
        ->check(CLI::IsMember({"none", "selective", "full"}));
    app.add_option("--device", device_, "where to compute")
        ->check(CLI::IsMember({"auto", "cpu", "cuda"}));
    app.add_option("--compute", compute_, "number type; auto is fp32 on the CPU and bf16 on CUDA")
        ->check(CLI::IsMember({"auto", "fp32", "bf16"}));
    app.add_option("--seconds", seconds_, "time spent on each row")->check(CLI::PositiveNumber);
    app.add_flag("--json", json_, "print JSON instead of a table");
    app.add_option("--output", output_, "file that the JSON goes to as well");
  }

  int run(VerbContext& context) override {
    const BenchmarkShape shape = make_shape(context);
    const BenchmarkCeiling ceiling = measure_ceiling(shape);
    std::vector<BenchmarkRow> rows;
    for (const auto& [name, benchmark] : kBenchmarks) {
      const bool wanted = what_.empty()
                              ? benchmark != benchmark_allreduce || shape.world->size() > 1
                              : std::ranges::find(what_, name) != what_.end();
      if (!wanted) continue;
      for (BenchmarkRow& row : benchmark(shape, ceiling)) rows.push_back(std::move(row));
    }
    const std::string report = describe(shape, ceiling, rows).dump(2) + "\n";
    if (!output_.empty() && context.world.rank() == 0) write_file_atomically(output_, report);
    if (json_) {
      context.out << report;
    } else {
      print_table(shape, ceiling, rows, context.out);
    }
    return static_cast<int>(ExitCode::kDone);
  }

 private:
  BenchmarkShape make_shape(const VerbContext& context) const {
    static const std::map<std::string, DeviceChoice> kDevices = {
        {"auto", DeviceChoice::kAuto}, {"cpu", DeviceChoice::kCpu}, {"cuda", DeviceChoice::kCuda}};
    static const std::map<std::string, ComputeType> kTypes = {
        {"auto", ComputeType::kAuto}, {"fp32", ComputeType::kFp32}, {"bf16", ComputeType::kBf16}};
    static const std::map<std::string, Recompute> kRecompute = {
        {"none", Recompute::kNone},
        {"selective", Recompute::kSelective},
        {"full", Recompute::kFull}};
    BenchmarkShape shape;
    shape.model = read_model_config(model_);
    shape.device = choose_device(kDevices.at(device_), context.world, context.local_rank);
    shape.compute = choose_compute(kTypes.at(compute_), shape.device);
    shape.tokens = tokens_;
    shape.batch = batch_;
    shape.lora_rank = rank_;
    shape.quantize_nf4 = quant_ == "nf4";
    shape.recompute = kRecompute.at(recompute_);
    shape.seconds = seconds_;
    shape.world = &context.world;
    shape.tensor = tensor_;
    shape.shard_base = shard_base_;
    return shape;
  }

  static void print_table(const BenchmarkShape& shape, const BenchmarkCeiling& ceiling,
                          const std::vector<BenchmarkRow>& rows, std::ostream& out) {
    size_t width = 52;
    for (const BenchmarkRow& row : rows) width = std::max(width, row.name.size() + 4);
    const bool whole_step = std::ranges::any_of(
        rows, [](const BenchmarkRow& row) { return row.calls_per_step.has_value(); });
    out << fmt::format("{}, {}: {:.1f} TFLOP/s, copy {:.3f} TB/s\n", describe_device(shape.device),
                       ceiling.machine, ceiling.flops_per_s * 1e-12, ceiling.bytes_per_s * 1e-12);
    out << fmt::format("{:<{}}{:>12}{:>10}{:>10}{:>10}{:>8} {:<8}{}\n", "operation", width,
                       "us (median)", "median", "best", "ceiling", "share", "",
                       whole_step ? "   calls  of step" : "");
    for (const BenchmarkRow& row : rows) {
      const std::string ceiling_and_share =
          row.ceiling > 0.0
              ? fmt::format("{:>10.2f}{:>7.0f}%", row.ceiling, 100.0 * row.median / row.ceiling)
              : fmt::format("{:>10}{:>8}", "-", "");
      out << fmt::format("{:<{}}{:>12.1f}{:>10.2f}{:>10.2f}{} {:<8}",
                         (row.part ? "  - " : "") + row.name, width, row.microseconds, row.median,
                         row.best, ceiling_and_share, row.unit);
      if (row.calls_per_step) {
        out << fmt::format("{:>8.4g}{:>8.1f}%{}", *row.calls_per_step, 100.0 * *row.step_share,
                           row.part ? " (in it)" : "");
      }
      out << "\n";
    }
  }

  Json describe(const BenchmarkShape& shape, const BenchmarkCeiling& ceiling,
                const std::vector<BenchmarkRow>& rows) const {
    Json list = Json::array();
    for (const BenchmarkRow& row : rows) {
      list.push_back({{"name", row.name},
                      {"unit", row.unit},
                      {"median", row.median},
                      {"best", row.best},
                      {"ceiling", row.ceiling > 0.0 ? Json(row.ceiling) : Json()},
                      {"microseconds", row.microseconds},
                      {"calls_per_step", or_null(row.calls_per_step)},
                      {"step_share", or_null(row.step_share)},
                      {"part", row.part},
                      {"tokens_per_s", or_null(row.tokens_per_s)},
                      {"peak_bytes", or_null(row.peak_bytes)},
                      {"wire_bytes", or_null(row.wire_bytes)}});
    }
    return {{"program", program_version()},
            {"machine", ceiling.machine},
            {"device", to_string(shape.device)},
            {"ranks", shape.world->size()},
            {"tensor", shape.tensor},
            {"shard_base", shape.shard_base},
            {"compute", shape.compute == DType::kBF16 ? "bf16" : "fp32"},
            {"model", model_.empty() ? "default" : model_},
            {"layers", shape.model.num_hidden_layers},
            {"tokens", shape.tokens},
            {"batch", shape.batch},
            {"lora_rank", shape.lora_rank},
            {"quant", quant_},
            {"recompute", recompute_},
            {"ceiling_flops_per_s", ceiling.flops_per_s},
            {"ceiling_bytes_per_s", ceiling.bytes_per_s},
            {"rows", std::move(list)}};
  }

  std::vector<std::string> what_;
  std::string model_;
  int64_t tokens_ = 512;
  int64_t batch_ = 1;
  int64_t rank_ = 8;
  std::string quant_ = "nf4";
  std::string recompute_ = "none";
  std::string device_ = "auto";
  std::string compute_ = "auto";
  double seconds_ = 1.0;
  int64_t tensor_ = 1;
  bool shard_base_ = false;
  bool json_ = false;
  std::string output_;
};

}  // namespace

std::unique_ptr<Verb> make_bench_verb() { return std::make_unique<BenchVerb>(); }

}  // namespace rankwise
