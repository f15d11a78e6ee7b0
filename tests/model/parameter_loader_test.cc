// SPDX-License-Identifier: Apache-2.0
// Loading by slices: what each rank of the tensor axis gets, and how much it reads for that.
#include "model/parameter_loader.h"

#include <gtest/gtest.h>

#include <cmath>
#include <mutex>
#include <vector>

#include "runtime/io/quantized_store.h"
#include "runtime/io/safetensors.h"
#include "tests/model/slice_loading.h"
#include "tests/support/error_of.h"
#include "tests/support/kernel_harness.h"
#include "tests/support/scratch_folder.h"
#include "tests/support/slice_nf4.h"
#include "tests/support/thread_ranks.h"

namespace rankwise {
namespace {

using testing::CountingSource;
using testing::denses;
using testing::error_of;
using testing::expect_same;
using testing::expect_slice;
using testing::GuardedMemory;
using testing::linears;
using testing::nf4_plan;
using testing::slice_of;
using testing::Stored;
using testing::training_plan;

class SliceLoading : public ::testing::TestWithParam<int> {
 protected:
  SliceLoading() {
    for (const std::vector<Stored>* list : {&linears(), &denses()}) {
      for (const Stored& stored : *list) {
        tensors_.push_back({stored.name, memory_.normal(stored.shape, 0.02f)});
      }
    }
  }

  std::unique_ptr<WeightSource> folder() {
    write_safetensors(scratch_.file("model.safetensors"), tensors_);
    return open_weights(scratch_.path());
  }
  std::unique_ptr<WeightSource> store(bool nested) {
    Stream stream;
    QuantizedStoreWriter writer(scratch_.file("model.h5"));
    for (size_t i = 0; i < tensors_.size(); ++i) {
      const auto& [name, tensor] = tensors_[i];
      if (i >= linears().size()) {
        writer.add(name, tensor);
        continue;
      }
      QuantizedTensor quantized =
          allocate_nf4(MatrixSlice::all(tensor.shape()), nested, DType::kF32, arena_, "weights");
      quantize_nf4(quantized, tensor, stream);
      writer.add(name, quantized);
    }
    writer.commit();
    return open_weights(scratch_.file("model.h5"));
  }

  // body(loader of each of GetParam() ranks, its communicator, an arena)
  template <class Body>
  void on_ranks(const WeightSource& source, const ModelPlan& plan, Body body) {
    run_ranks_as_threads(GetParam(), [&](Communicator& world) {
      const DeviceMesh mesh(world, world.size());
      const CountingSource counting(source);
      Arena arena;
      Stream stream;
      body(ParameterLoader(counting, plan, mesh, arena, stream), world, arena, counting);
    });
  }

  // Every rank's part of every linear equals that of the unsharded load.
  void expect_slices_of_linears(const WeightSource& source, const ModelPlan& plan) {
    const auto alone = make_single_communicator();
    const DeviceMesh mesh(*alone, 1);
    Stream stream;
    const ParameterLoader whole(source, plan, mesh, arena_, stream);
    std::vector<Parameter> expected;
    for (const Stored& stored : linears()) {
      expected.push_back(whole.linear_weight(stored.name, stored.shape, stored.spec));
    }
    on_ranks(source, plan,
             [&](const ParameterLoader& loader, Communicator& world, Arena& arena,
                 const CountingSource&) {
               for (size_t i = 0; i < linears().size(); ++i) {
                 const Stored& stored = linears()[i];
                 SCOPED_TRACE(fmt::format("{} of rank {}", stored.name, world.rank()));
                 const Parameter part =
                     loader.linear_weight(stored.name, stored.shape, stored.spec);
                 EXPECT_EQ(part.spec, stored.spec);
                 ASSERT_TRUE(is_quantized(part.weight));
                 expect_same(std::get<QuantizedTensor>(part.weight),
                             testing::slice_nf4(std::get<QuantizedTensor>(expected[i].weight),
                                                slice_of(stored, world), arena, "expected"));
               }
             });
  }

