// SPDX-License-Identifier: Apache-2.0
// `rankwise bench`: its rows and their arithmetic, on shapes too small to measure anything.
#include <gtest/gtest.h>

#include <cmath>
#include <numeric>

#include "kernels/quantize.h"
#include "launch/benchmarks_workbench.h"
#include "launch/device_random_weights.h"
#include "runtime/io/json.h"
#include "tests/model/tiny_config.h"
#include "tests/support/kernel_harness.h"
#include "tests/support/program.h"
#include "tests/support/scratch_folder.h"

namespace rankwise {
namespace {

using testing::ProgramResult;
using testing::run_rankwise;

// Two layers, hidden 16, 4 heads of 6 and 2 groups, ffn 24, vocabulary 29.
Json bench(std::vector<std::string> what, const std::vector<std::string>& options = {}) {
  const testing::ScratchFolder folder;
  const std::string config = folder.write("config.json", testing::tiny_config_json().dump());
  what.insert(what.begin(), "bench");
  what.insert(what.end(), {"--device", "cpu", "--model", config, "--tokens", "8", "--batch", "3",
                           "--rank", "2", "--seconds", "0.001", "--json"});
  what.insert(what.end(), options.begin(), options.end());
  const ProgramResult result = run_rankwise(what);
  EXPECT_EQ(result.exit_code, 0) << result.errors;
  return parse_json(result.output, "bench");
}

const Json& row_of(const Json& report, const std::string& name) {
  for (const Json& row : report.at("rows")) {
    if (row.at("name").get<std::string>().starts_with(name)) return row;
  }
  throw std::runtime_error("no row " + name + " in " + report.dump(2));
}

double number(const Json& row, const char* field) { return row.at(field).get<double>(); }

// Work of one call, from rate and time.
double work(const Json& row) { return number(row, "median") * number(row, "microseconds") * 1e3; }

TEST(BenchVerb, EveryRowStandsBesideTheCeilingOfItsUnit) {
  const Json report = bench({});
  EXPECT_EQ(report.at("device"), "cpu");
  EXPECT_EQ(report.at("compute"), "fp32");
  EXPECT_EQ(report.at("batch"), 3);
  EXPECT_GT(report.at("rows").size(), 40u);
  for (const Json& row : report.at("rows")) {
    const bool flops = row.at("unit") == "GFLOP/s";
    EXPECT_TRUE(flops || row.at("unit") == "GB/s") << row.dump();
    const char* field = flops ? "ceiling_flops_per_s" : "ceiling_bytes_per_s";
    EXPECT_NEAR(number(row, "ceiling"), number(report, field) * 1e-9, 1e-6) << row.dump();
    EXPECT_GT(number(row, "median"), 0.0) << row.dump();
    EXPECT_GE(number(row, "best"), number(row, "median")) << row.dump();
  }
}

TEST(BenchVerb, WorkOfTheRowsIsThatOfTheShapes) {
  const Json report = bench({"matmul", "nf4", "attention"});
  const double tokens = 24.0;
  EXPECT_NEAR(work(row_of(report, "k_proj (24x12x16) dx")), 2.0 * tokens * 12 * 16, 1.0);
  EXPECT_NEAR(work(row_of(report, "lm_head (24x29x16) y")), 2.0 * tokens * 29 * 16, 1.0);
  EXPECT_NEAR(work(row_of(report, "nf4 gate+up T 24 + LoRA 2 y")),
              2.0 * (2.0 * tokens * 24 * 16 + 2.0 * tokens * 2 * (24 + 16)), 1.0);
  EXPECT_NEAR(work(row_of(report, "nf4 down T 24 dx")), 2.0 * tokens * 24 * 16, 1.0);
  // Codes, scales of 6 blocks in one group, and the matrix in fp32.
  EXPECT_NEAR(work(row_of(report, "dequantize gate_proj (24x16)")), 192.0 + 6.0 + 4.0 + 1536.0,
              1.0);
  const double pairs = 3.0 * 8.0 * 9.0 / 2.0;
  EXPECT_NEAR(work(row_of(report, "attention (B 3, S 8, H 4, G 2, D 6) forward")),
              4.0 * pairs * 24.0, 1.0);
  EXPECT_NEAR(work(row_of(report, "attention (B 3, S 8, H 4, G 2, D 6) backward")),
              8.0 * pairs * 24.0, 1.0);
}

TEST(BenchVerb, StepTellsTokensAndMemory) {
  const Json report = bench({"step"}, {"--quant", "none", "--recompute", "selective"});
  ASSERT_EQ(report.at("rows").size(), 1u);
  const Json& row = report.at("rows")[0];
  EXPECT_NEAR(number(row, "tokens_per_s") * number(row, "microseconds") * 1e-6, 24.0, 1e-6);
  EXPECT_GT(number(row, "peak_bytes"), 24.0 * 16.0 * 4.0);
  EXPECT_NE(row.at("name").get<std::string>().find("(fp32, LoRA 2, 3x8"), std::string::npos);
  EXPECT_NE(row.at("name").get<std::string>().find("recompute selective"), std::string::npos);
}

TEST(BenchVerb, PrintsATableAndWritesTheFile) {
  const testing::ScratchFolder folder;
  const ProgramResult result =
      run_rankwise({"bench", "step", "--device", "cpu", "--tokens", "16", "--rank", "2",
                    "--seconds", "0.001", "--output", folder.file("bench.json")});
  ASSERT_EQ(result.exit_code, 0) << result.errors;
  EXPECT_EQ(read_json_file(folder.file("bench.json")).at("rows").size(), 1u);
  for (const char* text : {"operation", "step (nf4, LoRA 2, 1x16, recompute none)", "GFLOP/s"}) {
    EXPECT_NE(result.output.find(text), std::string::npos) << text << "\n" << result.output;
  }
}

TEST(BenchVerb, RefusesWhatTheDeviceCannot) {
  const ProgramResult bf16 =
      run_rankwise({"bench", "step", "--device", "cpu", "--compute", "bf16"});
  EXPECT_EQ(bf16.exit_code, 2);
  EXPECT_NE(bf16.errors.find("bf16 needs device: cuda"), std::string::npos) << bf16.errors;
  const ProgramResult missing = run_rankwise({"bench", "--model", "/nonexistent/config.json"});
  EXPECT_EQ(missing.exit_code, 2) << missing.errors;
}

TEST(BenchShapes, AreThoseOfThePublishedModels) {
  const std::pair<const char*, double> shapes[] = {
      {"llama_7b", 6.74e9}, {"llama3_8b", 8.03e9}, {"llama_13b", 13.0e9}, {"llama_65b", 65.3e9}};
  for (const auto& [name, parameters] : shapes) {
    const std::string path = std::string("tests/bench/shapes/") + name + ".json";
    const ModelConfig config = parse_model_config(read_json_file(path), path);
    EXPECT_NEAR(static_cast<double>(parameter_count(config)), parameters, 0.01 * parameters)
        << name;
  }
}

TEST(TimeCalls, MedianAndBestOfSlowCalls) {
  Stream stream;
  int calls = 0;
  const auto alone = make_single_communicator();
  const BenchmarkTiming timing = time_on_all_ranks(*alone, stream, 0.0, [&] {
    volatile double sum = 0.0;
    for (int i = 0; i < 100'000; ++i) sum = sum + std::sqrt(i);
    ++calls;
  });
  EXPECT_GE(calls, 8);  // warm-up and five more
  EXPECT_GT(timing.best_seconds, 1e-6);
  EXPECT_GE(timing.median_seconds, timing.best_seconds);
}

double root_mean_square(const Tensor& x) {
  const auto values = testing::GuardedMemory::elements(x);
  const double squares = std::transform_reduce(values.begin(), values.end(), 0.0, std::plus<>(),
                                               [](double v) { return v * v; });
  return std::sqrt(squares / static_cast<double>(values.size()));
}

TEST(DeviceRandomWeights, AreOfTheSizeOfAFreshModel) {
  const ModelConfig config = testing::tiny_config({{"hidden_size", 256}});
  const auto weights = make_device_random_weights(config, 3);
  Arena arena;
  Stream stream;
  const std::string name = "model.layers.1.mlp.up_proj.weight";
  const Tensor dense = arena.allocate("weights", DType::kF32, weights->shape(name));
  ASSERT_TRUE(weights->generate(name, dense, stream));
  EXPECT_NEAR(root_mean_square(dense), 0.02, 0.001);
  const Tensor norm = arena.allocate("weights", DType::kF32, {256});
  ASSERT_TRUE(weights->generate("model.norm.weight", norm, stream));
  EXPECT_EQ(norm.data<float>()[255], 1.0f);
  for (const bool double_quant : {false, true}) {
    QuantizedTensor coded =
        allocate_nf4(MatrixSlice::all(dense.shape()), double_quant, DType::kF32, arena, "weights");
    ASSERT_TRUE(weights->generate_quantized(name, coded, stream));
    dequantize(dense, coded, stream);
    EXPECT_NEAR(root_mean_square(dense), 0.02, 0.002);
  }
}

}  // namespace
}  // namespace rankwise
