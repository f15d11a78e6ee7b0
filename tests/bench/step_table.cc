// SPDX-License-Identifier: Apache-2.0
#include "tests/bench/step_table.h"

#include <algorithm>
#include <array>
#include <numeric>

#include "kernels/adamw.h"
#include "kernels/cross_entropy.h"
#include "kernels/elementwise.h"
#include "kernels/embedding.h"
#include "kernels/matmul.h"
#include "kernels/quantize.h"
#include "kernels/rms_norm.h"
#include "kernels/rope.h"
#include "kernels/row_norms.h"
#include "kernels/swiglu.h"
#include "launch/benchmarks_workbench.h"
#include "launch/device_choice.h"
#include "runtime/rng.h"
#include "runtime/transfer.h"

namespace rankwise::testing {
namespace {

using enum BenchmarkWork;

// Times the operations of a step, at its shapes, group by group.
class StepTable {
 public:
  StepTable(const BenchmarkShape& shape, const BenchmarkCeiling& ceiling, BenchmarkRow step)
      : bench_(shape, ceiling),
        arena_(shape.device),
        model_(shape.model),
        step_(std::move(step)),
        tokens_(bench_.tokens()),
        layers_(static_cast<double>(model_.num_hidden_layers)),
        again_(shape.recompute == Recompute::kFull ? layers_ : 0.0),
        again_selective_(shape.recompute != Recompute::kNone ? layers_ : 0.0) {}

  std::vector<StepRow> measure() {
    const int64_t hidden = model_.hidden_size, inner = model_.intermediate_size;
    const int64_t query = bench_.shape().query_width(), key = bench_.shape().key_width();
    add_embedding();
    add_norms();
    // Nothing below the first projections is trained: the lowest block wants no gradient there.
    add_linears({"q+k+v", hidden, {query, key, key}, layers_ + again_, layers_ - 1.0});
    add_rope();
    add_attention();
    add_linears({"o", query, {hidden}, layers_ + again_, layers_});
    add_linears({"gate+up", hidden, {inner, inner}, layers_ + again_selective_, layers_});
    add_swiglu();
    add_linears({"down", inner, {hidden}, layers_ + again_, layers_});
    add_head();
    add_optimizer();
    add_dora();
    return finish();
  }

 private:
  struct LinearGroupCase {
    const char* name;
    int64_t in;
    std::vector<int64_t> outs;
    double forward_calls;
    double backward_calls;
  };

  void add(const std::string& name, double calls, BenchmarkWork kind, double work,
           const std::function<void()>& call, bool part = false) {
    const BenchmarkRow& row = bench_.add(name, kind, work, call);
    rows_.push_back({row, calls, calls * row.microseconds / step_.microseconds, part});
  }

  Tensor zeros(DType dtype, const Shape& shape) {
    const Tensor out = arena_.allocate("workspace", dtype, shape);
    fill(out, 0.0f, bench_.stream());
    return out;
  }

  Tensor random_ids(int64_t count) {
    const Rng rng(1, "benchmark ids");
    std::vector<int32_t> ids(static_cast<size_t>(count));
    for (size_t i = 0; i < ids.size(); ++i) {
      ids[i] = static_cast<int32_t>(rng.below(i, static_cast<uint64_t>(model_.vocab_size)));
    }
    const Tensor out = arena_.allocate("workspace", DType::kI32, {count});
    upload(out, ids.data(), bench_.stream());
    return out;
  }

  // Bytes of `columns` elements of every token.
  double moved(int64_t columns) const {
    return static_cast<double>(columns * tokens_) * bench_.element_bytes();
  }

  void add_embedding() {
    const auto scope = bench_.scope();
    const Tensor table = bench_.random({model_.vocab_size, model_.hidden_size});
    const Tensor ids = random_ids(tokens_);
    const Tensor y = bench_.random({tokens_, model_.hidden_size});
    add("embedding", 1.0, kBytes, moved(2 * model_.hidden_size),
        [&] { embedding(y, ids, table, 0, bench_.stream()); });
  }

  void add_norms() {
    const auto scope = bench_.scope();
    const int64_t width = model_.hidden_size;
    const Tensor x = bench_.random({tokens_, width}), y = bench_.random({tokens_, width});
    const Tensor weight = bench_.random(DType::kF32, {width});
    const Tensor inv_rms = bench_.random(DType::kF32, {tokens_});
    const auto eps = static_cast<float>(model_.rms_norm_eps);
    add("rms_norm", 2.0 * (layers_ + again_selective_) + 1.0, kBytes, moved(2 * width),
        [&] { rms_norm(y, inv_rms, x, weight, eps, bench_.stream()); });
    add("rms_norm backward, added to dx", 2.0 * layers_ - 1.0, kBytes, moved(4 * width),
        [&] { rms_norm_backward(x, {}, y, x, weight, inv_rms, true, bench_.stream()); });
  }

