// SPDX-License-Identifier: Apache-2.0
#include "parallel/gradient_reducer.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "tests/parallel/gradient_scenario.h"
#include "tests/support/thread_ranks.h"

namespace rankwise {
namespace {

using testing::ParameterSet;

// One rank, three parameters of one bucket each.
class ThreeBuckets : public ::testing::Test {
 protected:
  ThreeBuckets()
      : alone_(make_single_communicator()),
        mesh_(*alone_, 1),
        parameters_({{4}, {4}, {4}}, arena_),
        reducer_(parameters_.pointers(), mesh_, arena_, 1) {
    alone_->activity().set_observer([this](std::string_view operation) {
      if (operation.starts_with("gradient bucket")) started_.emplace_back(operation);
    });
  }

  Arena arena_;
  Stream stream_;
  std::unique_ptr<Communicator> alone_;
  std::vector<std::string> started_;  // reductions that have begun, in order
  DeviceMesh mesh_;
  ParameterSet parameters_;
  GradientReducer reducer_;
};

TEST(GradientReducer, SumsAreExactForAnyRanksMicroBatchesAndBuckets) {
  for (int ranks : {1, 2, 3, 4}) {
    for (int64_t micro_batches : {1, 2, 4}) {
      for (int64_t bucket_bytes : {int64_t{1}, int64_t{200}, int64_t{25} << 20}) {
        run_ranks_as_threads(ranks, [&](Communicator& world) {
          testing::expect_exact_gradients(world, micro_batches, bucket_bytes);
        });
      }
    }
  }
}

TEST(GradientReducer, DividesByTheTokensOfAllRanksNotByRankMeans) {
  // Rank 0 trains on 1 token, rank 1 on 3: the mean over tokens is (1 + 3 * 5) / 4, not (1 + 5)
  // / 2.
  run_ranks_as_threads(2, [](Communicator& world) {
    Arena arena;
    Stream stream;
    const DeviceMesh mesh(world, 1);
    ParameterSet parameters({{1}}, arena);
    GradientReducer reducer(parameters.pointers(), mesh, arena);
    reducer.begin_step(stream);
    reducer.begin_micro_batch(world.rank() == 0 ? 1 : 3, true);
    *parameters[0].gradient.data<float>() = world.rank() == 0 ? 1.0f : 15.0f;
    reducer.ready(parameters[0], stream);
    EXPECT_EQ(reducer.finish_step(stream), 4);
    EXPECT_EQ(*parameters[0].gradient.data<float>(), 4.0f);
  });
}

TEST(GradientReducer, StepWithoutTokensLeavesZeros) {
  run_ranks_as_threads(2, [](Communicator& world) {
    Arena arena;
    Stream stream;
    const DeviceMesh mesh(world, 1);
    ParameterSet parameters({{3}}, arena);
    GradientReducer reducer(parameters.pointers(), mesh, arena);
    reducer.begin_step(stream);
    EXPECT_EQ(reducer.finish_step(stream), 0);
    for (int i = 0; i < 3; ++i) EXPECT_EQ(parameters[0].gradient.data<float>()[i], 0.0f);
  });
}

TEST(GradientReducer, ReplicatedParametersAddOverTheWorldShardedOnesOverData) {
  run_ranks_as_threads(4, [](Communicator& world) {
    Arena arena;
    Stream stream;
    const DeviceMesh mesh(world, 2);
    ParameterSet parameters({{2}, {2}}, arena);
    parameters[1].spec = ShardSpec::sharded(0);
    GradientReducer reducer(parameters.pointers(), mesh, arena);
    reducer.begin_step(stream);
    reducer.begin_micro_batch(8, true);
    for (Parameter* parameter : parameters.pointers()) {
      std::fill_n(parameter->gradient.data<float>(), 2, static_cast<float>(16 << world.rank()));
      reducer.ready(*parameter, stream);
    }
    // Tensor ranks see the same tokens: 2 data ranks x 8.
    EXPECT_EQ(reducer.finish_step(stream), 16);
    EXPECT_EQ(*parameters[0].gradient.data<float>(), 1 + 2 + 4 + 8);
    EXPECT_EQ(*parameters[1].gradient.data<float>(), world.rank() % 2 == 0 ? 1 + 4 : 2 + 8);
  });
}

TEST_F(ThreeBuckets, LeaveDuringTheLastMicroBatchInOrder) {
  reducer_.begin_step(stream_);
  reducer_.begin_micro_batch(1, false);
  for (Parameter* parameter : parameters_.pointers()) reducer_.ready(*parameter, stream_);
  EXPECT_TRUE(started_.empty());
  reducer_.begin_micro_batch(1, true);
  reducer_.ready(parameters_[1], stream_);
  EXPECT_TRUE(started_.empty()) << "bucket 1 must not overtake bucket 0";
  reducer_.ready(parameters_[0], stream_);
  EXPECT_EQ(started_, (std::vector<std::string>{"gradient bucket 0", "gradient bucket 1"}));
  reducer_.ready(parameters_[2], stream_);
  EXPECT_EQ(started_.size(), 3u);
  reducer_.finish_step(stream_);
  EXPECT_EQ(started_.size(), 3u);
}

TEST_F(ThreeBuckets, LeaveInFinishStepWhenNoMicroBatchWasTheLast) {
  reducer_.begin_step(stream_);
  reducer_.begin_micro_batch(1, false);
  for (Parameter* parameter : parameters_.pointers()) reducer_.ready(*parameter, stream_);
  reducer_.finish_step(stream_);
  EXPECT_EQ(started_.size(), 3u);
}

TEST_F(ThreeBuckets, GradientsAreAlignedViewsOfOneBuffer) {
  const auto* begin = reducer_.flat().data<float>();
  for (size_t p = 0; p < parameters_.size(); ++p) {
    EXPECT_EQ(parameters_[p].gradient.data<float>(), begin + 16 * p);
    EXPECT_EQ(parameters_[p].gradient.shape(), Shape({4}));
  }
  EXPECT_EQ(reducer_.flat().numel(), 48);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(begin) % 64, 0u);
}

TEST_F(ThreeBuckets, AloneNothingGoesOverTheWire) {
  reducer_.begin_step(stream_);
  reducer_.finish_step(stream_);
  EXPECT_EQ(mesh_.wire_bytes(), 0);
}

TEST(GradientReducer, WireBytesCountGradientsAndTokenCount) {
  run_ranks_as_threads(2, [](Communicator& world) {
    Arena arena;
    Stream stream;
    const DeviceMesh mesh(world, 1);
    ParameterSet parameters({{16}, {32}}, arena);
    GradientReducer reducer(parameters.pointers(), mesh, arena);
    for (int step = 0; step < 2; ++step) {
      const int64_t before = mesh.wire_bytes();
      reducer.begin_step(stream);
      reducer.finish_step(stream);
      EXPECT_EQ(mesh.wire_bytes() - before, 48 * 4 + 8);  // of two ranks each sends all once
    }
  });
}

TEST(GradientReducer, MeasuringPlansTheBytesOfARealRun) {
  run_ranks_as_threads(2, [](Communicator& world) {
    const auto one_step = [&](Arena& arena, Stream& stream) {
      const DeviceMesh mesh(world, 1);
      const int64_t before = mesh.wire_bytes();
      ParameterSet parameters({{100, 3}, {5}}, arena);
      GradientReducer reducer(parameters.pointers(), mesh, arena, 1);
      reducer.begin_step(stream);
      reducer.begin_micro_batch(2, true);
      for (Parameter* parameter : parameters.pointers()) reducer.ready(*parameter, stream);
      reducer.finish_step(stream);
      return mesh.wire_bytes() - before;
    };
    Arena measured({}, Arena::Mode::kMeasure);
    Stream measuring({}, Stream::Mode::kMeasure);
    Arena real;
    Stream stream;
    const int64_t planned_wire = one_step(measured, measuring);
    EXPECT_EQ(planned_wire, one_step(real, stream));
    EXPECT_EQ(measured.peak_bytes(), real.peak_bytes());
  });
}

using ThreeBucketsDeathTest = ThreeBuckets;

TEST_F(ThreeBucketsDeathTest, ReadyTwiceIsOurMistake) {
  reducer_.begin_step(stream_);
  reducer_.begin_micro_batch(1, true);
  reducer_.ready(parameters_[1], stream_);
  EXPECT_DEATH(reducer_.ready(parameters_[1], stream_), "p1: ready twice");
}

TEST_F(ThreeBucketsDeathTest, MissingReadyIsOurMistake) {
  reducer_.begin_step(stream_);
  reducer_.begin_micro_batch(1, false);
  reducer_.ready(parameters_[0], stream_);
  reducer_.ready(parameters_[2], stream_);
  EXPECT_DEATH(reducer_.begin_micro_batch(1, true), "p1: never ready");
  EXPECT_DEATH(reducer_.finish_step(stream_), "p1: never ready");
}

TEST_F(ThreeBucketsDeathTest, ForeignParameterIsOurMistake) {
  Parameter foreign;
  foreign.name = "foreign";
  reducer_.begin_step(stream_);
  reducer_.begin_micro_batch(1, true);
  EXPECT_DEATH(reducer_.ready(foreign, stream_), "foreign");
}

TEST_F(ThreeBucketsDeathTest, MicroBatchAfterTheLastIsOurMistake) {
  reducer_.begin_step(stream_);
  reducer_.begin_micro_batch(1, true);
  for (Parameter* parameter : parameters_.pointers()) reducer_.ready(*parameter, stream_);
  EXPECT_DEATH(reducer_.begin_micro_batch(1, true), "after the last");
}

}  // namespace
}  // namespace rankwise
