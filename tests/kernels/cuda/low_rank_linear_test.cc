// SPDX-License-Identifier: Apache-2.0
// Groups of layers on a GPU, in every layout, against the CPU on the same rounded values.
#include "kernels/low_rank_linear.h"

#include <gtest/gtest.h>

#include <deque>
#include <functional>
#include <vector>

#include "kernels/elementwise.h"
#include "kernels/matmul.h"
#include "kernels/quantize.h"
#include "tests/support/device_memory.h"

namespace rankwise {
namespace {

using testing::DeviceMemory;
using testing::expect_near;
using testing::GuardedMemory;
using testing::kActivationTypes;
using testing::kGpu;
using testing::rounded;

enum class Storage { kNf4, kF32, kBf16 };
struct LayerSpec {
  int64_t out, rank;
  Storage storage;
};
struct GroupSpec {
  int64_t in;
  std::vector<LayerSpec> layers;
};

const GroupSpec kGroups[] = {
    {172, {{172, 8, Storage::kNf4}}},
    {128, {{64, 0, Storage::kBf16}}},
    {64, {{43, 3, Storage::kBf16}}},
    {128, {{344, 16, Storage::kNf4}, {344, 16, Storage::kNf4}}},
    {64, {{136, 0, Storage::kF32}, {136, 16, Storage::kBf16}}},
    {172, {{96, 16, Storage::kNf4}, {32, 3, Storage::kNf4}, {32, 8, Storage::kF32}}},
    {96, {{192, 8, Storage::kBf16}, {64, 0, Storage::kNf4}, {64, 16, Storage::kNf4}}},
    {64, {{64, 0, Storage::kNf4}, {24, 0, Storage::kF32}}},
    {64, {{64, 0, Storage::kBf16}, {24, 0, Storage::kBf16}, {8, 0, Storage::kBf16}}},
};

// Whether the tensors of the layers, and the narrow ones behind the wide ones, are neighbours.
struct Layout {
  bool wide_joined, narrow_joined;
};
const Layout kLayouts[] = {{true, true}, {true, false}, {false, true}, {false, false}};

// A group on both devices, its values exact in `type`.
class Rig {
 public:
  Rig(const GroupSpec& spec, int64_t rows, DType activation, const Layout& placement)
      : type(activation), layout(placement), tokens(rows), in(spec.in) {
    set_matmul_tuning(gpu, false);
    for (const LayerSpec& layer : spec.layers) add_layer(layer);
    x = values({tokens, in});
  }

  Tensor values(const Shape& shape) { return rounded(memory.uniform(shape), type); }
  // Per layer (tokens, out) or (tokens, rank), undefined for rank 0; random or NaN.
  std::vector<Tensor> wide(bool random) { return per_layer(&LowRankLinear::out, random); }
  std::vector<Tensor> narrow(bool random) { return per_layer(&LowRankLinear::rank, random); }

  // Copies of these matrices on the device, as neighbouring columns of one or each on its own.
  std::vector<Tensor> place(const std::vector<Tensor>& parts, bool joined) {
    std::vector<Tensor> out;
    int64_t width = 1, begin = 0;
    for (const Tensor& part : parts) width += part.defined() ? part.dim(1) : 0;
    const Tensor whole = device.poisoned(type, {tokens, width}, 8);
    for (const Tensor& part : parts) {
      if (!part.defined()) {
        out.emplace_back();
      } else if (!joined) {
        out.push_back(device.copy_of(part, type, 8));
      } else {
        out.push_back(whole.columns(begin, begin + part.dim(1)));
        copy(out.back(), device.copy_of(part, type), gpu);
        begin += part.dim(1);
      }
    }
    return out;
  }
  // First `wide`, then `narrow` behind them as far as the layout says.
  std::pair<std::vector<Tensor>, std::vector<Tensor>> place_pair(const std::vector<Tensor>& wide,
                                                                 const std::vector<Tensor>& narrow,
                                                                 bool wide_joined) {
    if (!wide_joined || !layout.narrow_joined) {
      return {place(wide, wide_joined), place(narrow, layout.wide_joined)};
    }
    std::vector<Tensor> all = wide;
    all.insert(all.end(), narrow.begin(), narrow.end());
    const std::vector<Tensor> placed = place(all, true);
    const auto middle = placed.begin() + static_cast<std::ptrdiff_t>(wide.size());
    return {{placed.begin(), middle}, {middle, placed.end()}};
  }

  void expect_same(const std::vector<Tensor>& on_device, const std::vector<Tensor>& expected,
                   double limit) {
    for (size_t i = 0; i < expected.size(); ++i) {
      if (!expected[i].defined()) continue;
      expect_near(device.to_host(on_device[i], memory), expected[i], limit);
    }
  }
  double tolerance() const { return type == DType::kF32 ? 5e-5 : 1.5e-2; }

  DType type;
  Layout layout;
  int64_t tokens, in;
  GuardedMemory memory;
  Stream host;
  Stream gpu{kGpu};
  DeviceMemory device{gpu};
  Arena arena;
  std::deque<Weight> weights;  // host and device copies, addresses kept
  std::vector<LowRankLinear> layers, device_layers;
  Tensor x;

