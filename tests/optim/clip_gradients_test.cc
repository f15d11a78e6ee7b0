// SPDX-License-Identifier: Apache-2.0
#include "optim/clip_gradients.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "tests/optim/trained_parameters.h"
#include "tests/support/thread_ranks.h"

namespace rankwise {
namespace {

using testing::gradient;
using testing::TrainedParameters;

// Gradients (3, 4) and (12) in two groups: norm 13.
struct Gradients {
  TrainedParameters parameters;
  Parameter& p;
  Parameter& q;
  std::vector<ParameterGroup> groups;
  Stream stream;

  Gradients() : p(parameters.add("p", {0.0f, 0.0f})), q(parameters.add("q", {0.0f})) {
    gradient(p, 0) = 3.0f;
    gradient(p, 1) = 4.0f;
    gradient(q) = 12.0f;
    groups = {{"a", {&p}, 1.0, 0.0}, {"b", {&q}, 16.0, 0.0}};
  }
  ClipResult clip(double max_norm, Communicator& world, int tensor_size = 1) {
    const DeviceMesh mesh(world, tensor_size);
    const Tensor sums = parameters.arena().allocate("sums", DType::kF64, {2});
    return clip_gradients(groups, max_norm, mesh, sums, stream);
  }
};

TEST(ClipGradients, ScalesToTheMaximumNorm) {
  const auto alone = make_single_communicator();
  Gradients gradients;
  const ClipResult result = gradients.clip(1.0, *alone);
  EXPECT_DOUBLE_EQ(result.norm, 13.0);
  EXPECT_FLOAT_EQ(result.scale, static_cast<float>(1.0 / (13.0 + 1e-6)));
  EXPECT_EQ(gradient(gradients.q), 12.0f) << "gradients are not written";
}

TEST(ClipGradients, SmallNormsAreLeftAlone) {
  const auto alone = make_single_communicator();
  EXPECT_EQ(Gradients().clip(13.1, *alone).scale, 1.0f);
}

TEST(ClipGradients, MaximumZeroOnlyReportsTheNorm) {
  const auto alone = make_single_communicator();
  const ClipResult result = Gradients().clip(0.0, *alone);
  EXPECT_DOUBLE_EQ(result.norm, 13.0);
  EXPECT_EQ(result.scale, 1.0f);
}

TEST(ClipGradients, NanIsReportedAndNeverPassesForUnclipped) {
  const auto alone = make_single_communicator();
  Gradients gradients;
  gradient(gradients.p) = std::numeric_limits<float>::quiet_NaN();
  const ClipResult result = gradients.clip(1.0, *alone);
  EXPECT_TRUE(std::isnan(result.norm));
  EXPECT_TRUE(std::isnan(result.scale));
}

TEST(ClipGradients, LargeGradientsDoNotOverflowTheNorm) {
  const auto alone = make_single_communicator();
  Gradients gradients;
  gradient(gradients.q) = 1e30f;  // its square is no float
  EXPECT_FLOAT_EQ(static_cast<float>(gradients.clip(1.0, *alone).norm), 1e30f);
}

TEST(ClipGradients, ShardsAddOverTheTensorAxisReplicasCountOnce) {
  run_ranks_as_threads(4, [](Communicator& world) {
    Gradients gradients;
    gradients.q.spec = ShardSpec::sharded(0);
    gradient(gradients.q) = world.rank() % 2 == 0 ? 6.0f : 8.0f;  // halves of a tensor of norm 10
    const ClipResult result = gradients.clip(1.0, world, 2);
    EXPECT_DOUBLE_EQ(result.norm, std::sqrt(25.0 + 100.0));
  });
}

}  // namespace
}  // namespace rankwise
