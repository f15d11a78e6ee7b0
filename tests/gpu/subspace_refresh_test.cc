// SPDX-License-Identifier: Apache-2.0
// Bases of several weights refreshed on several streams of a GPU.
#include "optim/subspace_refresh.h"

#include <gtest/gtest.h>

#include <cmath>

#include "kernels/elementwise.h"
#include "optim/adamw_optimizer.h"
#include "tests/kernels/gradients_of_known_spectrum.h"
#include "tests/support/device_memory.h"

namespace rankwise {
namespace {

using testing::captured_energy;
using testing::DeviceMemory;
using testing::expect_identical;
using testing::expect_orthonormal;
using testing::GuardedMemory;
using testing::kGpu;
using testing::with_singular_values;

constexpr int64_t kWeights = 7, kRank = 80;
const Shape kShape{320, 200};

// Of the gradients of a weight.
double singular_value(size_t weight, int64_t k) {
  return 1.0 / static_cast<double>(k + 1 + static_cast<int64_t>(weight));
}

// Weights of which all are due in every second step.
struct Rig {
  explicit Rig(DType products, Arena::Mode mode = Arena::Mode::kReserve)
      : arena(kGpu, mode),
        stream(kGpu, arena.measuring() ? Stream::Mode::kMeasure : Stream::Mode::kExecute) {
    set_matmul_tuning(stream, false);
    for (int64_t i = 0; i < kWeights; ++i) {
      Parameter& p = weights.emplace_back();
      p.name = fmt::format("w{}", i);
      p.trainable = true;
      p.weight = arena.allocate("weights", DType::kF32, kShape);
      fill(p.dense(), 0.0f, stream);
      parameters.push_back(&p);
    }
    groups[0].parameters = parameters;
    optimizer.emplace(
        groups, [](const Parameter&) { return ProjectionOptions{.rank = kRank, .refresh = 2}; },
        [&](std::span<const ParameterGroup> of) {
          return std::make_unique<AdamWOptimizer>(of, AdamWOptions(), arena, stream);
        },
        mesh, arena, stream);
    for (Parameter& p : weights) {
      p.gradient = arena.allocate("gradients", DType::kF32, optimizer->gradient_shape(p));
    }
    refresh.emplace(*optimizer, parameters, int64_t{1} << 30, mesh, arena, products);
  }
  // One refresh of all.
  void give(const std::vector<Tensor>& gradients) {
    const auto round = refresh->rounds().at(0);
    refresh->begin(round, stream);
    for (size_t i = 0; i < round.size(); ++i) {
      copy(round[i]->dense_gradient, gradients[i], stream);
    }
    refresh->finish(round, 1, stream);
    for (int step = 0; step < 2; ++step) optimizer->step(groups, 0.01, 1.0f, stream);
  }
  const Tensor& basis(size_t weight) { return optimizer->projection_of(weights[weight])->right; }

  std::unique_ptr<Communicator> world = make_single_communicator();
  DeviceMesh mesh{*world, 1};
  Arena arena;
  Stream stream;
  std::deque<Parameter> weights;
  std::vector<Parameter*> parameters;
  std::vector<ParameterGroup> groups{{"all", {}, 1.0, 0.0}};
  std::optional<ProjectedOptimizer> optimizer;
  std::optional<SubspaceRefresh> refresh;
};

TEST(CudaSubspaceRefresh, StreamsSideBySideGiveTheBasesAndRepeat) {
  RW_REQUIRE_GPU();
  for (const DType products : {DType::kF32, DType::kBF16}) {
    GuardedMemory memory;
    Rig rig(products), again(products);
    DeviceMemory device(rig.stream);
    for (int round = 0; round < 3; ++round) {
      std::vector<Tensor> host, gradients;
      for (int64_t i = 0; i < kWeights; ++i) {
        const auto value = [&](int64_t k) { return singular_value(static_cast<size_t>(i), k); };
        host.push_back(with_singular_values(kShape, value, memory, 0.05));
        if (round == 2 && i == 3) host.back().data<float>()[7] = NAN;
        gradients.push_back(device.copy_of(host.back()));
      }
      const Tensor kept = device.to_host(rig.basis(3), memory);
      rig.stream.synchronize();
      rig.give(gradients);
      again.give(gradients);
      for (size_t i = 0; i < gradients.size(); ++i) {
        const Tensor found = device.to_host(rig.basis(i), memory);
        again.stream.synchronize();
        expect_identical(device.to_host(again.basis(i), memory), found);
        expect_orthonormal(found, BasisSide::kRight, 1e-5);
        if (round == 2 && i == 3) {
          expect_identical(found, kept);
          continue;
        }
        double most = 0.0;  // what an exact basis holds
        for (int64_t k = 0; k < kRank; ++k) most += std::pow(singular_value(i, k), 2);
        EXPECT_GE(captured_energy(found, BasisSide::kRight, host[i]), 0.99 * most);
      }
    }
    for (size_t i = 0; i < rig.weights.size(); ++i) {
      const Projector& projector = *rig.optimizer->projector_of(rig.weights[i]);
      EXPECT_EQ(projector.failed_refreshes(rig.stream), i == 3 ? 1 : 0) << i;
    }
  }
}

TEST(CudaSubspaceRefresh, TakesTheMemoryThatWasMeasured) {
  RW_REQUIRE_GPU();
  Rig measured(DType::kBF16, Arena::Mode::kMeasure), rig(DType::kBF16);
  EXPECT_EQ(measured.arena.current_bytes(), rig.arena.current_bytes());
}

}  // namespace
}  // namespace rankwise
