// SPDX-License-Identifier: Apache-2.0
#include "launch/run_checkpoints.h"

#include <gtest/gtest.h>

#include <cmath>

#include "launch/checkpoint/checkpoint_folder.h"
#include "tests/support/error_of.h"
#include "tests/support/scratch_folder.h"

namespace rankwise {
namespace {

// Of a run whose state is one number.
class Saves : public ::testing::Test {
 protected:
  Saves()
      : checkpoints_({.dir = run_.path(), .best = true}, {.folder = run_.path()},
                     {CheckpointTensor{"value", Tensor(&value_, DType::kF32, {1}), Shape{1},
                                       whole_part(Shape{1})}},
                     *world_, stream_,
                     [this](std::string_view line) { lines_.emplace_back(line); }) {}

  void save(int64_t step, double loss, bool at_exit) {
    checkpoints_.save(step, loss, Json::object(), at_exit);
  }

  const testing::ScratchFolder run_;
  const std::unique_ptr<Communicator> world_ = make_single_communicator();
  Stream stream_;
  float value_ = 1.0f;
  std::vector<std::string> lines_;
  RunCheckpoints checkpoints_;
};

TEST_F(Saves, ThatFailedAreNotTheBest) {
  {
    const testing::FileSizeLimit limit(100);
    save(1, 1.0, /*at_exit=*/false);
    EXPECT_THROW(save(2, 0.5, /*at_exit=*/true), DiskError);
  }
  ASSERT_EQ(lines_.size(), 1u);
  RW_EXPECT_HAS(lines_[0], "WARNING: cannot save step 1");
  EXPECT_TRUE(std::isinf(checkpoints_.seconds_since_commit()));
  save(3, 2.0, /*at_exit=*/true);
  EXPECT_EQ(read_pointer(run_.path(), kBestPointer), 3);
  save(4, 3.0, /*at_exit=*/true);
  EXPECT_EQ(read_pointer(run_.path(), kBestPointer), 3);
  EXPECT_LT(checkpoints_.seconds_since_commit(), 60.0);
  CheckpointReader reader(run_.path() + "/" + checkpoint_name(4), *world_);
  EXPECT_EQ(reader.scalars()["best_loss"], 2.0);
  EXPECT_EQ(reader.scalars()["best_step"], 3);
}

TEST_F(Saves, OfAStateThatIsNotFiniteEndTheRunAndNothingIsLost) {
  save(1, 1.0, /*at_exit=*/true);
  value_ = std::nanf("");
  save(2, 1.0, /*at_exit=*/false);
  try {
    save(3, 1.0, /*at_exit=*/false);
    ADD_FAILURE() << "goes on";
  } catch (const Error& error) {
    EXPECT_EQ(error.exit_code(), ExitCode::kDiverged) << error.what();
  }
  EXPECT_EQ(committed_steps(run_.path()), std::vector<int64_t>{1});
}

TEST_F(Saves, OfAContinuationThatIsGivenUpAreNotTheBest) {
  save(1, 2.0, /*at_exit=*/true);
  save(2, 1.0, /*at_exit=*/true);
  ASSERT_EQ(read_pointer(run_.path(), kBestPointer), 2);
  CheckpointReader first(run_.path() + "/" + checkpoint_name(1), *world_);
  checkpoints_.restore_best(first.scalars(), 1);
  EXPECT_EQ(read_pointer(run_.path(), kBestPointer), 1);
  save(2, 1.5, /*at_exit=*/true);  // the best of this continuation
  EXPECT_EQ(read_pointer(run_.path(), kBestPointer), 2);
}

TEST_F(Saves, ThatWereEvaluatedLaterMayBeTheBest) {
  checkpoints_.save(1, std::nullopt, Json::object(), /*at_exit=*/true);
  EXPECT_EQ(read_pointer(run_.path(), kBestPointer), std::nullopt);
  checkpoints_.add_eval_loss(1, 2.0);
  EXPECT_EQ(read_pointer(run_.path(), kBestPointer), 1);
  save(2, 3.0, /*at_exit=*/true);
  EXPECT_EQ(read_pointer(run_.path(), kBestPointer), 1);
  checkpoints_.add_eval_loss(2, 3.0);
  EXPECT_EQ(read_pointer(run_.path(), kBestPointer), 1);
}

}  // namespace
}  // namespace rankwise
