// SPDX-License-Identifier: Apache-2.0
#include "kernels/low_rank_linear.h"

#include <string_view>

#include "kernels/check.h"
#include "kernels/cpu/matmul.h"
#include "kernels/cuda/low_rank_linear.h"
#include "kernels/elementwise.h"
#include "kernels/matmul.h"

namespace rankwise {
namespace {

// Of this shape and type; rows may be strided.
void check_matrix(std::string_view op, std::string_view argument, const Tensor& actual,
                  const Shape& expected, DType type) {
  check::dtype(op, argument, actual, type);
  check::shape(op, argument, actual, expected);
}

void check_layers(std::string_view op, std::span<const LowRankLinear> layers, DType type,
                  const Stream& stream) {
  RW_ASSERT(!layers.empty(), "{}: no layers", op);
  RW_ASSERT(type == DType::kF32 || (type == DType::kBF16 && stream.is_cuda()),
            "{}: activations are {}", op, name_of(type));
  for (const LowRankLinear& layer : layers) {
    RW_ASSERT(layer.a.defined() == layer.b.defined(), "{}: only one of a and b", op);
    RW_ASSERT(layer.weight != nullptr || layer.rank() > 0, "{}: neither weight nor term", op);
    RW_ASSERT(layer.in() == layers[0].in(), "{}: layers read {} and {} columns", op, layers[0].in(),
              layer.in());
    RW_ASSERT((layer.weight == nullptr) == (layers[0].weight == nullptr),
              "{}: a weight in some layers only", op);
    const auto* quantized = std::get_if<QuantizedTensor>(layer.weight);
    if (quantized != nullptr) check::nf4(op, *quantized);
    if (layer.c.defined()) check::f32(op, "c", layer.c, {layer.out()});
    if (layer.rank() == 0) continue;
    check_matrix(op, "a", layer.a, {layer.rank(), layer.in()}, DType::kF32);
    check::f32(op, "b", layer.b, {layer.out(), layer.rank()});
    if (layer.e.defined()) check::f32(op, "e", layer.e, {layer.rank()});
  }
}

// One tensor (rows, width of its layer) for each layer; those of width 0 are not looked at.
void check_group(std::string_view op, std::string_view argument, std::span<const Tensor> actual,
                 std::span<const LowRankLinear> layers, int64_t (LowRankLinear::*width)() const,
                 const Tensor& like) {
  RW_ASSERT(actual.size() == layers.size(), "{}: {} {} for {} layers", op, actual.size(), argument,
            layers.size());
  for (size_t i = 0; i < layers.size(); ++i) {
    const int64_t columns = (layers[i].*width)();
    if (columns == 0) continue;
    check_matrix(op, argument, actual[i], {like.dim(0), columns}, like.dtype());
  }
}

const float* row_factors(const LowRankLinear& layer) {
  return layer.c.defined() ? layer.c.data<float>() : nullptr;
}

// diag(c) B diag(e), in scratch when there is a c or an e.
Tensor scaled_b(const LowRankLinear& layer, Stream& stream) {
  if (!layer.e.defined() && !layer.c.defined()) return layer.b;
  const Tensor out(stream.scratch(static_cast<size_t>(layer.b.bytes())), DType::kF32,
                   layer.b.shape());
  const float* e = layer.e.defined() ? layer.e.data<float>() : nullptr;
  const float* c = row_factors(layer);
  const auto* from = layer.b.data<float>();
  auto* to = out.data<float>();
  for (int64_t o = 0; o < layer.out(); ++o) {
    const float factor = c == nullptr ? 1.0f : c[o];
    for (int64_t r = 0; r < layer.rank(); ++r) {
      *to++ = *from++ * (e == nullptr ? factor : factor * e[r]);
    }
  }
  return out;
}

// db += s G diag(e), de += s times the sums of the columns of B * G, with G = diag(c) of g (out,
// rank).
void add_gradients(const LowRankGradients& gradients, const Tensor& g, const LowRankLinear& layer) {
  const int64_t rank = layer.rank();
  const float* c = row_factors(layer);
  for (int64_t r = 0; r < rank; ++r) {
    const float factor = layer.e.defined() ? layer.scale * layer.e.data<float>()[r] : layer.scale;
    double sum = 0.0;
    for (int64_t o = 0, i = r; o < layer.out(); ++o, i += rank) {
      const float value = c == nullptr ? g.data<float>()[i] : c[o] * g.data<float>()[i];
      gradients.db.data<float>()[i] += factor * value;
      sum += static_cast<double>(layer.b.data<float>()[i]) * value;
    }
    if (!layer.e.defined()) continue;
    gradients.de.data<float>()[r] += static_cast<float>(layer.scale * sum);
  }
}

}  // namespace

void low_rank_linear(std::span<const Tensor> ys, std::span<const Tensor> downs, const Tensor& x,
                     std::span<const LowRankLinear> layers, const Tensor& addend, Stream& stream) {
  constexpr std::string_view kOp = "low_rank_linear";
  RW_ASSERT(x.defined() && x.rank() == 2, "{}: x", kOp);
  check_layers(kOp, layers, x.dtype(), stream);
  check_matrix(kOp, "x", x, {x.dim(0), layers[0].in()}, x.dtype());
  check_group(kOp, "y", ys, layers, &LowRankLinear::out, x);
  check_group(kOp, "down", downs, layers, &LowRankLinear::rank, x);
  if (addend.defined()) {
    RW_ASSERT(layers.size() == 1, "{}: addend of {} layers", kOp, layers.size());
    check_matrix(kOp, "addend", addend, ys[0].shape(), x.dtype());
  }
  if constexpr (kHasCuda) {
    if (stream.is_cuda()) {
      return cuda::low_rank_linear(ys, downs, x, layers, addend, stream);
    }
  }
  if (stream.measuring()) return;
  if (addend.defined() && addend.raw() != ys[0].raw()) copy(ys[0], addend, stream);
  for (size_t i = 0; i < layers.size(); ++i) {
    const LowRankLinear& layer = layers[i];
    float beta = addend.defined() ? 1.0f : 0.0f;
    if (layer.weight != nullptr) {
      cpu::linear(ys[i], x, *layer.weight, row_factors(layer), beta, stream);
      beta = 1.0f;
    }
    if (layer.rank() == 0) continue;
    matmul(downs[i], x, layer.a, {.transpose_b = true}, stream);
    matmul(ys[i], downs[i], scaled_b(layer, stream),
           {.transpose_b = true, .alpha = layer.scale, .beta = beta}, stream);
  }
}

void low_rank_linear_backward_input(const Tensor& dx, std::span<const Tensor> ddowns,
                                    std::span<const Tensor> dys,
                                    std::span<const LowRankLinear> layers, float beta,
                                    Stream& stream) {
  constexpr std::string_view kOp = "low_rank_linear_backward_input";
  RW_ASSERT(!dys.empty() && dys[0].defined() && dys[0].rank() == 2, "{}: dys", kOp);
  const Tensor& dy = dys[0];
  check_layers(kOp, layers, dy.dtype(), stream);
  check_group(kOp, "dy", dys, layers, &LowRankLinear::out, dy);
  check_group(kOp, "ddown", ddowns, layers, &LowRankLinear::rank, dy);
  if (dx.defined()) {
    check_matrix(kOp, "dx", dx, {dy.dim(0), layers[0].in()}, dy.dtype());
  }
  if constexpr (kHasCuda) {
    if (stream.is_cuda()) {
      return cuda::low_rank_linear_backward_input(dx, ddowns, dys, layers, beta, stream);
    }
  }
  if (stream.measuring()) return;
  for (size_t i = 0; i < layers.size(); ++i) {
    const LowRankLinear& layer = layers[i];
    if (dx.defined() && layer.weight != nullptr) {
      cpu::linear_backward_input(dx, dys[i], *layer.weight, row_factors(layer), beta, stream);
      beta = 1.0f;
    }
    if (layer.rank() == 0) continue;
    matmul(ddowns[i], dys[i], scaled_b(layer, stream), {.alpha = layer.scale}, stream);
    if (!dx.defined()) continue;
    matmul(dx, ddowns[i], layer.a, {.beta = beta}, stream);
    beta = 1.0f;
  }
}

void low_rank_linear_backward_weight(std::span<const LowRankGradients> gradients,
                                     std::span<const Tensor> ddowns, std::span<const Tensor> dys,
                                     std::span<const Tensor> downs, const Tensor& x,
                                     std::span<const LowRankLinear> layers, Stream& stream) {
  constexpr std::string_view kOp = "low_rank_linear_backward_weight";
  RW_ASSERT(x.defined() && x.rank() == 2, "{}: x", kOp);
  check_layers(kOp, layers, x.dtype(), stream);
  check_matrix(kOp, "x", x, {x.dim(0), layers[0].in()}, x.dtype());
  check_group(kOp, "dy", dys, layers, &LowRankLinear::out, x);
  check_group(kOp, "ddown", ddowns, layers, &LowRankLinear::rank, x);
  check_group(kOp, "down", downs, layers, &LowRankLinear::rank, x);
  RW_ASSERT(gradients.size() == layers.size(), "{}: {} gradients for {} layers", kOp,
            gradients.size(), layers.size());
  for (size_t i = 0; i < layers.size(); ++i) {
    if (layers[i].rank() == 0) continue;
    check_matrix(kOp, "da", gradients[i].da, layers[i].a.shape(), DType::kF32);
    check::f32(kOp, "db", gradients[i].db, layers[i].b.shape());
    if (layers[i].e.defined()) check::f32(kOp, "de", gradients[i].de, layers[i].e.shape());
  }
  if constexpr (kHasCuda) {
    if (stream.is_cuda()) {
      return cuda::low_rank_linear_backward_weight(gradients, ddowns, dys, downs, x, layers,
                                                   stream);
    }
  }
  if (stream.measuring()) return;
  for (size_t i = 0; i < layers.size(); ++i) {
    const LowRankLinear& layer = layers[i];
    if (layer.rank() == 0) continue;
    if (layer.e.defined() || layer.c.defined()) {
      const Tensor g(stream.scratch(static_cast<size_t>(layer.b.bytes())), DType::kF32,
                     layer.b.shape());
      matmul(g, dys[i], downs[i], {.transpose_a = true}, stream);
      add_gradients(gradients[i], g, layer);
    } else {
      matmul(gradients[i].db, dys[i], downs[i],
             {.transpose_a = true, .alpha = layer.scale, .beta = 1.0f}, stream);
    }
    linear_backward_weight(gradients[i].da, ddowns[i], x, stream);
  }
}

void add_low_rank_product(const Tensor& w, const LowRankLinear& layer, Stream& stream) {
  constexpr std::string_view kOp = "add_low_rank_product";
  check_layers(kOp, {&layer, 1}, DType::kF32, stream);
  check_matrix(kOp, "w", w, {layer.out(), layer.in()}, DType::kF32);
  RW_ASSERT(!layer.c.defined(), "{}: a layer with c", kOp);
  if constexpr (kHasCuda) {
    if (stream.is_cuda()) return cuda::add_low_rank_product(w, layer, stream);
  }
  if (stream.measuring()) return;
  matmul(w, scaled_b(layer, stream), layer.a, {.alpha = layer.scale, .beta = 1.0f}, stream);
}

}  // namespace rankwise
