// SPDX-License-Identifier: Apache-2.0
#include "kernels/rope.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "tests/support/device_memory.h"

namespace rankwise {
namespace {

using testing::Backends;
using testing::expect_near;
using testing::kActivationTypes;

double tolerance(DType dtype) { return dtype == DType::kF32 ? 1e-6 : 5e-3; }

TEST(RopeCuda, TablesAgreeWithTheCpuUpToLongContexts) {
  RW_REQUIRE_GPU();
  for (const int64_t half : {4, 12, 64}) {
    Backends b;
    std::vector<float> frequencies;
    for (int64_t j = 0; j < half; ++j) {
      frequencies.push_back(std::pow(10000.0f, -static_cast<float>(j) / static_cast<float>(half)));
    }
    const std::vector<int32_t> ids{0, 1, 2, 4095, 8192, 100001, 131071, 1000003, 0, 3, 131070};
    const auto tokens = static_cast<int64_t>(ids.size());
    const Tensor positions = b.memory.of<int32_t>({tokens}, ids);
    const Tensor inv_freq = b.memory.of<float>({half}, frequencies);
    const Tensor cos = b.memory.poisoned({tokens, half});
    const Tensor sin = b.memory.poisoned({tokens, half});
    rope_tables(cos, sin, positions, inv_freq, b.cpu);
    const Tensor gpu_cos = b.device.poisoned(DType::kF32, cos.shape());
    const Tensor gpu_sin = b.device.poisoned(DType::kF32, cos.shape());
    rope_tables(gpu_cos, gpu_sin, b.device.copy_of(positions), b.device.copy_of(inv_freq), b.gpu);
    expect_near(b.device.to_host(gpu_cos, b.memory), cos, 5e-7);
    expect_near(b.device.to_host(gpu_sin, b.memory), sin, 5e-7);
  }
}

struct HeadShape {
  int64_t tokens, q_heads, k_heads, dim;
};

const std::vector<HeadShape> kShapes{{1, 1, 1, 8},     {3, 8, 1, 24},  {65, 6, 2, 64},
                                     {33, 32, 8, 128}, {7, 5, 5, 128}, {2, 3, 1, 8},
                                     {5, 16, 2, 96},   {9, 2, 1, 2}};

// Turns q and k on both devices and compares.
void expect_same_rotation(Backends& b, const Tensor& q, const Tensor& k, bool inverse) {
  const Tensor host_q = b.device.to_host(q, b.memory);
  const Tensor host_k = b.device.to_host(k, b.memory);
  const Tensor cos = b.memory.uniform({q.dim(0), q.dim(2) / 2});
  const Tensor sin = b.memory.uniform({q.dim(0), q.dim(2) / 2});
  const Tensor gpu_cos = b.device.copy_of(cos), gpu_sin = b.device.copy_of(sin);
  if (inverse) {
    rope_backward(host_q, host_k, cos, sin, {}, b.cpu);
    rope_backward(q, k, gpu_cos, gpu_sin, {}, b.gpu);
  } else {
    rope(host_q, host_k, cos, sin, b.cpu);
    rope(q, k, gpu_cos, gpu_sin, b.gpu);
  }
  expect_near(b.device.to_host(q, b.memory), host_q, tolerance(q.dtype()));
  expect_near(b.device.to_host(k, b.memory), host_k, tolerance(q.dtype()));
}

TEST(RopeCuda, AgreesWithTheCpu) {
  RW_REQUIRE_GPU();
  for (const HeadShape& s : kShapes) {
    for (const DType dtype : kActivationTypes) {
      for (const int64_t extra : {0, 8, 3}) {
        SCOPED_TRACE(::testing::Message()
                     << s.tokens << " tokens, heads " << s.q_heads << ", " << s.k_heads << " of "
                     << s.dim << " " << name_of(dtype) << " extra " << extra);
        Backends b;
        const Tensor q =
            b.device.copy_of(b.memory.normal({s.tokens, s.q_heads, s.dim}), dtype, extra);
        const Tensor k =
            b.device.copy_of(b.memory.normal({s.tokens, s.k_heads, s.dim}), dtype, 2 * extra);
        expect_same_rotation(b, q, k, false);
        expect_same_rotation(b, q, k, true);
      }
    }
  }
}

TEST(RopeCuda, TurnsColumnsOfAPackedMatrixAndNoOthers) {
  RW_REQUIRE_GPU();
  for (const HeadShape& s : kShapes) {
    for (const DType dtype : kActivationTypes) {
      Backends b;
      const int64_t q_width = s.q_heads * s.dim;
      const int64_t k_width = s.k_heads * s.dim;
      const Tensor qkv =
          b.device.copy_of(b.memory.normal({s.tokens, q_width + 2 * k_width}), dtype);
      const Tensor v = qkv.columns(q_width + k_width, q_width + 2 * k_width);
      const Tensor before = b.device.to_host(v, b.memory);
      const Tensor q = qkv.columns(0, q_width).reshaped({s.tokens, s.q_heads, s.dim});
      const Tensor k =
          qkv.columns(q_width, q_width + k_width).reshaped({s.tokens, s.k_heads, s.dim});
      expect_same_rotation(b, q, k, false);
      testing::expect_identical(b.device.to_host(v, b.memory), before);
    }
  }
}

// Gradients and outputs of rope, of q or of k, on both devices, with where their dots go.
struct Turned {
  Turned(Backends& b, const Shape& shape, DType dtype, int64_t extra, bool biased)
      : dx(b.pair(b.memory.normal(shape), dtype, extra)),
        x(b.pair(b.memory.normal(shape), dtype, 2 * extra)) {
    const Shape width{shape.dim(1) * shape.dim(2)};
    const Backends::Pair bias =
        biased ? b.pair(b.memory.normal(width), DType::kF32) : Backends::Pair{};
    host_dots = {b.memory.poisoned(width), bias.host};
    gpu_dots = {b.device.poisoned(DType::kF32, width), bias.gpu};
  }
  void expect_same_dots(Backends& b) const {
    expect_near(b.device.to_host(gpu_dots.dots, b.memory), host_dots.dots, 1e-5);
  }
  void expect_same_gradient(Backends& b) const {
    expect_near(b.device.to_host(dx.gpu, b.memory), dx.host, tolerance(dx.gpu.dtype()));
    testing::expect_identical(b.device.to_host(x.gpu, b.memory), x.host);
  }
  Backends::Pair dx;
  Backends::Pair x;
  ColumnDots host_dots, gpu_dots;
};

void expect_same_dots(const HeadShape& shape, DType dtype, int64_t extra, bool biased) {
  Backends b;
  const Turned q(b, {shape.tokens, shape.q_heads, shape.dim}, dtype, extra, biased);
  const Turned k(b, {shape.tokens, shape.k_heads, shape.dim}, dtype, extra, biased);
  const Tensor cos = b.memory.uniform({shape.tokens, shape.dim / 2});
  const Tensor sin = b.memory.uniform({shape.tokens, shape.dim / 2});
  const Tensor gpu_cos = b.device.copy_of(cos), gpu_sin = b.device.copy_of(sin);
  rope_backward(q.dx.host, k.dx.host, cos, sin, {q.x.host, k.x.host, q.host_dots, k.host_dots},
                b.cpu);
  rope_backward(q.dx.gpu, k.dx.gpu, gpu_cos, gpu_sin, {q.x.gpu, k.x.gpu, q.gpu_dots, k.gpu_dots},
                b.gpu);
  for (const Turned* one : {&q, &k}) {
    one->expect_same_dots(b);
    one->expect_same_gradient(b);
  }
}

TEST(RopeCuda, BackwardWithDotsAgreesWithTheCpu) {
  RW_REQUIRE_GPU();
  std::vector<HeadShape> shapes = kShapes;
  shapes.push_back({130, 9, 3, 64});
  shapes.push_back({700, 2, 1, 24});
  for (const HeadShape& s : shapes) {
    for (const DType dtype : kActivationTypes) {
      for (const int64_t extra : {0, 8, 3}) {
        for (const bool biased : {false, true}) {
          SCOPED_TRACE(::testing::Message() << s.tokens << " tokens, heads " << s.q_heads << ", "
                                            << s.k_heads << " of " << s.dim << " " << name_of(dtype)
                                            << " extra " << extra << " biased " << biased);
          expect_same_dots(s, dtype, extra, biased);
        }
      }
    }
  }
}

TEST(RopeCuda, EitherOfTheDotsMayBeAbsent) {
  RW_REQUIRE_GPU();
  for (const bool of_q : {false, true}) {
    Backends b;
    const Turned q(b, {70, 4, 64}, DType::kBF16, 0, true);
    const Turned k(b, {70, 2, 64}, DType::kBF16, 0, true);
    const Tensor cos = b.memory.uniform({70, 32}), sin = b.memory.uniform({70, 32});
    const Tensor gpu_cos = b.device.copy_of(cos), gpu_sin = b.device.copy_of(sin);
    const RopeForward on_host =
        of_q ? RopeForward{q.x.host, {}, q.host_dots} : RopeForward{{}, k.x.host, {}, k.host_dots};
    const RopeForward on_gpu =
        of_q ? RopeForward{q.x.gpu, {}, q.gpu_dots} : RopeForward{{}, k.x.gpu, {}, k.gpu_dots};
    rope_backward(q.dx.host, k.dx.host, cos, sin, on_host, b.cpu);
    rope_backward(q.dx.gpu, k.dx.gpu, gpu_cos, gpu_sin, on_gpu, b.gpu);
    (of_q ? q : k).expect_same_dots(b);
    q.expect_same_gradient(b);
    k.expect_same_gradient(b);
  }
}

}  // namespace
}  // namespace rankwise
