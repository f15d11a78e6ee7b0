// SPDX-License-Identifier: Apache-2.0
// Groups of low-rank linear layers for tests on a GPU: the same values on the host and on the
// device, in every layout.
#pragma once

#include <gtest/gtest.h>

#include <deque>
#include <functional>
#include <utility>
#include <vector>

#include "kernels/elementwise.h"
#include "kernels/low_rank_linear.h"
#include "kernels/matmul.h"
#include "kernels/quantize.h"
#include "tests/support/device_memory.h"

namespace rankwise::testing {

enum class Storage { kNf4, kF32, kBf16 };
struct LayerSpec {
  int64_t out, rank;
  Storage storage;
  bool factors = false;  // of its rows
};
// A, B and their gradients are slices: so many columns (of A) and rows (of B) lie around them.
struct GroupSpec {
  int64_t in;
  std::vector<LayerSpec> layers;
  int64_t before = 0, after = 0;
};

inline const GroupSpec kGroups[] = {
    {172, {{172, 8, Storage::kNf4}}},
    {128, {{64, 0, Storage::kBf16}}},
    {64, {{43, 3, Storage::kBf16}}},
    {128, {{344, 16, Storage::kNf4, true}, {344, 16, Storage::kNf4, true}}},
    {64, {{136, 0, Storage::kF32}, {136, 16, Storage::kBf16}}},
    {172, {{96, 16, Storage::kNf4}, {32, 3, Storage::kNf4, true}, {32, 8, Storage::kF32, true}}},
    {96, {{192, 8, Storage::kBf16, true}, {64, 0, Storage::kNf4, true}, {64, 16, Storage::kNf4}}},
    {64, {{64, 0, Storage::kNf4}, {24, 0, Storage::kF32}}},
    {64, {{64, 0, Storage::kBf16}, {24, 0, Storage::kBf16}, {8, 0, Storage::kBf16}}},
    {64, {{64, 12, Storage::kNf4, true}, {40, 5, Storage::kNf4}, {24, 12, Storage::kBf16}}},
    {43, {{172, 8, Storage::kNf4}}, 43, 86},
    {86, {{40, 3, Storage::kBf16, true}, {24, 8, Storage::kF32}}, 86, 0},
    {2048, {{64, 16, Storage::kNf4}}, 2048, 0},
    {172, {{172, 8, Storage::kNf4, true}}},
    {64, {{64, 0, Storage::kBf16, true}, {24, 0, Storage::kBf16}, {8, 0, Storage::kF32, true}}},
};

// Whether the tensors of the layers, and the narrow ones behind the wide ones, are neighbours.
struct Layout {
  bool wide_joined, narrow_joined;
};
inline const Layout kLayouts[] = {{true, true}, {true, false}, {false, true}, {false, false}};

// A group on both devices, its values exact in `type`.
class LowRankRig {
 public:
  LowRankRig(const GroupSpec& spec, int64_t rows, DType activation, const Layout& placement)
      : type(activation), layout(placement), tokens(rows), in(spec.in), group(spec) {
    set_matmul_tuning(gpu, false);
    for (const LayerSpec& layer : spec.layers) add_layer(layer);
    x = values({tokens, in});
  }

  Tensor values(const Shape& shape) { return rounded(memory.uniform(shape), type); }
  // Per layer (tokens, out) or (tokens, rank), undefined for rank 0; random or NaN.
  std::vector<Tensor> wide(bool random) { return per_layer(&LowRankLinear::out, random); }
  std::vector<Tensor> narrow(bool random) { return per_layer(&LowRankLinear::rank, random); }

  // Copies of these matrices on the device, as neighbouring columns of one or each on its own.
  // `behind`: columns behind them that may be overwritten.
  std::vector<Tensor> place(const std::vector<Tensor>& parts, bool joined, int64_t behind = 0) {
    std::vector<Tensor> out;
    int64_t width = 1 + behind, begin = 0;
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
    int64_t rank = 0;
    for (const Tensor& part : narrow) rank += part.defined() ? part.dim(1) : 0;
    const std::vector<Tensor> placed = place(all, true, padded_rank(rank) - rank);
    const auto middle = placed.begin() + static_cast<std::ptrdiff_t>(wide.size());
    return {{placed.begin(), middle}, {middle, placed.end()}};
  }

  // Random matrices of which A and B, or their gradients, are slices.
  Tensor around_a(int64_t rank) { return memory.uniform({rank, group.before + in + group.after}); }
  Tensor around_b(int64_t out, int64_t rank) {
    return memory.uniform({group.before + out + group.after, rank});
  }
  Tensor a_slice(const Tensor& whole) const {
    return whole.columns(group.before, group.before + in);
  }
  Tensor b_slice(const Tensor& whole) const {
    return whole.rows(group.before, whole.dim(0) - group.after);
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
  const GroupSpec& group;
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
      QuantizedTensor q =
          allocate_nf4(MatrixSlice::all(w.shape()), true, DType::kF32, arena, "weights");
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
    LowRankLinear layer, on_device;
    layer.weight = &weights[weights.size() - 2];
    on_device.weight = &weights[weights.size() - 1];
    layer.scale = on_device.scale = 1.5f;
    if (spec.rank > 0) {
      const Tensor a = around_a(spec.rank), b = around_b(spec.out, spec.rank);
      layer.a = a_slice(a);
      layer.b = b_slice(b);
      on_device.a = a_slice(device.copy_of(a));
      on_device.b = b_slice(device.copy_of(b));
    }
    if (spec.rank > 0 && spec.rank % 8 == 0) {  // the others have no singular values
      layer.e = memory.uniform({spec.rank});
      on_device.e = device.copy_of(layer.e);
    }
    if (spec.factors) {
      layer.c = memory.uniform({spec.out}, 0.3f, 3.0f);
      on_device.c = device.copy_of(layer.c);
    }
    layers.push_back(layer);
    device_layers.push_back(on_device);
  }
};

// Every group, type, number of tokens and layout.
inline void for_each_rig(const std::function<void(LowRankRig&)>& test) {
  for (const GroupSpec& group : kGroups) {
    for (const DType type : kActivationTypes) {
      for (const int64_t tokens : {1, 130}) {
        for (const Layout& layout : kLayouts) {
          SCOPED_TRACE(fmt::format("{} layers, in {}, first out {}, {}, {} tokens, joined {} {}",
                                   group.layers.size(), group.in, group.layers[0].out,
                                   name_of(type), tokens, layout.wide_joined,
                                   layout.narrow_joined));
          LowRankRig rig(group, tokens, type, layout);
          test(rig);
          if (::testing::Test::HasFatalFailure()) return;
        }
      }
    }
  }
}

}  // namespace rankwise::testing
