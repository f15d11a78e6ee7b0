// SPDX-License-Identifier: Apache-2.0
// GaLore through the whole model, on real gradients.
#include <gtest/gtest.h>

#include <chrono>
#include <cstring>

#include "model/hf_folder.h"
#include "tests/end_to_end/golden_run.h"
#include "tests/end_to_end/rank_run.h"
#include "tests/kernels/gradients_of_known_spectrum.h"
#include "tests/support/thread_ranks.h"

namespace rankwise::testing {
namespace {

constexpr size_t kMatrices = 35;  // 7 in each of 5 layers

// Trained in full without changing anything: its gradients are the dense ones of a run whose
// weights it is given.
class DenseGradients {
 public:
  explicit DenseGradients(const StoriesFiles& files) : training_(unchanged(files), *alone_) {}

  void follow(RankRun& other) {
    const auto from = other.parameters(), to = training_.parameters();
    ASSERT_EQ(from.size(), to.size());
    for (size_t i = 0; i < from.size(); ++i) {
      ASSERT_EQ(from[i]->name, to[i]->name);
      std::memcpy(to[i]->dense().raw(), from[i]->dense().raw(),
                  static_cast<size_t>(from[i]->dense().bytes()));
    }
  }
  void step() { training_.step(); }
  const Tensor& of(size_t index) { return training_.parameters()[index]->gradient; }

