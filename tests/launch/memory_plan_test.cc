// SPDX-License-Identifier: Apache-2.0
#include "launch/memory_plan.h"

#include <gtest/gtest.h>

#include "launch/trainer.h"
#include "tests/launch/tiny_model.h"
#include "tests/support/error_of.h"
#include "tests/support/scratch_folder.h"

namespace rankwise {
namespace {

using testing::ScratchFolder;

constexpr Device kGpu{DeviceKind::kCuda, 0};
// A build without the backend composes CUDA operations of those of the CPU, which have no bf16.
constexpr const char* kComputeOnGpu = kHasCuda ? "model.compute=bf16" : "model.compute=fp32";
constexpr const char* kLlama7b = R"({
  "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 32000,
  "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
  "num_attention_heads": 32, "num_key_value_heads": 32, "hidden_act": "silu",
  "max_position_embeddings": 4096, "rms_norm_eps": 1e-5, "tie_word_embeddings": false})";

Dataset documents_of(const std::vector<size_t>& lengths) {
  Dataset dataset;
  for (const size_t length : lengths) {
    dataset.samples.push_back({std::vector<int32_t>(length, 5), std::vector<int32_t>(length, 5)});
  }
  return dataset;
}

// A random model after a config.json, and the plan of training it alone.
class Planned {
 public:
  explicit Planned(const std::string& model_config, const std::vector<std::string>& overrides) {
    folder_.write("config.json", model_config);
    config_ = parse_train_config(
        fmt::format("model: {{path: \"{}\", init: random}}\ndata: {{train: [{{path: unused}}]}}\n"
                    "train: {{steps: 1, global_batch: 1, micro_batch: 1}}\n",
                    folder_.path()),
        "run.yaml", overrides);
    files_.emplace(open_untrained_model(folder_.path(), 1));
  }

  MemoryPlan plan(const Dataset& dataset, Device device, int64_t available_bytes) const {
    return plan_memory(config_, *files_, mesh_, largest_micro_batch(config_, dataset), 1, device,
                       available_bytes);
  }
  const TrainConfig& config() const { return config_; }
  const ModelFiles& files() const { return *files_; }
  const DeviceMesh& mesh() const { return mesh_; }

 private:
  ScratchFolder folder_;
  TrainConfig config_;
  std::optional<ModelFiles> files_;
  std::unique_ptr<Communicator> alone_ = make_single_communicator();
  DeviceMesh mesh_{*alone_, 1};
};

TEST(MemoryPlan, SevenBillionParametersInFourBitsFitASmallGpu) {
  const Planned run(kLlama7b, {"train.recompute=full", "data.seq_len=2048", kComputeOnGpu});
  const MemoryPlan plan = run.plan(documents_of({2048}), kGpu, 0);
  EXPECT_LT(plan.total_bytes(), int64_t{7} << 30) << plan.table();
  // 6.5e9 elements of half a byte alone.
  EXPECT_GT(plan.total_bytes(), int64_t{3} << 30) << plan.table();
  EXPECT_TRUE(plan.too_large.empty());
}

TEST(MemoryPlan, AutoRecomputesAsLittleAsFits) {
  for (const Device device : {Device{}, kGpu}) {
    const Dataset dataset = documents_of({512});
    const auto planned = [&](const char* choice, int64_t available) {
      return Planned(kLlama7b, {std::string("train.recompute=") + choice, "data.seq_len=512",
                                device.is_cuda() ? kComputeOnGpu : "model.compute=fp32"})
          .plan(dataset, device, available);
    };
    const int64_t none = planned("none", 0).total_bytes();
    const int64_t selective = planned("selective", 0).total_bytes();
    const int64_t full = planned("full", 0).total_bytes();
    EXPECT_GT(none, selective);
    EXPECT_GT(selective, full);
    EXPECT_EQ(planned("auto", 0).recompute, Recompute::kNone);
    EXPECT_EQ(planned("auto", none).recompute, Recompute::kNone);
    EXPECT_EQ(planned("auto", none - 1).recompute, Recompute::kSelective);
    EXPECT_EQ(planned("auto", selective - 1).recompute, Recompute::kFull);
    const MemoryPlan too_little = planned("auto", 1);
    EXPECT_EQ(too_little.recompute, Recompute::kFull);
    EXPECT_EQ(too_little.total_bytes(), full);
    RW_EXPECT_HAS(too_little.table(), "recompute    full; none needs ");
    RW_EXPECT_HAS(too_little.summary(), "recompute full");
    EXPECT_EQ(planned("none", 1).recompute, Recompute::kNone);
  }
}

// Factors and two moments of each; what the arena adds for alignment is less than that.
TEST(MemoryPlan, TheCheckpointIsInTheMemoryOfTheHost) {
  for (const Device device : {Device{}, kGpu}) {
    const Planned run(testing::tiny_config().source.dump(),
                      {"data.seq_len=24", "adapt.0.rank=4",
                       device.is_cuda() ? kComputeOnGpu : "model.compute=fp32"});
    const MemoryPlan plan = run.plan(documents_of({24}), device, 0);
    int64_t others = plan.scratch_bytes;
    int64_t optimizer = 0;
    for (const Arena::Usage& used : plan.usage) {
      others += used.peak_bytes;
      if (used.purpose == "optimizer") optimizer = used.peak_bytes;
    }
    EXPECT_GE(plan.checkpoint_bytes, optimizer);
    EXPECT_LE(plan.checkpoint_bytes, 2 * optimizer);
    EXPECT_EQ(plan.total_bytes(), others + (device.is_cuda() ? 0 : plan.checkpoint_bytes));
    const std::string table = plan.table();
    EXPECT_EQ(table.find("checkpoint (host)") < table.find("total"), !device.is_cuda()) << table;
  }
}

TEST(MemoryPlan, NoStepTakesMoreThanWasPlanned) {
  const Planned run(testing::tiny_config().source.dump(),
                    {"data.seq_len=24", "train.recompute=none", "adapt.0.rank=4"});
  // Rows of one long and of many short documents.
  const Dataset dataset = documents_of({24, 2, 2, 3, 2, 2, 3, 2, 2, 2, 2, 2});
  const MemoryPlan plan = run.plan(dataset, Device{}, 0);
  Arena arena;
  Stream stream;
  const Adaptation adaptation(run.config(), run.files().config);
  Trainer trainer(run.config(), run.files(), adaptation, run.mesh(), arena, stream, 2);
  std::vector<MicroBatch> batches(2);
  append_document(batches[0], dataset.samples[0]);
  for (size_t i = 1; i < dataset.samples.size(); ++i) {
    append_document(batches[1], dataset.samples[i]);
  }
  ASSERT_EQ(batches[1].tokens(), 24);
  trainer.train_step(0, batches);
  for (const Arena::Usage& used : arena.usage()) {
    const auto planned = std::ranges::find(plan.usage, used.purpose, &Arena::Usage::purpose);
    ASSERT_NE(planned, plan.usage.end()) << used.purpose;
    EXPECT_LE(used.peak_bytes, planned->peak_bytes) << used.purpose;
  }
}

}  // namespace
}  // namespace rankwise
