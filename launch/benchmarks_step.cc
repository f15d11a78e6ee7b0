// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <numeric>

#include "launch/benchmarks_workbench.h"
#include "launch/device_random_weights.h"
#include "launch/memory_plan.h"
#include "launch/trainer.h"
#include "model/hf_folder.h"
#include "runtime/rng.h"

namespace rankwise {

TrainConfig benchmark_config(const BenchmarkShape& shape) {
  TrainConfig config;
  config.model.quant = shape.quantize_nf4 ? BaseQuantization::kNf4 : BaseQuantization::kNone;
  config.model.compute = shape.compute == DType::kBF16 ? ComputeType::kBf16 : ComputeType::kFp32;
  config.train.recompute = shape.recompute;
  AdaptRule& rule = config.adapt[0];
  rule.method = shape.method;
  rule.rank = rule.adalora.init_rank = shape.lora_rank;
  rule.adalora.target_rank = std::max<int64_t>(1, shape.lora_rank / 2);
  rule.adalora.warmup.value = 0.0;
  rule.adalora.interval = 1;
  rule.galore.rank = shape.lora_rank;
  if (rule.trains_weights()) {
    AdaptRule& rest = config.adapt.emplace_back();
    rest.match = {"*"};
    rest.method = AdaptMethod::kFull;
  }
  config.optim.name = shape.optimizer;
  config.parallel.tensor = shape.tensor;
  config.parallel.shard_base = shape.shard_base;
  return config;
}

MicroBatch benchmark_batch(const BenchmarkShape& shape, int data_rank) {
  MicroBatch batch;
  for (int64_t d = 0; d < shape.batch; ++d) {
    const auto row = static_cast<uint64_t>(data_rank * shape.batch + d);
    const Rng rng(1, "benchmark tokens", row);
    Sample sample;
    for (int64_t t = 0; t < shape.tokens; ++t) {
      sample.input_ids.push_back(static_cast<int32_t>(
          rng.below(static_cast<uint64_t>(t), static_cast<uint64_t>(shape.model.vocab_size))));
    }
    sample.labels = sample.input_ids;
    append_document(batch, sample);
  }
  return batch;
}

namespace {

// "LoRA 16"
std::string describe_method(const BenchmarkShape& shape) {
  if (shape.method == AdaptMethod::kFull) return "full";
  std::string_view name = "LoRA";
  if (shape.method == AdaptMethod::kDora) name = "DoRA";
  if (shape.method == AdaptMethod::kAdaLora) name = "AdaLoRA";
  if (shape.method == AdaptMethod::kGaLore) name = "GaLore";
  return fmt::format("{} {}", name, shape.lora_rank);
}

std::string describe_ranks(const BenchmarkShape& shape, const DeviceMesh& mesh) {
  if (mesh.world().size() == 1) return "";
  return fmt::format(", data {} x tensor {}{}", mesh.data().size(), mesh.tensor().size(),
                     shape.shard_base ? ", base split" : "");
}

}  // namespace

std::vector<BenchmarkRow> benchmark_step(const BenchmarkShape& shape,
                                         const BenchmarkCeiling& ceiling) {
  constexpr int64_t kTotalSteps = 1'000'000;
  const TrainConfig config = benchmark_config(shape);
  const ModelFiles files = {"", shape.model,
                            shape.device.is_cuda() ? make_device_random_weights(shape.model, 1)
                                                   : make_random_weights(shape.model, 1)};
  const Adaptation adaptation(config, files.config);
  const auto alone = make_single_communicator();
  Communicator& world = shape.world == nullptr ? *alone : *shape.world;
  const DeviceMesh mesh(world, static_cast<int>(shape.tensor), shape.device);
  const std::vector<MicroBatch> batches = {benchmark_batch(shape, mesh.data().rank())};
  Arena arena(shape.device);
  Stream stream(shape.device);
  plan_memory(config, files, mesh, batches[0], kTotalSteps, shape.device, /*available_bytes=*/0)
      .reserve(arena, stream);
  Trainer trainer(config, files, adaptation, mesh, arena, stream, kTotalSteps);
  int64_t step = 0;
  double flops = 0.0;
  std::vector<double> refresh_seconds;
  const BenchmarkTiming timing = time_on_all_ranks(mesh.world(), stream, shape.seconds, [&] {
    const StepMeasurement measured = trainer.train_step(step++, batches);
    flops = measured.flops;
    refresh_seconds.push_back(measured.refresh_seconds.value_or(0.0));
  });

  const int64_t tokens = shape.all_tokens() * mesh.data().size();
  const double tokens_per_s = static_cast<double>(tokens) / timing.median_seconds;
  const int64_t peak = arena.peak_bytes() + static_cast<int64_t>(stream.scratch_peak_bytes());
  const char* dense = shape.compute == DType::kBF16 ? "bf16" : "fp32";
  BenchmarkRow row = make_benchmark_row(
      shape, ceiling,
      fmt::format("step ({}, {}, {}x{}, recompute {}{}): {:.0f} tokens/s, {:.2f} GiB",
                  shape.quantize_nf4 ? "nf4" : dense, describe_method(shape), shape.batch,
                  shape.tokens, name_of(shape.recompute), describe_ranks(shape, mesh), tokens_per_s,
                  static_cast<double>(peak) / 0x1p30),
      BenchmarkWork::kFlops, flops, timing);
  if (shape.method == AdaptMethod::kGaLore) {
    row.first_refresh_seconds = refresh_seconds.front();
    row.refresh_seconds = std::accumulate(refresh_seconds.begin() + 1, refresh_seconds.end(), 0.0) /
                          static_cast<double>(refresh_seconds.size() - 1);
    row.name += fmt::format(", refresh {:.1f} ms a step ({:.1f} s in the first)",
                            *row.refresh_seconds * 1e3, *row.first_refresh_seconds);
  }
  row.tokens_per_s = tokens_per_s;
  row.peak_bytes = peak;
  row.wire_bytes = trainer.wire_bytes();
  return {row};
}

}  // namespace rankwise