  void add_rope() {
    const auto scope = bench_.scope();
    const int64_t heads = model_.num_attention_heads, groups = model_.num_key_value_heads;
    const int64_t dim = model_.head_dim;
    const Tensor q = bench_.random({tokens_, heads, dim});
    const Tensor k = bench_.random({tokens_, groups, dim});
    const Tensor cos = bench_.random(DType::kF32, {tokens_, dim / 2});
    const Tensor sin = bench_.random(DType::kF32, {tokens_, dim / 2});
    // Random tables are no rotations: with values of 0 the elements stay what they are.
    fill(sin, 0.0f, bench_.stream());
    fill(cos, 1.0f, bench_.stream());
    add("rope, forward and backward", 2.0 * layers_ + again_, kBytes,
        moved(2 * (heads + groups) * dim), [&] { rope(q, k, cos, sin, bench_.stream()); });
  }

  void add_attention() {
    const auto scope = bench_.scope();
    AttentionOperands operands(bench_);
    const double flops = operands.forward_flops();
    add("attention", layers_ + again_, kFlops, flops, [&] { operands.forward(); });
    add("attention backward", layers_, kFlops, 2.0 * flops, [&] { operands.backward(); });
  }

  void add_swiglu() {
    const auto scope = bench_.scope();
    const int64_t width = model_.intermediate_size;
    const std::array widths = {width, width};
    const Columns up_gate = bench_.random_columns(widths, 0);
    const Columns gradients = bench_.random_columns(widths, 0);
    const Tensor inner = bench_.random({tokens_, width}), dy = bench_.random({tokens_, width});
    const Tensor& up = up_gate.parts[0];
    const Tensor& gate = up_gate.parts[1];
    add("swiglu", layers_ + again_, kBytes, moved(3 * width),
        [&] { swiglu(inner, gate, up, bench_.stream()); });
    add("swiglu backward, with the output again", layers_, kBytes, moved(6 * width), [&] {
      swiglu_backward({gradients.parts[1], gradients.parts[0], inner}, dy, gate, up,
                      bench_.stream());
    });
  }

  // What DoRA adds to this step of LoRA, or takes the place of: no parts of the sum.
  void add_dora() {
    const int64_t hidden = model_.hidden_size, inner = model_.intermediate_size;
    const int64_t heads = model_.num_attention_heads, groups = model_.num_key_value_heads;
    add_row_norms();
    const auto dots = [&](int64_t width) {
      return ColumnDots{bench_.random(DType::kF32, {width})};
    };
    {
      const auto scope = bench_.scope();
      const Tensor x = bench_.random({tokens_, hidden}), y = bench_.random({tokens_, hidden});
      const Tensor z = bench_.random({tokens_, hidden});
      add(
          "DoRA: sums of o and down", 2.0 * layers_, kBytes, moved(3 * hidden),
          [&, to = dots(hidden)] { column_dots(to, x, y, z, bench_.stream()); }, true);
      const int64_t width = groups * model_.head_dim;
      const Tensor dv = bench_.random({tokens_, width}), v = bench_.random({tokens_, width});
      add(
          "DoRA: sums of v", layers_, kBytes, moved(2 * width),
          [&, to = dots(width)] { column_dots(to, dv, v, {}, bench_.stream()); }, true);
    }
    {
      const auto scope = bench_.scope();
      const Tensor cos = zeros(DType::kF32, {tokens_, model_.head_dim / 2});
      const auto random = [&](int64_t h) { return bench_.random({tokens_, h, model_.head_dim}); };
      const Tensor dq = random(heads), dk = random(groups);
      const RopeForward forward{random(heads), random(groups), dots(heads * model_.head_dim),
                                dots(groups * model_.head_dim)};
      add(
          "DoRA: rope backward with sums", layers_, kBytes,
          moved(3 * (heads + groups) * model_.head_dim),
          [&] { rope_backward(dq, dk, cos, cos, forward, bench_.stream()); }, true);
    }
    const auto scope = bench_.scope();
    const std::array widths = {inner, inner};
    const Columns up_gate = bench_.random_columns(widths, 0);
    const Columns gradients = bench_.random_columns(widths, 0);
    const Tensor again = bench_.random({tokens_, inner}), dy = bench_.random({tokens_, inner});
    const SwigluGradients to{gradients.parts[1], gradients.parts[0], again, dots(inner),
                             dots(inner)};
    add(
        "DoRA: swiglu backward with sums", layers_, kBytes, moved(6 * inner),
        [&] { swiglu_backward(to, dy, up_gate.parts[1], up_gate.parts[0], bench_.stream()); },
        true);
  }

