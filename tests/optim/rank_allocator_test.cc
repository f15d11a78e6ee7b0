// SPDX-License-Identifier: Apache-2.0
#include "optim/rank_allocator.h"

#include <fmt/ranges.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <deque>
#include <numeric>

#include "optim/adamw_optimizer.h"
#include "runtime/rng.h"
#include "tests/support/error_of.h"
#include "tests/support/thread_ranks.h"

namespace rankwise {
namespace {

using Mask = std::vector<int>;

constexpr int64_t kMatrices = 3;
constexpr int64_t kRank = 4;
constexpr int64_t kSteps = 16;
// Budget 12 -> 6: choices at steps 4, 6, 8 and 10; the last one holds to the end.
constexpr RankScheduleOptions kOptions{
    .init_rank = kRank, .target_rank = 2, .warmup = 2, .final = 6, .interval = 2};

// AdaLoRA's parameters of one rank, trained with random gradients, equal on all ranks. Those of the
// first matrix are a thousand times smaller.
class Training {
 public:
  explicit Training(Communicator& world, const RankScheduleOptions& options = kOptions,
                    Arena::Mode memory = Arena::Mode::kReserve, int tensor_size = 1)
      : mesh_(world, tensor_size),
        arena_({}, memory),
        stream_({}, arena_.measuring() ? Stream::Mode::kMeasure : Stream::Mode::kExecute),
        schedule_(options, kMatrices, kSteps) {
    for (int64_t m = 0; m < kMatrices; ++m) {
      add(fmt::format("{}.lora_A", m), {kRank, 5 + m});
      add(fmt::format("{}.lora_E", m), {kRank, 1});
      add(fmt::format("{}.lora_B", m), {7 + m, kRank});
    }
    for (Parameter& p : parameters_) groups_[0].parameters.push_back(&p);
    AdamWOptions adamw;
    adamw.importance.wanted = [](const Parameter&) { return true; };
    optimizer_ = std::make_unique<AdamWOptimizer>(groups_, adamw, arena_, stream_);
    std::vector<RankedMatrix> matrices;
    for (size_t m = 0; m < kMatrices; ++m) {
      const auto importance = [&](size_t k) -> const Importance& {
        return optimizer_->importance_of(parameters_[3 * m + k]);
      };
      matrices.push_back({std::to_string(m),
                          parameters_[3 * m + 1].dense(),
                          {importance(0), importance(1), importance(2)}});
    }
    allocator_ = std::make_unique<RankAllocator>(matrices, schedule_, mesh_, arena_, stream_);
  }

  void update(int64_t step) {
    for (size_t i = 0; i < parameters_.size(); ++i) {
      const Tensor& gradient = parameters_[i].gradient;
      Rng(static_cast<uint64_t>(step), "gradient", i)
          .fill_normal({gradient.data<float>(), static_cast<size_t>(gradient.numel())}, 0.0f,
                       i < 3 ? 1e-3f : 1.0f);
    }
    optimizer_->measure_importance(schedule_.measures(step));
    optimizer_->step(groups_, 0.01, 1.0f, stream_);
  }
  void step(int64_t step) {
    if (!stream_.measuring()) update(step);
    allocator_->step(step, stream_);
  }

  // Of all matrices.
  std::vector<float> singular_values() const {
    std::vector<float> values;
    for (const RankedMatrix& matrix : allocator_->matrices()) {
      values.insert(values.end(), matrix.e.data<float>(), matrix.e.data<float>() + kRank);
    }
    return values;
  }
  Mask nonzero() const {
    Mask mask;
    for (const float value : singular_values()) mask.push_back(value != 0.0f);
    return mask;
  }
  std::vector<double> scores() const;

  RankAllocator& allocator() { return *allocator_; }
  AdamWOptimizer& optimizer() { return *optimizer_; }
  std::deque<Parameter>& parameters() { return parameters_; }
  Arena& arena() { return arena_; }
  Stream& stream() { return stream_; }

 private:
  void add(const std::string& name, const Shape& shape) {
    Parameter p;
    p.name = name;
    p.weight = arena_.allocate("weights", DType::kF32, shape);
    p.gradient = arena_.allocate("gradients", DType::kF32, shape);
    p.trainable = true;
    if (!arena_.measuring()) {
      Rng(7, name).fill_normal({p.dense().data<float>(), static_cast<size_t>(shape.numel())}, 0.0f,
                               1.0f);
    }
    parameters_.push_back(p);
  }

