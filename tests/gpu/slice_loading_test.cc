// SPDX-License-Identifier: Apache-2.0
// Slices loaded onto the GPU, and quantised there, against those loaded on the CPU.
#include "tests/model/slice_loading.h"

#include <gtest/gtest.h>

#include <vector>

#include "runtime/io/safetensors.h"
#include "runtime/transfer.h"
#include "tests/support/device_memory.h"
#include "tests/support/kernel_harness.h"
#include "tests/support/scratch_folder.h"
#include "tests/support/thread_ranks.h"

namespace rankwise {
namespace {

using testing::denses;
using testing::expect_same;
using testing::linears;
using testing::nf4_plan;
using testing::Stored;

Tensor on_host(const Tensor& tensor, Arena& arena, Stream& stream) {
  if (!tensor.defined()) return tensor;
  const Tensor out = arena.allocate("host", tensor.dtype(), tensor.shape());
  download(out.raw(), tensor, stream);
  return out;
}

QuantizedTensor on_host(QuantizedTensor tensor, Arena& arena, Stream& stream) {
  for (Tensor* part : {&tensor.codes, &tensor.absmax, &tensor.nested_absmax, &tensor.nested_map}) {
    *part = on_host(*part, arena, stream);
  }
  return tensor;
}

class GpuSliceLoading : public ::testing::TestWithParam<int> {
 protected:
  void SetUp() override {
    RW_REQUIRE_GPU();
    std::vector<NamedTensor> tensors;
    for (const std::vector<Stored>* list : {&linears(), &denses()}) {
      for (const Stored& stored : *list) {
        tensors.push_back({stored.name, memory_.normal(stored.shape, 0.02f)});
      }
    }
    tensors.push_back({kLarge.name, memory_.normal(kLarge.shape, 0.02f)});
    write_safetensors(scratch_.file("model.safetensors"), tensors);
    source_ = open_weights(scratch_.path());
  }

  // Of more than one piece.
  const Stored kLarge{"large", {1536, 4096}, ShardSpec::sharded(1)};
  testing::GuardedMemory memory_;
  testing::ScratchFolder scratch_;
  std::unique_ptr<WeightSource> source_;
};

INSTANTIATE_TEST_SUITE_P(Ranks, GpuSliceLoading, ::testing::Values(1, 2, 3, 4));

TEST_P(GpuSliceLoading, CodesAndScalesEqualThoseOfTheCpu) {
  std::vector<Stored> all = linears();
  all.push_back(kLarge);
  for (const bool double_quant : {false, true}) {
    const ModelPlan plan = nf4_plan(double_quant);
    run_ranks_as_threads(GetParam(), [&](Communicator& world) {
      const DeviceMesh mesh(world, world.size());
      Arena arena, gpu_arena(testing::kGpu);
      Stream stream, gpu_stream(testing::kGpu);
      const ParameterLoader loader(*source_, plan, mesh, arena, stream);
      const ParameterLoader gpu_loader(*source_, plan, mesh, gpu_arena, gpu_stream);
      for (const Stored& stored : all) {
        SCOPED_TRACE(fmt::format("{} of rank {}", stored.name, world.rank()));
        const Parameter expected = loader.linear_weight(stored.name, stored.shape, stored.spec);
        const Parameter actual = gpu_loader.linear_weight(stored.name, stored.shape, stored.spec);
        expect_same(on_host(std::get<QuantizedTensor>(actual.weight), arena, gpu_stream),
                    std::get<QuantizedTensor>(expected.weight));
      }
    });
  }
}

TEST_P(GpuSliceLoading, DenseSlicesEqualThoseOfTheCpu) {
  const ModelPlan plan;
  run_ranks_as_threads(GetParam(), [&](Communicator& world) {
    const DeviceMesh mesh(world, world.size());
    Arena arena, gpu_arena(testing::kGpu);
    Stream stream, gpu_stream(testing::kGpu);
    const ParameterLoader loader(*source_, plan, mesh, arena, stream);
    const ParameterLoader gpu_loader(*source_, plan, mesh, gpu_arena, gpu_stream);
    for (const Stored& stored : denses()) {
      SCOPED_TRACE(fmt::format("{} of rank {}", stored.name, world.rank()));
      const Parameter expected =
          loader.dense(stored.name, stored.shape, ParameterRole::kLinear, stored.spec);
      const Parameter actual =
          gpu_loader.dense(stored.name, stored.shape, ParameterRole::kLinear, stored.spec);
      EXPECT_TRUE(testing::same_bits(on_host(actual.dense(), arena, gpu_stream), expected.dense()));
    }
  });
}

TEST_P(GpuSliceLoading, MeasuringAllocatesTheSame) {
  const ModelPlan plan = nf4_plan(true);
  run_ranks_as_threads(GetParam(), [&](Communicator& world) {
    const DeviceMesh mesh(world, world.size());
    std::vector<int64_t> peaks;
    for (const bool measuring : {false, true}) {
      Arena arena(testing::kGpu, measuring ? Arena::Mode::kMeasure : Arena::Mode::kReserve);
      Stream stream(testing::kGpu, measuring ? Stream::Mode::kMeasure : Stream::Mode::kExecute);
      const ParameterLoader loader(*source_, plan, mesh, arena, stream);
      for (const Stored& stored : linears()) {
        loader.linear_weight(stored.name, stored.shape, stored.spec);
      }
      loader.linear_weight(kLarge.name, kLarge.shape, kLarge.spec);
      peaks.push_back(arena.peak_bytes());
    }
    EXPECT_EQ(peaks[0], peaks[1]);
  });
}

}  // namespace
}  // namespace rankwise
