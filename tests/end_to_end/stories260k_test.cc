// SPDX-License-Identifier: Apache-2.0
// The main job on real material, by the program itself: a pretrained Llama, real data, golden
// losses.
#include <gtest/gtest.h>

#include <cmath>

#include "tests/end_to_end/golden_run.h"
#include "tests/support/program.h"

namespace rankwise::testing {
namespace {

TEST(Stories260k, GoldenLoraRunHasTheReferenceLossesOnTwoRanks) {
  RW_REQUIRE_SHARED();
  const ScratchFolder folder;
  const ProgramResult result = run_rankwise({"train", golden_run(folder)}, 2);
  ASSERT_EQ(result.exit_code, 0) << result.errors;
  const std::vector<double> losses = read_metric(folder.file("run/metrics.jsonl"), "loss");
  const std::vector<double> golden = golden_losses();
  ASSERT_EQ(losses.size(), golden.size());
  for (size_t step = 0; step < golden.size(); ++step) {
    EXPECT_NEAR(losses[step], golden[step], 1e-3 * golden[step]) << "step " << step;
  }
  const std::vector<double> eval = read_metric(folder.file("run/metrics.jsonl"), "eval_loss");
  ASSERT_EQ(eval.size(), 1u);
  EXPECT_NEAR(eval[0], 2.3255, 0.005);
}

// The evaluation loss that `evaluate` prints.
double printed_loss(const std::vector<std::string>& arguments) {
  const ProgramResult result = run_rankwise(arguments);
  EXPECT_EQ(result.exit_code, 0) << result.errors;
  const size_t place = result.output.find("\nloss ");
  if (place == std::string::npos) return std::nan("");
  return std::stod(result.output.substr(place + 6));
}

TEST(Stories260k, GoldenAdaLoraRunHasTheReferenceLossesAndRanksOnTwoRanks) {
  RW_REQUIRE_SHARED();
  const ScratchFolder folder;
  const std::string run = golden_run(folder);
  const ProgramResult result = run_rankwise(
      {"train", run,
       fmt::format("adapt.0={{method: adalora, from: {}/golden/stories260k/adalora_init, adalora: "
                   "{{target_rank: 4, warmup: 10, final: 15, interval: 5}}}}",
                   shared_folder())},
      2);
  ASSERT_EQ(result.exit_code, 0) << result.errors;
  const Json golden =
      read_json_file(shared_folder() + "/golden/stories260k/expected.json").at("adalora");
  const std::string metrics = folder.file("run/metrics.jsonl");
  const std::vector<double> losses = read_metric(metrics, "loss");
  const std::vector<double> orthogonality = read_metric(metrics, "orth_loss");
  ASSERT_EQ(losses.size(), 60u);
  ASSERT_EQ(orthogonality.size(), 60u);
  for (size_t step = 0; step < losses.size(); ++step) {
    const double expected = golden["losses"][step].get<double>();
    EXPECT_NEAR(losses[step] + orthogonality[step], expected, 2e-4 * expected) << "step " << step;
  }
  EXPECT_EQ(read_metric(metrics, "adalora_active"),
            golden["active_ranks"].get<std::vector<double>>());
  EXPECT_EQ(read_metric(metrics, "adalora_budget").back(), 140.0);
  // PEFT adds the regulariser to the loss of an evaluation, too.
  const double eval = read_metric(metrics, "eval_loss").back();
  EXPECT_NEAR(eval + orthogonality.back(), golden["final_eval_loss"].get<double>(), 0.01);

  // The pruned folder is the same adapter.
  const std::string adapter = folder.file("run/adapter");
  EXPECT_NEAR(printed_loss({"evaluate", run, "--adapter", adapter}), eval, 1e-5);
  const SafetensorsFile file(adapter + "/adapter_model.safetensors");
  int64_t triplets = 0;
  for (const SafetensorsEntry& entry : file.entries()) {
    if (entry.name.ends_with("lora_E")) triplets += entry.shape.dim(0);
  }
  EXPECT_EQ(triplets, 140);
}

TEST(Stories260k, DoraTrainsExportsAndMergesThroughTheProgram) {
  RW_REQUIRE_SHARED();
  const ScratchFolder folder;
  const std::string run = golden_run(folder);
  const ProgramResult result = run_rankwise(
      {"train", run, "adapt.0={method: dora, rank: 8, alpha: 16}", "train.steps=20"}, 2);
  ASSERT_EQ(result.exit_code, 0) << result.errors;
  const double eval = read_metric(folder.file("run/metrics.jsonl"), "eval_loss").back();
  EXPECT_LT(eval, 3.0);  // 4.30 before
  const std::string model = shared_folder() + "/models/stories260k";
  const std::string exported = folder.file("exported");
  const std::string merged = folder.file("merged");
  EXPECT_EQ(run_rankwise({"export", folder.file("run"), "-o", exported}).exit_code, 0);
  EXPECT_NEAR(printed_loss({"evaluate", run, "--adapter", exported}), eval, 1e-5);
  const ProgramResult merge = run_rankwise({"merge", model, "--adapter", exported, "-o", merged});
  ASSERT_EQ(merge.exit_code, 0) << merge.errors;
  EXPECT_NEAR(printed_loss({"evaluate", run, "model.path=" + merged}), eval, 1e-4);
}

TEST(Stories260k, EvaluateWritesTheReferenceLogits) {
  RW_REQUIRE_SHARED();
  for (const char* name : {"llama", "llama3_rope", "mistral"}) {
    SCOPED_TRACE(name);
    const std::string tiny = shared_folder() + "/golden/tiny/" + name;
    const SafetensorsFile expected(tiny + "/expected.safetensors");
    const ScratchFolder folder;
    Arena arena;
    folder.write("rows.jsonl", token_rows(expected, "input_ids", "labels"));
    const std::string yaml = folder.write("run.yaml", fmt::format(R"(
model: {{path: {0}, quant: none}}
data:
  train: [{{path: {1}/rows.jsonl, format: tokens}}]
  eval: [{{path: {1}/rows.jsonl, format: tokens}}]
  packing: false
train: {{steps: 1, global_batch: 2, micro_batch: 2}}
)",
                                                                  tiny, folder.path()));
    const ProgramResult result = run_rankwise(
        {"evaluate", yaml, "device=cpu", "--logits", folder.file("logits.safetensors")});
    ASSERT_EQ(result.exit_code, 0) << result.errors;
    const Tensor golden = load_f32(expected, "logits", arena);
    const SafetensorsFile written(folder.file("logits.safetensors"));
    for (int64_t row = 0; row < golden.dim(0); ++row) {
      const Tensor logits = load_f32(written, fmt::format("logits.{:06}", row), arena);
      EXPECT_LT(max_abs_difference(logits, golden.rows(row, row + 1)), 2e-4) << "row " << row;
    }
    const double loss = read_json_file(tiny + "/expected.json").at("loss").get<double>();
    EXPECT_NE(result.output.find(fmt::format("{:.4f}", loss)), std::string::npos) << result.output;
  }
}

TEST(Stories260k, QloraOnTwoRanksLearnsToDescribeRestaurants) {
  RW_REQUIRE_SHARED();
  const ScratchFolder folder;
  const std::string model = shared_folder() + "/models/stories260k";
  const std::string data = shared_folder() + "/data/e2e";
  const ProgramResult result = run_rankwise(
      {"train", "configs/stories260k_e2e.yaml", "model.path=" + model,
       "data.train.0.path=" + data + "/train.jsonl", "data.eval.0.path=" + data + "/eval.jsonl",
       "checkpoint.dir=" + folder.file("run")},
      2);
  ASSERT_EQ(result.exit_code, 0) << result.errors;
  EXPECT_NE(result.output.find("eval loss before training: 4.57"), std::string::npos)
      << result.output;
  const std::vector<double> eval = read_metric(folder.file("run/metrics.jsonl"), "eval_loss");
  ASSERT_EQ(eval.size(), 3u);
  EXPECT_LT(eval.back(), 2.0);

  const ProgramResult text =
      run_rankwise({"generate", model, "--device", "cpu", "--quant", "nf4", "--adapter",
                    folder.file("run/adapter"), "--prompt",
                    "name : The Vaults | eat type : pub | food : Italian | area : riverside\n",
                    "--max-new-tokens", "60"});
  ASSERT_EQ(text.exit_code, 0) << text.errors;
  // Whichever restaurant it names, it has left the children's stories behind.
  EXPECT_NE(text.output.find("food"), std::string::npos) << text.output;
  EXPECT_NE(text.output.find("riverside"), std::string::npos) << text.output;
}

}  // namespace
}  // namespace rankwise::testing