  DeviceMesh mesh_;
  Arena arena_;
  Stream stream_;
  RankSchedule schedule_;
  std::deque<Parameter> parameters_;
  std::vector<ParameterGroup> groups_{{"all", {}, 1.0, 0.0}};
  std::unique_ptr<AdamWOptimizer> optimizer_;
  std::unique_ptr<RankAllocator> allocator_;
};

std::vector<double> Training::scores() const {
  std::vector<double> scores;
  for (const RankedMatrix& matrix : allocator_->matrices()) {
    const auto& [a, e, b] = matrix.importance;
    const auto score = [](const Importance& x, int64_t i) {
      return static_cast<double>(x.sensitivity.data<float>()[i]) * x.uncertainty.data<float>()[i];
    };
    const int64_t in = a.sensitivity.dim(1);
    const int64_t out = b.sensitivity.dim(0);
    for (int64_t i = 0; i < kRank; ++i) {
      double sum = score(e, i);
      for (int64_t j = 0; j < in; ++j) sum += score(a, i * in + j) / static_cast<double>(in);
      for (int64_t k = 0; k < out; ++k) sum += score(b, k * kRank + i) / static_cast<double>(out);
      scores.push_back(sum);
    }
  }
  return scores;
}

int64_t ones(const Mask& mask) { return std::accumulate(mask.begin(), mask.end(), int64_t{0}); }

TEST(RankAllocator, KeepsTheTripletsWithTheHighestScoresOfTheWholeModel) {
  const auto world = make_single_communicator();
  Training training(*world);
  for (int64_t step = 0; step <= 10; ++step) {
    training.step(step);
    const RankSchedule& schedule = training.allocator().schedule();
    EXPECT_EQ(training.allocator().budget(), schedule.budget(step));
    EXPECT_EQ(training.allocator().active(), ones(training.nonzero()));
    if (!schedule.decides(step)) {
      EXPECT_EQ(ones(training.nonzero()), kMatrices * kRank) << "step " << step;
      continue;
    }
    const std::vector<double> scores = training.scores();
    std::vector<double> sorted = scores;
    std::ranges::sort(sorted, std::greater<>());
    const double lowest = sorted[static_cast<size_t>(schedule.budget(step)) - 1];
    Mask expected;
    for (const double score : scores) expected.push_back(score >= lowest);
    EXPECT_EQ(training.nonzero(), expected) << "step " << step;
  }
}

TEST(RankAllocator, MayTakeAllTripletsOfAMatrix) {
  const auto world = make_single_communicator();
  Training training(*world);
  EXPECT_EQ(training.allocator().ranks(training.stream()), (std::vector<int64_t>{4, 4, 4}));
  for (int64_t step = 0; step < kSteps; ++step) training.step(step);
  const std::vector<int64_t> ranks = training.allocator().ranks(training.stream());
  EXPECT_EQ(ranks[0], 0);
  EXPECT_EQ(ranks[1] + ranks[2], 6);
  const Tensor kept = training.allocator().kept_of(1);
  for (int64_t i = 0; i < kRank; ++i) {
    EXPECT_EQ(kept.data<uint8_t>()[i], training.nonzero()[static_cast<size_t>(kRank + i)]);
  }
}

TEST(RankAllocator, DroppedTripletsComeBackUntilTheLastChoice) {
  const auto world = make_single_communicator();
  Training training(*world);
  for (int64_t step = 0; step <= 4; ++step) training.step(step);
  EXPECT_LT(ones(training.nonzero()), kMatrices * kRank);
  training.step(5);
  EXPECT_EQ(ones(training.nonzero()), kMatrices * kRank);
  for (int64_t step = 6; step <= 10; ++step) training.step(step);
  const Mask last = training.nonzero();
  EXPECT_EQ(ones(last), 6);
  const std::vector<double> scores = training.scores();
  for (int64_t step = 11; step < kSteps; ++step) {
    training.update(step);
    EXPECT_EQ(ones(training.nonzero()), kMatrices * kRank) << "step " << step;
    training.allocator().step(step, training.stream());
    EXPECT_EQ(training.nonzero(), last) << "step " << step;
    EXPECT_EQ(training.allocator().active(), 6);
  }
  EXPECT_EQ(training.scores(), scores);
}

TEST(RankAllocator, AChoiceThatASkippedStepOwesComesWithTheNext) {
  const auto world = make_single_communicator();
  Training training(*world);
  for (int64_t step = 0; step <= 3; ++step) training.step(step);
  training.step(5);
  EXPECT_LE(ones(training.nonzero()), training.allocator().budget());
  EXPECT_EQ(training.allocator().active(), training.allocator().budget());
  EXPECT_LT(training.allocator().budget(), kMatrices * kRank);
  for (const int64_t step : {6, 7, 8, 9}) training.step(step);
  training.step(11);  // the last choice was due in step 10
  EXPECT_EQ(ones(training.nonzero()), 6);
  EXPECT_EQ(training.allocator().active(), 6);
}

TEST(RankAllocator, EqualRanksDropNothing) {
  const auto world = make_single_communicator();
  RankScheduleOptions options = kOptions;
  options.target_rank = kRank;
  Training training(*world, options);
  for (int64_t step = 0; step < kSteps; ++step) {
    training.step(step);
    EXPECT_EQ(ones(training.nonzero()), kMatrices * kRank);
  }
}

TEST(RankAllocator, ChoosesTheSameOnAnyNumberOfRanks) {
  std::vector<Mask> alone;
  const auto world = make_single_communicator();
  Training training(*world);
  for (int64_t step = 0; step < kSteps; ++step) {
    training.step(step);
    alone.push_back(training.nonzero());
  }
  for (const int ranks : {1, 2, 4}) {
    run_ranks_as_threads(ranks, [&](Communicator& part_of_world) {
      Training part(part_of_world, kOptions, Arena::Mode::kReserve, ranks == 4 ? 2 : 1);
      for (int64_t step = 0; step < kSteps; ++step) {
        part.step(step);
        EXPECT_EQ(part.nonzero(), alone[static_cast<size_t>(step)])
            << "step " << step << " rank " << part_of_world.rank() << " of " << ranks;
      }
      part.allocator().check_agreement(part.stream());
    });
  }
}

TEST(RankAllocator, NamesARankWithOtherScoresOnEveryRank) {
  for (const bool checked_at_once : {true, false}) {
    run_ranks_as_threads(4, [&](Communicator& world) {
      Training training(world);
      for (int64_t step = 0; step <= 5; ++step) training.step(step);
      training.update(6);
      if (world.rank() == 2) {  // too little to change the choice
        const Parameter& e = training.parameters()[4];
        training.optimizer().importance_of(e).sensitivity.data<float>()[3] *= 1.00001f;
      }
      training.allocator().step(6, training.stream());
      const std::string error = testing::error_of<CommunicationError>([&] {
        if (checked_at_once) training.allocator().check_agreement(training.stream());
        training.step(7);
      });
      EXPECT_EQ(error,
                "AdaLoRA's choice of triplets in step 6: the scores of rank 2 differ from those of "
                "rank 0; all ranks must hold the same adapters and reduced gradients, bit by bit");
    });
  }
}

TEST(RankAllocator, FollowsRankZeroWhateverTheOwnScoresSay) {
  run_ranks_as_threads(2, [&](Communicator& world) {
    Training training(world);
    for (int64_t step = 0; step < 4; ++step) training.step(step);
    training.update(4);
    if (world.rank() == 1) {  // would prefer the first matrix
      const auto& [sensitivity, uncertainty] =
          training.optimizer().importance_of(training.parameters()[1]);
      std::fill_n(sensitivity.data<float>(), kRank, 1e3f);
      std::fill_n(uncertainty.data<float>(), kRank, 1e3f);
    }
    training.allocator().step(4, training.stream());
    EXPECT_EQ(ones(training.nonzero()), training.allocator().budget());
    const std::vector<std::string> masks =
        world.gather_text(fmt::format("{}", training.nonzero()), "masks");
    EXPECT_EQ(masks[0], masks[1]);
  });
}

TEST(RankAllocator, ResumesInTheFinalPhaseWithTheChoiceOfItsState) {
  const auto world = make_single_communicator();
  Training first(*world);
  for (int64_t step = 0; step <= 12; ++step) first.step(step);
  Training second(*world);
  const std::vector<NamedTensor> from = first.allocator().state();
  const std::vector<NamedTensor> to = second.allocator().state();
  ASSERT_EQ(to.size(), 1u);
  EXPECT_EQ(to[0].name, "rank_allocator.kept");
  std::memcpy(to[0].tensor.raw(), from[0].tensor.raw(),
              static_cast<size_t>(from[0].tensor.bytes()));
  second.allocator().set_steps_taken(first.allocator().steps_taken());
  EXPECT_EQ(second.allocator().steps_taken(), 13);
  EXPECT_EQ(second.allocator().active(), 6);
  second.step(13);
  EXPECT_EQ(second.nonzero(), first.nonzero());
}

TEST(RankAllocator, MeasuringPlansTheBytesOfARealRun) {
  const auto world = make_single_communicator();
  Training measured(*world, kOptions, Arena::Mode::kMeasure);
  measured.step(0);
  Training real(*world);
  EXPECT_EQ(measured.arena().peak_bytes(), real.arena().peak_bytes());
}

}  // namespace
}  // namespace rankwise
