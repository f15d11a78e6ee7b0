// SPDX-License-Identifier: Apache-2.0
#include "launch/step_graphs.h"

#include <gtest/gtest.h>

#include <vector>

#include "model/hf_folder.h"
#include "tests/model/tiny_config.h"
#include "tests/model/training_rig.h"
#include "tests/support/device_memory.h"

namespace rankwise {
namespace {

using testing::kGpu;
using testing::TrainingRig;

MicroBatch batch_of(int32_t first, int64_t tokens) {
  Sample sample;
  for (int64_t t = 0; t < tokens; ++t) {
    sample.input_ids.push_back(static_cast<int32_t>((first + 5 * t) % 23));
  }
  sample.labels = sample.input_ids;
  MicroBatch batch;
  append_document(batch, sample);
  return batch;
}

struct Result {
  std::vector<double> losses;
  std::vector<float> gradients;
  int replays = 0;

  bool operator==(const Result& other) const {
    return losses == other.losses && gradients == other.gradients;
  }
};

// The loss of each batch, and the sum of the gradients of all.
Result accumulate(const std::vector<MicroBatch>& batches, bool with_graphs) {
  const ModelConfig config = testing::tiny_config();
  testing::RigOptions options = testing::with_lora({.rank = 4});
  options.device = kGpu;
  options.plan.compute = DType::kBF16;
  options.plan.quantize_nf4 = true;
  options.plan.deterministic = true;
  TrainingRig rig(config, *make_random_weights(config, 3), options);
  rig.randomise_lora_b();
  Stream& stream = rig.stream();
  StepGraphs graphs;
  Result result;
  const Tensor sums = rig.arena().allocate("test", DType::kF64, {3});
  rig.reducer().begin_step(stream);
  for (const MicroBatch& batch : batches) {
    const auto scope = rig.arena().scope("activations");
    fill(sums, 0.0f, stream);
    rig.reducer().begin_micro_batch(batch.trained_tokens, &batch == &batches.back());
    ForwardContext context = rig.model().begin(batch, /*training=*/true, /*step=*/0, stream);
    const auto work = [&] {
      rig.model().run(context);
      rig.model().loss(context, sums, stream);
      rig.model().backward(context, rig.reducer(), stream);
    };
    const StepGraphs::Key key{context.tokens,           batch.documents(),
                              context.longest_document, context.ids.raw(),
                              stream.scratch_bytes(),   rig.model().chunks_with_targets(context)};
    if (!with_graphs) {
      work();
    } else if (graphs.run(key, work, stream)) {
      ++result.replays;
      for (const Parameter* parameter : rig.trained()) rig.reducer().ready(*parameter, stream);
    }
    std::vector<double> values(3);
    download(values.data(), sums, stream);
    result.losses.push_back(values[0] / values[1]);
  }
  rig.reducer().finish_step(stream);
  const Tensor flat = rig.reducer().flat();
  result.gradients.resize(static_cast<size_t>(flat.numel()));
  download(result.gradients.data(), flat, stream);
  return result;
}

TEST(StepGraphs, ReplayedMicroBatchesEqualDirectOnes) {
  RW_REQUIRE_GPU();
  // Two shapes, whose inputs differ from batch to batch.
  std::vector<MicroBatch> batches;
  for (int32_t i = 0; i < 5; ++i) {
    batches.push_back(batch_of(i, 40));
    batches.push_back(batch_of(3 * i, 17));
  }
  const Result direct = accumulate(batches, false);
  const Result graphs = accumulate(batches, true);
  EXPECT_GE(graphs.replays, 4);
  EXPECT_TRUE(graphs == direct);
  EXPECT_NE(direct.losses[0], direct.losses[2]);
}

}  // namespace
}  // namespace rankwise