 private:
  static TrainConfig unchanged(const StoriesFiles& files) {
    TrainConfig config = files.config("{method: full}", {"train.micro_batch=8"});
    config.optim.lr = 0.0;
    return config;
  }
  std::unique_ptr<Communicator> alone_ = make_single_communicator();
  RankRun training_;
};

TEST(GaLore, BackwardOfTheModelProjectsWhatTheDenseGradientIs) {
  RW_REQUIRE_SHARED();
  const StoriesFiles files;
  const auto alone = make_single_communicator();
  double worst = 0.0;
  for (const char* type : {"std", "reverse_std", "left", "right", "full"}) {
    SCOPED_TRACE(type);
    TrainConfig config = files.config(
        fmt::format("{{method: galore, galore: {{rank: 13, refresh: 1000, projection: {}}}}}",
                    type),
        {"train.micro_batch=2"});
    config.optim.lr = 0.0;
    RankRun galore(config, *alone);
    DenseGradients dense(files);
    ASSERT_EQ(galore.parameters().size(), kMatrices);
    const auto expect_projected = [&] {
      galore.step();
      dense.step();
      for (size_t i = 0; i < kMatrices; ++i) {
        const Parameter& p = *galore.parameters()[i];
        GuardedMemory memory;
        const Tensor expected = memory.zeros(p.gradient_shape());
        project(expected, dense.of(i), *p.projection, galore.stream());
        const double error = relative_l2(p.gradient, expected);
        EXPECT_LE(error, 1e-5) << p.name;
        worst = std::max(worst, error);
      }
    };
    expect_projected();  // with the first refresh
    galore.projected().set_steps_taken(450);
    for (const Parameter* p : galore.parameters()) ASSERT_FALSE(galore.projected().is_due(*p));
    expect_projected();  // by associativity
  }
  RecordProperty("largest_relative_difference", fmt::format("{:.2g}", worst));
}

TEST(GaLore, RefreshesHoldTheEnergyThatTheExactBasisDoesOnRealGradients) {
  RW_REQUIRE_SHARED();
  constexpr int kRefresh = 10;
  const StoriesFiles files;
  const auto alone = make_single_communicator();
  for (const auto& [rank, rounds] : {std::pair(4, 2), std::pair(16, 4), std::pair(32, 2)}) {
    const std::string method =
        fmt::format("{{method: galore, galore: {{rank: {}, refresh: {}}}}}", rank, kRefresh);
    RankRun galore(files.config(method), *alone);
    DenseGradients dense(files);
    double least = 1.0;
    std::vector<int> refreshes(kMatrices, 0);
    for (int step = 0; step <= rounds * kRefresh; ++step) {
      std::vector<bool> due;
      for (const Parameter* p : galore.parameters()) due.push_back(galore.projected().is_due(*p));
      dense.follow(galore);
      galore.step();
      dense.step();
      for (size_t i = 0; i < kMatrices; ++i) {
        if (!due[i]) continue;
        const Parameter& p = *galore.parameters()[i];
        const Tensor& g = dense.of(i);
        const BasisSide side = p.projection->left.defined() ? BasisSide::kLeft : BasisSide::kRight;
        const Tensor& basis = side == BasisSide::kLeft ? p.projection->left : p.projection->right;
        GuardedMemory memory;
        const Tensor exact = memory.zeros(basis.shape()), failed = memory.zeros({1});
        exact_basis(exact, side, failed, g, galore.stream());
        ASSERT_EQ(*failed.data<float>(), 0.0f);
        const double ratio = captured_energy(basis, side, g) / captured_energy(exact, side, g);
        EXPECT_GE(ratio, 0.99) << p.name << " step " << step << " rank " << rank;
        least = std::min(least, ratio);
        ++refreshes[i];
      }
    }
    EXPECT_GE(std::ranges::min(refreshes), 1 + rounds);
    for (const Parameter* p : galore.parameters()) {
      EXPECT_EQ(galore.projected().projector_of(*p)->failed_refreshes(galore.stream()), 0);
    }
    RecordProperty(fmt::format("least_share_of_energy_rank_{}", rank),
                   fmt::format("{:.4f}", least));
  }
}

void expect_same_weights(RankRun& a, RankRun& b, double relative) {
  const auto as = a.parameters(), bs = b.parameters();
  ASSERT_EQ(as.size(), bs.size());
  for (size_t i = 0; i < as.size(); ++i) {
    ASSERT_EQ(as[i]->name, bs[i]->name);
    EXPECT_LE(relative_l2(as[i]->dense(), bs[i]->dense()), relative) << as[i]->name;
  }
}

TEST(GaLore, SgdOfFullRankTrainsAsPlainSgd) {
  RW_REQUIRE_SHARED();
  const StoriesFiles files;
  const auto alone = make_single_communicator();
  const std::vector<std::string> sgd = {"optim.name=sgd", "optim.lr=0.1"};
  RankRun plain(files.config("{method: full}", sgd), *alone);
  const std::vector<double> expected = plain.losses(20);
  EXPECT_LT(expected.back(), 0.9 * expected.front());
  for (const char* exact : {"false", "true"}) {
    SCOPED_TRACE(exact);
    RankRun galore(
        files.config(
            fmt::format("{{method: galore, galore: {{rank: 64, refresh: 6, scale: 1, exact: {}}}}}",
                        exact),
            sgd),
        *alone);
    const std::vector<double> losses = galore.losses(20);
    for (size_t i = 0; i < losses.size(); ++i)
      EXPECT_NEAR(losses[i], expected[i], 1e-5 * expected[i]);
    expect_same_weights(galore, plain, 1e-5);
  }
}

TEST(GaLore, AdamWInIdentityBasesTrainsAsPlainAdamW) {
  RW_REQUIRE_SHARED();
  const StoriesFiles files;
  const auto alone = make_single_communicator();
  RankRun plain(files.config("{method: full}"), *alone);
  RankRun galore(files.config("{method: galore, galore: {rank: 64, refresh: 1000, scale: 1}}"),
                 *alone);
  plain.trainer().optimizer().set_steps_taken(450);
  galore.projected().set_steps_taken(450);  // no refresh in these steps
  for (const Parameter* p : galore.parameters()) {
    const Tensor& basis =
        p->projection->left.defined() ? p->projection->left : p->projection->right;
    ASSERT_EQ(basis.dim(0), basis.dim(1));
    for (int64_t i = 0; i < basis.numel(); ++i) {
      basis.data<float>()[i] = i % (basis.dim(0) + 1) == 0 ? 1.0f : 0.0f;
    }
  }
  const std::vector<double> expected = plain.losses(20), losses = galore.losses(20);
  EXPECT_LT(expected.back(), 0.9 * expected.front());
  for (size_t i = 0; i < losses.size(); ++i)
    EXPECT_NEAR(losses[i], expected[i], 1e-5 * expected[i]);
  expect_same_weights(galore, plain, 1e-4);
}

TEST(GaLore, AccumulationDoesNotChangeTheRun) {
  RW_REQUIRE_SHARED();
  const StoriesFiles files;
  const auto alone = make_single_communicator();
  const std::string method =
      "{method: galore, galore: {rank: 16, refresh: 6, rotate_moments: true}}";
  RankRun whole(files.config(method, {"train.micro_batch=8"}), *alone);
  RankRun parts(files.config(method, {"train.micro_batch=2"}), *alone);
  double worst = 0.0;
  for (int step = 0; step < 20; ++step) {
    const StepMeasurement expected = whole.step(), actual = parts.step();
    worst = std::max(worst, std::abs(actual.loss / expected.loss - 1.0));
    worst = std::max(worst, std::abs(actual.gradient_norm / expected.gradient_norm - 1.0));
    EXPECT_NEAR(actual.loss, expected.loss, 1e-5 * expected.loss) << step;
    EXPECT_NEAR(actual.gradient_norm, expected.gradient_norm, 1e-4 * expected.gradient_norm)
        << step;
  }
}

// Of one step without a refresh that a rank of 2 data ranks sends.
int64_t bytes_on_the_wire(const StoriesFiles& files, const std::string& rules) {
  int64_t bytes = 0;
  run_ranks_as_threads(2, [&](Communicator& world) {
    RankRun training(files.config(rules), world);
    training.trainer().optimizer().set_steps_taken(450);
    training.step();
    if (world.rank() == 0) bytes = training.trainer().wire_bytes();
  });
  return bytes;
}

TEST(GaLore, DataRanksSendProjectedGradients) {
  RW_REQUIRE_SHARED();
  const StoriesFiles files;
  const std::string full = "{match: ['*'], method: full}";
  const int64_t all_bytes = bytes_on_the_wire(files, full);
  const ModelConfig model = load_model_config(shared_folder() + "/models/stories260k");
  for (const int64_t rank : {4, 16}) {
    int64_t all = 0, sent = 0;
    for (const auto& [name, shape] : weight_shapes(model)) {
      const bool projected = shape.rank() == 2 && name.find(".layers.") != std::string::npos;
      all += shape.numel();
      sent += projected ? rank * std::max(shape.dim(0), shape.dim(1)) : shape.numel();
    }
    const int64_t bytes = bytes_on_the_wire(
        files,
        fmt::format("{{method: galore, galore: {{rank: {}, refresh: 1000}}}}, {}", rank, full));
    const double ratio = static_cast<double>(bytes) / static_cast<double>(all_bytes);
    const double expected = static_cast<double>(sent) / static_cast<double>(all);
    EXPECT_NEAR(ratio, expected, 0.05 * expected);
    RecordProperty(fmt::format("ratio_rank_{}", rank), fmt::format("{:.4f}", ratio));
  }
}

}  // namespace
}  // namespace rankwise::testing
