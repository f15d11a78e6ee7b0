// SPDX-License-Identifier: Apache-2.0
#include "launch/verbs/bench.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <ostream>

#include "launch/benchmarks.h"
#include "runtime/errors.h"
#include "runtime/io/json.h"

namespace rankwise {
namespace {

using Benchmark = std::vector<BenchmarkRow> (*)(const BenchmarkShape&);

constexpr std::pair<const char*, Benchmark> kBenchmarks[] = {{"matmul", benchmark_matmul},
                                                             {"nf4", benchmark_nf4},
                                                             {"attention", benchmark_attention},
                                                             {"step", benchmark_step}};

Json small_llama() {
  return {{"model_type", "llama"},    {"vocab_size", 1024},     {"hidden_size", 256},
          {"intermediate_size", 688}, {"num_hidden_layers", 4}, {"num_attention_heads", 4},
          {"num_key_value_heads", 4}, {"hidden_act", "silu"},   {"max_position_embeddings", 4096},
          {"rms_norm_eps", 1e-5},     {"rope_theta", 10000.0},  {"tie_word_embeddings", false}};
}

class BenchVerb : public Verb {
 public:
  std::string name() const override { return "bench"; }
  std::string help() const override {
    return "measured rates of matmul, nf4, attention and a training step beside this machine's "
           "ceiling";
  }
  void add_options(CLI::App& app) override {
    std::vector<std::string> names;
    for (const auto& [name, run] : kBenchmarks) names.emplace_back(name);
    app.add_option("what", what_, "matmul, nf4, attention, step; all when none is given")
        ->check(CLI::IsMember(names));
    app.add_option("--model", model_,
                   "folder with a config.json (random weights); default: hidden 256, 4 layers");
    app.add_option("--tokens", tokens_, "tokens of one sequence")->check(CLI::PositiveNumber);
    app.add_option("--rank", rank_, "LoRA rank")->check(CLI::PositiveNumber);
    app.add_option("--quant", quant_, "base weights of the step")
        ->check(CLI::IsMember({"none", "nf4"}));
    app.add_option("--seconds", seconds_, "time spent on each row")->check(CLI::PositiveNumber);
    app.add_flag("--json", json_, "print JSON instead of a table");
  }

  int run(VerbContext& context) override {
    BenchmarkShape shape;
    shape.model =
        model_.empty() ? parse_model_config(small_llama(), "bench") : load_model_config(model_);
    shape.tokens = tokens_;
    shape.lora_rank = rank_;
    shape.quantize_nf4 = quant_ == "nf4";
    shape.seconds = seconds_;
    std::vector<BenchmarkRow> rows;
    for (const auto& [name, benchmark] : kBenchmarks) {
      if (!what_.empty() && std::ranges::find(what_, name) == what_.end()) continue;
      for (BenchmarkRow& row : benchmark(shape)) rows.push_back(std::move(row));
    }
    json_ ? print_json(rows, context.out) : print_table(rows, context.out);
    return static_cast<int>(ExitCode::kDone);
  }

 private:
  static void print_table(const std::vector<BenchmarkRow>& rows, std::ostream& out) {
    out << fmt::format("{:<52}{:>12}{:>10}{:>10}{:>10}{:>8}\n", "operation", "us (median)",
                       "median", "best", "ceiling", "share");
    for (const BenchmarkRow& row : rows) {
      out << fmt::format("{:<52}{:>12.1f}{:>10.1f}{:>10.1f}{:>10.1f}{:>7.0f}% {}\n", row.name,
                         row.microseconds, row.median, row.best, row.ceiling,
                         100.0 * row.median / row.ceiling, row.unit);
    }
  }
  static void print_json(const std::vector<BenchmarkRow>& rows, std::ostream& out) {
    Json list = Json::array();
    for (const BenchmarkRow& row : rows) {
      list.push_back({{"name", row.name},
                      {"unit", row.unit},
                      {"median", row.median},
                      {"best", row.best},
                      {"ceiling", row.ceiling},
                      {"microseconds", row.microseconds}});
    }
    out << list.dump(2) << "\n";
  }

  std::vector<std::string> what_;
  std::string model_;
  int64_t tokens_ = 512;
  int64_t rank_ = 8;
  std::string quant_ = "nf4";
  double seconds_ = 1.0;
  bool json_ = false;
};

}  // namespace

std::unique_ptr<Verb> make_bench_verb() { return std::make_unique<BenchVerb>(); }

}  // namespace rankwise