  testing::ScratchFolder scratch_;
  GuardedMemory memory_;
  Arena arena_;
  std::vector<NamedTensor> tensors_;
};

INSTANTIATE_TEST_SUITE_P(Ranks, SliceLoading, ::testing::Values(1, 2, 3, 4));

TEST_P(SliceLoading, DenseTensorsAreCutByRowsAndColumns) {
  for (const bool from_store : {false, true}) {
    const auto source = from_store ? store(false) : folder();
    on_ranks(*source, {},
             [&](const ParameterLoader& loader, Communicator& world, Arena&,
                 const CountingSource& counting) {
               int64_t held = 0;
               for (size_t i = 0; i < denses().size(); ++i) {
                 const Stored& stored = denses()[i];
                 SCOPED_TRACE(fmt::format("{} of rank {}", stored.name, world.rank()));
                 const Parameter part =
                     loader.dense(stored.name, stored.shape, ParameterRole::kLinear, stored.spec);
                 EXPECT_EQ(part.spec, stored.spec);
                 EXPECT_EQ(world.activity().status().operation, "load " + stored.name);
                 expect_slice(part.dense(), tensors_[linears().size() + i].tensor,
                              slice_of(stored, world));
                 held += part.dense().numel();
               }
               EXPECT_EQ(counting.elements, held);
             });
  }
}

TEST_P(SliceLoading, TrainedLinearsAreDenseSlices) {
  const auto source = folder();
  ModelPlan plan = training_plan();
  plan.quantize_nf4 = true;
  on_ranks(*source, plan,
           [&](const ParameterLoader& loader, Communicator& world, Arena&,
               const CountingSource& counting) {
             int64_t held = 0;
             for (size_t i = 0; i < linears().size(); ++i) {
               const Parameter part =
                   loader.linear_weight(linears()[i].name, linears()[i].shape, linears()[i].spec);
               EXPECT_TRUE(part.trainable);
               expect_slice(part.dense(), tensors_[i].tensor, slice_of(linears()[i], world));
               held += part.dense().numel();
             }
             EXPECT_EQ(counting.elements, held);
           });
}

TEST_P(SliceLoading, QuantisingWhileLoadingGivesTheSlicesOfTheWhole) {
  const auto source = folder();
  for (const bool double_quant : {false, true}) {
    expect_slices_of_linears(*source, nf4_plan(double_quant));
  }
}

TEST_P(SliceLoading, ValuesThatAreNotNumbersAreThoseOfTheWhole) {
  for (size_t i = 0; i < linears().size(); ++i) {
    tensors_[i].tensor.data<float>()[tensors_[i].tensor.numel() / 2] = NAN;
    tensors_[i].tensor.data<float>()[0] = -INFINITY;
  }
  expect_slices_of_linears(*folder(), nf4_plan(false));
}

TEST(SliceLoadingInPieces, LargeMatricesAreQuantisedAsTheWhole) {
  const Shape shape{2099, 2051};
  GuardedMemory memory;
  const NamedTensor tensor{"w", memory.normal(shape, 0.02f)};
  const testing::ScratchFolder scratch;
  write_safetensors(scratch.file("model.safetensors"), {tensor});
  const auto source = open_weights(scratch.path());
  Arena arena;
  Stream stream;
  QuantizedTensor whole =
      allocate_nf4(MatrixSlice::all(shape), true, DType::kF32, arena, "weights");
  quantize_nf4(whole, tensor.tensor, stream);
  run_ranks_as_threads(2, [&](Communicator& world) {
    const DeviceMesh mesh(world, 2);
    Arena own;
    Stream own_stream;
    const ModelPlan plan = nf4_plan(true);
    const ParameterLoader loader(*source, plan, mesh, own, own_stream);
    for (const int dim : {0, 1}) {
      const Stored stored{"w", shape, ShardSpec::sharded(dim)};
      expect_same(std::get<QuantizedTensor>(loader.linear_weight("w", shape, stored.spec).weight),
                  testing::slice_nf4(whole, slice_of(stored, world), own, "expected"));
    }
  });
}

TEST_P(SliceLoading, StoresGiveTheSlicesOfTheWhole) {
  for (const bool nested : {false, true}) expect_slices_of_linears(*store(nested), {});
}

TEST_P(SliceLoading, CopiesOfOnePartAreEqualAndNotTrained) {
  if (GetParam() != 4) return;  // one part for two ranks each
  const auto source = folder();
  const Stored halves{"up", {172, 43}, ShardSpec::sharded(0, 2)};
  const ModelPlan plan = nf4_plan(true);
  on_ranks(
      *source, plan,
      [&](const ParameterLoader& loader, Communicator& world, Arena& arena, const CountingSource&) {
        Stream stream;
        const MatrixSlice slice = slice_of(halves, world);
        EXPECT_EQ(slice.row_begin, world.rank() / 2 * 86);
        // Nobody would add up the gradients of the copies.
        const ModelPlan all_trained = training_plan();
        const DeviceMesh mesh(world, 4);
        const ParameterLoader trained(*source, all_trained, mesh, arena, stream);
        RW_EXPECT_HAS(
            error_of<ConfigError>([&] { trained.linear_weight("up", halves.shape, halves.spec); }),
            "parallel.tensor: up trained in full needs at most 2 (the kv heads), not 4");
        QuantizedTensor whole =
            allocate_nf4(MatrixSlice::all(halves.shape), true, DType::kF32, arena, "whole");
        quantize_nf4(whole, tensors_[0].tensor, stream);
        expect_same(
            std::get<QuantizedTensor>(loader.linear_weight("up", halves.shape, halves.spec).weight),
            testing::slice_nf4(whole, slice, arena, "expected"));
      });
}

TEST_P(SliceLoading, RanksTogetherReadAboutTheWhole) {
  const auto source = folder();
  const ModelPlan plan = nf4_plan(true);
  for (const Stored& stored : linears()) {
    if (stored.name == "both") continue;
    int64_t total = 0;
    int64_t most = 0;
    std::mutex mutex;
    on_ranks(
        *source, plan,
        [&](const ParameterLoader& loader, Communicator&, Arena&, const CountingSource& counting) {
          loader.linear_weight(stored.name, stored.shape, stored.spec);
          const std::lock_guard lock(mutex);
          total += counting.elements;
          most = std::max(most, counting.elements);
        });
    SCOPED_TRACE(stored.name);
    const int64_t whole = stored.shape.numel();
    const bool by_rows = stored.spec.dim == 0;
    // At both ends of each run of neighbouring elements at most a block less one is read too much.
    const int64_t runs = GetParam() == 1 ? 0 : by_rows ? 1 : stored.shape.dim(0);
    EXPECT_GE(total, whole);
    EXPECT_LE(most, (whole + GetParam() - 1) / GetParam() + stored.shape.dim(by_rows ? 1 : 0) +
                        126 * runs);
    const bool aligned = stored.name == "wide" || stored.name == "narrow";
    if (aligned) {
      EXPECT_EQ(total, whole);
    }
  }
}

TEST_P(SliceLoading, MeasuringAllocatesTheSameAndReadsNothing) {
  const auto source = folder();
  const ModelPlan plan = nf4_plan(true);
  run_ranks_as_threads(GetParam(), [&](Communicator& world) {
    const DeviceMesh mesh(world, world.size());
    std::vector<int64_t> peaks;
    for (const bool measuring : {false, true}) {
      Arena arena({}, measuring ? Arena::Mode::kMeasure : Arena::Mode::kReserve);
      Stream stream({}, measuring ? Stream::Mode::kMeasure : Stream::Mode::kExecute);
      const CountingSource counting(*source);
      const ParameterLoader loader(counting, plan, mesh, arena, stream);
      for (const Stored& stored : linears()) {
        loader.linear_weight(stored.name, stored.shape, stored.spec);
      }
      for (const Stored& stored : denses()) {
        loader.dense(stored.name, stored.shape, ParameterRole::kNorm, stored.spec);
      }
      EXPECT_EQ(counting.elements == 0, measuring);
      peaks.push_back(arena.peak_bytes());
    }
    EXPECT_EQ(peaks[0], peaks[1]);
  });
}

TEST_P(SliceLoading, MorePartsThanElementsAreRefused) {
  if (GetParam() < 2) return;
  const auto source = folder();
  on_ranks(*source, {},
           [&](const ParameterLoader& loader, Communicator&, Arena&, const CountingSource&) {
             RW_EXPECT_HAS(
                 error_of<ConfigError>([&] {
                   loader.dense("nothing", {0, 3}, ParameterRole::kHead, ShardSpec::sharded(0));
                 }),
                 "parallel.tensor: nothing (0, 3) cannot be split into");
           });
}

}  // namespace
}  // namespace rankwise