  void add_row_norms() {
    const auto scope = bench_.scope();
    const int64_t hidden = model_.hidden_size, inner = model_.intermediate_size;
    const int64_t query = bench_.shape().query_width(), key = bench_.shape().key_width();
    const int64_t rank = bench_.shape().lora_rank;
    const Shape shapes[] = {{query, hidden}, {key, hidden},   {key, hidden},  {hidden, query},
                            {inner, hidden}, {inner, hidden}, {hidden, inner}};
    std::vector<Weight> weights;
    double elements = 0.0;
    for (const Shape& shape : shapes) {
      weights.push_back(bench_.random_weight(shape));
      elements += static_cast<double>(shape.numel());
    }
    std::vector<RowSquares> matrices;
    for (const Weight& weight : weights) {
      const auto random = [&](const Shape& shape) { return bench_.random(DType::kF32, shape); };
      const int64_t out = shape_of(weight).dim(0), in = shape_of(weight).dim(1);
      const LowRankLinear layer{&weight, random({rank, in}), random({out, rank}), 2.0f};
      matrices.push_back({random({out}), random({out}), layer});
    }
    add(
        "DoRA: row norms of a block", layers_, kBytes,
        elements * (bench_.shape().quantize_nf4 ? 0.516 : 2.0),
        [&] { row_squares(matrices, bench_.shape().compute, bench_.stream()); }, true);
  }

  void add_linears(const LinearGroupCase& group) {
    const int64_t rank = bench_.shape().lora_rank;
    const std::string name = group.name;
    const auto scope = bench_.scope();
    LowRankOperands operands(bench_, group.in, group.outs, rank);
    add(name + " y", group.forward_calls, kFlops, operands.flops(), [&] { operands.forward(); });
    add_dequantize(group, group.forward_calls);
    add_product(group, group.forward_calls, /*forward=*/true);
    add(name + " dx", group.backward_calls, kFlops, operands.flops(),
        [&] { operands.backward_input(); });
    add_dequantize(group, group.backward_calls);
    add_product(group, group.backward_calls, /*forward=*/false);
    add(name + " dA dB", layers_, kBytes, operands.gradient_bytes(),
        [&] { operands.backward_weight(); });
  }

  void add_dequantize(const LinearGroupCase& group, double calls) {
    if (!bench_.shape().quantize_nf4) return;
    const auto scope = bench_.scope();
    std::vector<QuantizedTensor> weights;
    std::vector<Tensor> dense;
    double bytes = 0.0;
    for (int64_t out : group.outs) {
      weights.push_back(bench_.random_nf4({out, group.in}));
      dense.push_back(bench_.random({out, group.in}));
      bytes += static_cast<double>(weights.back().bytes() + dense.back().bytes());
    }
    add(
        "dequantise", calls, kBytes, bytes,
        [&] {
          for (size_t i = 0; i < weights.size(); ++i) {
            dequantize(dense[i], weights[i], bench_.stream());
          }
        },
        /*part=*/true);
  }

  // The same product with one dense weight, the low-rank columns included.
  void add_product(const LinearGroupCase& group, double calls, bool forward) {
    const auto scope = bench_.scope();
    const auto count = static_cast<int64_t>(group.outs.size());
    const int64_t ranks = count * bench_.shape().lora_rank;
    const int64_t outs = std::accumulate(group.outs.begin(), group.outs.end(), int64_t{0});
    const LayerShape layer =
        forward ? LayerShape{"", outs, group.in + ranks} : LayerShape{"", outs + ranks, group.in};
    const Tensor x = bench_.random({tokens_, layer.in}), y = bench_.random({tokens_, layer.out});
    const Weight weight = bench_.random({layer.out, layer.in});
    add(
        "dense product", calls, kFlops, product_flops(layer, tokens_),
        [&] {
          if (forward) {
            linear(y, x, weight, 0.0f, bench_.stream());
          } else {
            linear_backward_input(x, y, weight, 0.0f, bench_.stream());
          }
        },
        /*part=*/true);
  }

