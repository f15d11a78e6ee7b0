// SPDX-License-Identifier: Apache-2.0
// Groups of layers on a GPU, in every layout, against the CPU on the same rounded values.
#include "kernels/low_rank_linear.h"

#include <gtest/gtest.h>

#include <vector>

#include "kernels/matmul.h"
#include "tests/kernels/cuda/low_rank_rig.h"

namespace rankwise {
namespace {

using testing::for_each_rig;
using testing::GroupSpec;
using testing::kGpu;
using testing::kGroups;
using testing::kLayouts;
using testing::Layout;
using testing::LowRankRig;

enum class Addend { kNone, kSelf, kOther };

void compare_forward(LowRankRig& rig, Addend kind) {
  const std::vector<Tensor> ys = rig.wide(kind == Addend::kSelf);
  const std::vector<Tensor> downs = rig.narrow(false);
  Tensor addend, device_addend;
  auto [xs, device_downs] = rig.place_pair({rig.x}, downs, true);
  const std::vector<Tensor> device_ys = rig.place(ys, rig.layout.wide_joined);
  if (kind == Addend::kSelf) {
    addend = ys[0];
    device_addend = device_ys[0];
  } else if (kind == Addend::kOther) {
    addend = rig.values(ys[0].shape());
    device_addend = rig.device.copy_of(addend, rig.type, 8);
  }
  low_rank_linear(device_ys, device_downs, xs[0], rig.device_layers, device_addend, rig.gpu);
  low_rank_linear(ys, downs, rig.x, rig.layers, addend, rig.host);
  rig.expect_same(device_downs, downs, rig.tolerance());
  rig.expect_same(device_ys, ys, rig.tolerance());
}

TEST(CudaLowRankLinear, ForwardAgreesWithTheCpu) {
  RW_REQUIRE_GPU();
  for_each_rig([](LowRankRig& rig) {
    compare_forward(rig, Addend::kNone);
    if (rig.layers.size() > 1) return;
    compare_forward(rig, Addend::kSelf);
    compare_forward(rig, Addend::kOther);
  });
}

void compare_backward_input(LowRankRig& rig, float beta) {
  const std::vector<Tensor> dys = rig.wide(true);
  const std::vector<Tensor> ddowns = rig.narrow(false);
  const Tensor dx = beta == 0.0f ? rig.memory.poisoned(rig.x.shape()) : rig.values(rig.x.shape());
  const auto [device_dys, device_ddowns] = rig.place_pair(dys, ddowns, rig.layout.wide_joined);
  const Tensor device_dx = rig.device.copy_of(dx, rig.type, 8);
  low_rank_linear_backward_input(device_dx, device_ddowns, device_dys, rig.device_layers, beta,
                                 rig.gpu);
  low_rank_linear_backward_input(dx, ddowns, dys, rig.layers, beta, rig.host);
  rig.expect_same(device_ddowns, ddowns, rig.tolerance());
  rig.expect_same({device_dx}, {dx}, rig.tolerance());
  if (beta != 0.0f) return;
  const std::vector<Tensor> again = rig.place(rig.narrow(false), rig.layout.narrow_joined);
  low_rank_linear_backward_input({}, again, device_dys, rig.device_layers, beta, rig.gpu);
  rig.expect_same(again, ddowns, rig.tolerance());
}

TEST(CudaLowRankLinear, BackwardInputAgreesWithTheCpu) {
  RW_REQUIRE_GPU();
  for_each_rig([](LowRankRig& rig) {
    compare_backward_input(rig, 0.0f);
    compare_backward_input(rig, 1.0f);
  });
}

TEST(CudaLowRankLinear, BackwardWeightAgreesWithTheCpu) {
  RW_REQUIRE_GPU();
  for_each_rig([](LowRankRig& rig) {
    const std::vector<Tensor> dys = rig.wide(true);
    const std::vector<Tensor> downs = rig.narrow(true), ddowns = rig.narrow(true);
    const auto [device_dys, device_ddowns] = rig.place_pair(dys, ddowns, rig.layout.wide_joined);
    const auto [xs, device_downs] = rig.place_pair({rig.x}, downs, true);
    // What lies around the slices is compared too: it must still hold what it held.
    std::vector<LowRankGradients> gradients(rig.layers.size()), on_device(rig.layers.size());
    std::vector<Tensor> around, device_around;
    for (size_t i = 0; i < rig.layers.size(); ++i) {
      const LowRankLinear& layer = rig.layers[i];
      if (layer.rank() == 0) continue;
      const Tensor a = rig.around_a(layer.rank()), b = rig.around_b(layer.out(), layer.rank());
      const Tensor device_a = rig.device.copy_of(a), device_b = rig.device.copy_of(b);
      const Tensor e = rig.memory.uniform({layer.rank()}), device_e = rig.device.copy_of(e);
      gradients[i] = {rig.a_slice(a), rig.b_slice(b), e};
      on_device[i] = {rig.a_slice(device_a), rig.b_slice(device_b), device_e};
      around.insert(around.end(), {a, b, e});
      device_around.insert(device_around.end(), {device_a, device_b, device_e});
    }
    low_rank_linear_backward_weight(on_device, device_ddowns, device_dys, device_downs, xs[0],
                                    rig.device_layers, rig.gpu);
    low_rank_linear_backward_weight(gradients, ddowns, dys, downs, rig.x, rig.layers, rig.host);
    rig.expect_same(device_around, around, 1e-4);

    Stream measuring(kGpu, Stream::Mode::kMeasure);
    low_rank_linear_backward_weight(on_device, device_ddowns, device_dys, device_downs, xs[0],
                                    rig.device_layers, measuring);
    EXPECT_EQ(measuring.scratch_peak_bytes(), rig.gpu.scratch_peak_bytes());
  });
}

TEST(CudaLowRankLinear, WithoutWeightsTheTermsAgreeWithTheCpu) {
  RW_REQUIRE_GPU();
  for_each_rig([](LowRankRig& rig) {
    for (const LowRankLinear& layer : rig.layers) {
      if (layer.rank() == 0) return;
    }
    for (size_t i = 0; i < rig.layers.size(); ++i) {
      rig.layers[i].weight = rig.device_layers[i].weight = nullptr;
    }
    compare_forward(rig, rig.layers.size() == 1 ? Addend::kSelf : Addend::kNone);
    compare_backward_input(rig, 0.0f);
    compare_backward_input(rig, 1.0f);
  });
}

TEST(CudaLowRankLinear, TermsAddedToAWeightAgreeWithTheCpu) {
  RW_REQUIRE_GPU();
  for (const GroupSpec& group : kGroups) {
    LowRankRig rig(group, 1, DType::kF32, kLayouts[0]);
    for (size_t i = 0; i < rig.layers.size(); ++i) {
      if (rig.layers[i].rank() == 0) continue;
      const Tensor w = rig.memory.uniform({rig.layers[i].out(), rig.in});
      const Tensor on_device = rig.device.copy_of(w);
      rig.layers[i].c = rig.device_layers[i].c = {};
      add_low_rank_product(on_device, rig.device_layers[i], rig.gpu);
      add_low_rank_product(w, rig.layers[i], rig.host);
      rig.expect_same({on_device}, {w}, rig.tolerance());
    }
  }
}

TEST(CudaLowRankLinear, TuningChangesNoResult) {
  RW_REQUIRE_GPU();
  for (const size_t group : {0, 5}) {
    for (const Layout& layout : {kLayouts[0], kLayouts[3]}) {
      LowRankRig rig(kGroups[group], 130, DType::kBF16, layout);
      set_matmul_tuning(rig.gpu, true);
      compare_forward(rig, group == 0 ? Addend::kSelf : Addend::kNone);
      compare_backward_input(rig, 1.0f);
    }
  }
}

TEST(CudaLowRankLinear, MeasuredScratchIsThatOfTheRunWhateverTheLayout) {
  RW_REQUIRE_GPU();
  for (const Layout& layout : kLayouts) {
    LowRankRig rig(kGroups[3], 9, DType::kBF16, layout);
    compare_forward(rig, Addend::kNone);
    compare_backward_input(rig, 0.0f);

    Stream measuring(kGpu, Stream::Mode::kMeasure);
    const auto unplaced = [&](const Tensor& x) {
      return Tensor(nullptr, rig.type, x.shape(), kGpu);
    };
    std::vector<Tensor> ys, downs;
    for (const Tensor& y : rig.wide(false)) ys.push_back(unplaced(y));
    for (const Tensor& down : rig.narrow(false)) downs.push_back(unplaced(down));
    const Tensor x = unplaced(rig.x);
    low_rank_linear(ys, downs, x, rig.device_layers, {}, measuring);
    low_rank_linear_backward_input(x, downs, ys, rig.device_layers, 0.0f, measuring);
    EXPECT_EQ(measuring.scratch_peak_bytes(), rig.gpu.scratch_peak_bytes());
  }
}

}  // namespace
}  // namespace rankwise