 private:
  std::vector<Tensor> per_layer(int64_t (LowRankLinear::*width)() const, bool random) {
    std::vector<Tensor> out;
    for (const LowRankLinear& layer : layers) {
      const Shape shape = {tokens, (layer.*width)()};
      const bool absent = shape.dim(1) == 0;
      out.push_back(absent ? Tensor() : random ? values(shape) : memory.poisoned(shape));
    }
    return out;
  }

  void add_layer(const LayerSpec& spec) {
    const Tensor w = rounded(memory.uniform({spec.out, in}), DType::kBF16);
    if (spec.storage == Storage::kNf4) {
      QuantizedTensor q = allocate_nf4(w.shape(), true, DType::kF32, arena, "weights");
      quantize_nf4(q, w, host);
      weights.emplace_back(q);
      for (Tensor* part : {&q.codes, &q.absmax, &q.nested_absmax, &q.nested_map}) {
        *part = device.copy_of(*part);
      }
      weights.emplace_back(q);
    } else {
      weights.emplace_back(w);
      const bool narrow_weight = spec.storage == Storage::kBf16;
      weights.emplace_back(device.copy_of(w, narrow_weight ? DType::kBF16 : DType::kF32));
    }
    LowRankLinear layer = {&weights[weights.size() - 2], {}, {}, 1.5f};
    LowRankLinear on_device = {&weights[weights.size() - 1], {}, {}, 1.5f};
    if (spec.rank > 0) {
      layer.a = memory.uniform({spec.rank, in});
      layer.b = memory.uniform({spec.out, spec.rank});
      on_device.a = device.copy_of(layer.a);
      on_device.b = device.copy_of(layer.b);
    }
    layers.push_back(layer);
    device_layers.push_back(on_device);
  }
};

// Every group, type, number of tokens and layout.
void for_each_rig(const std::function<void(Rig&)>& test) {
  for (const GroupSpec& group : kGroups) {
    for (const DType type : kActivationTypes) {
      for (const int64_t tokens : {1, 130}) {
        for (const Layout& layout : kLayouts) {
          SCOPED_TRACE(fmt::format("{} layers, in {}, first out {}, {}, {} tokens, joined {} {}",
                                   group.layers.size(), group.in, group.layers[0].out,
                                   name_of(type), tokens, layout.wide_joined,
                                   layout.narrow_joined));
          Rig rig(group, tokens, type, layout);
          test(rig);
          if (::testing::Test::HasFatalFailure()) return;
        }
      }
    }
  }
}

enum class Addend { kNone, kSelf, kOther };

void compare_forward(Rig& rig, Addend kind) {
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
  for_each_rig([](Rig& rig) {
    compare_forward(rig, Addend::kNone);
    if (rig.layers.size() > 1) return;
    compare_forward(rig, Addend::kSelf);
    compare_forward(rig, Addend::kOther);
  });
}

void compare_backward_input(Rig& rig, float beta) {
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
  for_each_rig([](Rig& rig) {
    compare_backward_input(rig, 0.0f);
    compare_backward_input(rig, 1.0f);
  });
}

TEST(CudaLowRankLinear, BackwardWeightAgreesWithTheCpu) {
  RW_REQUIRE_GPU();
  for_each_rig([](Rig& rig) {
    const std::vector<Tensor> dys = rig.wide(true);
    const std::vector<Tensor> downs = rig.narrow(true), ddowns = rig.narrow(true);
    const auto [device_dys, device_ddowns] = rig.place_pair(dys, ddowns, rig.layout.wide_joined);
    const auto [xs, device_downs] = rig.place_pair({rig.x}, downs, true);
    std::vector<Tensor> das, dbs, device_das, device_dbs;
    for (const LowRankLinear& layer : rig.layers) {
      const bool adapted = layer.rank() > 0;
      das.push_back(adapted ? rig.memory.uniform(layer.a.shape()) : Tensor());
      dbs.push_back(adapted ? rig.memory.uniform(layer.b.shape()) : Tensor());
      device_das.push_back(adapted ? rig.device.copy_of(das.back()) : Tensor());
      device_dbs.push_back(adapted ? rig.device.copy_of(dbs.back()) : Tensor());
    }
    low_rank_linear_backward_weight(device_das, device_dbs, device_ddowns, device_dys, device_downs,
                                    xs[0], rig.device_layers, rig.gpu);
    low_rank_linear_backward_weight(das, dbs, ddowns, dys, downs, rig.x, rig.layers, rig.host);
    rig.expect_same(device_das, das, 1e-4);
    rig.expect_same(device_dbs, dbs, 1e-4);
  });
}

TEST(CudaLowRankLinear, TuningChangesNoResult) {
  RW_REQUIRE_GPU();
  for (const size_t group : {0, 5}) {
    for (const Layout& layout : {kLayouts[0], kLayouts[3]}) {
      Rig rig(kGroups[group], 130, DType::kBF16, layout);
      set_matmul_tuning(rig.gpu, true);
      compare_forward(rig, group == 0 ? Addend::kSelf : Addend::kNone);
      compare_backward_input(rig, 1.0f);
    }
  }
}

TEST(CudaLowRankLinear, MeasuredScratchIsThatOfTheRunWhateverTheLayout) {
  RW_REQUIRE_GPU();
  for (const Layout& layout : kLayouts) {
    Rig rig(kGroups[3], 9, DType::kBF16, layout);
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