  void add_head() {
    const auto scope = bench_.scope();
    const auto row_bytes =
        static_cast<int64_t>(static_cast<double>(model_.vocab_size) * bench_.element_bytes());
    const int64_t most = logits_bytes(bench_.shape().device) / row_bytes;
    const int64_t chunk = std::clamp<int64_t>(most, 1, tokens_);
    const double calls = static_cast<double>(tokens_) / static_cast<double>(chunk);
    const LayerShape head = {"head", model_.vocab_size, model_.hidden_size};
    const Tensor x = bench_.random({chunk, head.in}), logits = bench_.random({chunk, head.out});
    const Weight weight = bench_.random({head.out, head.in});
    const Tensor targets = random_ids(chunk);
    const Tensor sums = zeros(DType::kF64, {3});
    const Tensor statistics = zeros(DType::kF64, {1, chunk, kCrossEntropyStatistics});
    add("head y", calls, kFlops, product_flops(head, chunk),
        [&] { linear(logits, x, weight, 0.0f, bench_.stream()); });
    add("cross_entropy with gradient", calls, kBytes, 2.0 * static_cast<double>(logits.bytes()),
        [&] {
          cross_entropy_statistics(statistics.reshaped({chunk, kCrossEntropyStatistics}), logits,
                                   targets, {}, true, bench_.stream());
          cross_entropy(logits, targets, statistics, {}, sums, true, bench_.stream());
        });
    add("head dx", calls, kFlops, product_flops(head, chunk),
        [&] { linear_backward_input(x, logits, weight, 0.0f, bench_.stream()); });
  }

  std::vector<int64_t> adapter_matrices() const {
    const int64_t hidden = model_.hidden_size, inner = model_.intermediate_size;
    const int64_t query = bench_.shape().query_width(), key = bench_.shape().key_width();
    std::vector<int64_t> elements;
    for (int64_t layer = 0; layer < model_.num_hidden_layers; ++layer) {
      for (int64_t features : {hidden, query, hidden, key, hidden, key, query, hidden, hidden,
                               inner, hidden, inner, inner, hidden}) {
        elements.push_back(features * bench_.shape().lora_rank);
      }
    }
    return elements;
  }

  void add_optimizer() {
    const auto scope = bench_.scope();
    const std::vector<int64_t> matrices = adapter_matrices();
    const int64_t all = std::accumulate(matrices.begin(), matrices.end(), int64_t{0});
    const Tensor p = bench_.random(DType::kF32, {all}), g = bench_.random(DType::kF32, {all});
    const Tensor m = zeros(DType::kF32, {all}), v = zeros(DType::kF32, {all});
    const Tensor sum = zeros(DType::kF64, {1});
    std::vector<AdamWTensors> tensors;
    int64_t begin = 0;
    for (int64_t count : matrices) {
      const int64_t end = begin + count;
      tensors.push_back(
          {p.rows(begin, end), m.rows(begin, end), v.rows(begin, end), g.rows(begin, end)});
      begin = end;
    }
    const auto bytes = static_cast<double>(p.bytes());
    Stream& stream = bench_.stream();
    add("gradients = 0", 1.0, kBytes, bytes, [&] { fill(g, 0.0f, stream); });
    add("gradients / tokens", 1.0, kBytes, 2.0 * bytes, [&] { scale(g, 0.9999f, stream); });
    add("gradient norm", 1.0, kBytes, bytes, [&] { sum_of_squares(sum, {&g, 1}, stream); });
    add("adamw", 1.0, kBytes, 7.0 * bytes, [&] { adamw(tensors, 1.0f, {}, stream); });
  }

  // The step before them and their sum behind them.
  std::vector<StepRow> finish() {
    BenchmarkRow sum = step_;
    sum.name = "all of these operations";
    sum.microseconds = 0.0;
    for (const StepRow& row : rows_) {
      if (!row.part) sum.microseconds += row.calls * row.rate.microseconds;
    }
    const double share = sum.microseconds / step_.microseconds;
    sum.median = sum.best = step_.median / share;
    sum.tokens_per_s = *step_.tokens_per_s / share;
    sum.peak_bytes.reset();
    rows_.insert(rows_.begin(), {step_, 1.0, 1.0, false});
    rows_.push_back({sum, 1.0, share, false});
    return std::move(rows_);
  }

  Workbench bench_;
  Arena arena_;  // of what the workbench does not make
  ModelConfig model_;
  BenchmarkRow step_;
  int64_t tokens_;
  double layers_;
  double again_;            // blocks whose forward pass runs again
  double again_selective_;  // blocks whose norms, gate and up run again
  std::vector<StepRow> rows_;
};

}  // namespace

std::vector<StepRow> measure_step_table(const BenchmarkShape& shape,
                                        const BenchmarkCeiling& ceiling) {
  return StepTable(shape, ceiling, benchmark_step(shape, ceiling)[0]).measure();
}

}  // namespace rankwise::testing
