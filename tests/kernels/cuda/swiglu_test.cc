// SPDX-License-Identifier: Apache-2.0
#include "kernels/swiglu.h"

#include <gtest/gtest.h>

#include <array>

#include "tests/support/device_memory.h"

namespace rankwise {
namespace {

using testing::expect_identical;
using testing::expect_near;
using testing::kActivationTypes;

double tolerance(DType dtype) { return dtype == DType::kF32 ? 2e-6 : 5e-3; }

// The same inputs, rounded to `dtype`, on both devices.
struct Call : testing::Backends {
  Call(const Shape& shape, DType type, int64_t extra) : dtype(type), extra_columns(extra) {
    gate = pair(memory.normal(shape, 4.0f), dtype, extra);
    up = pair(memory.normal(shape), dtype, extra);
    dy = pair(memory.normal(shape), dtype, extra);
    y = output(shape);
    inner = output(shape);
    dgate = output(shape);
    dup = output(shape);
  }
  Pair output(const Shape& shape) {
    return {memory.poisoned(shape), device.poisoned(dtype, shape, extra_columns)};
  }
  void forward() {
    swiglu(y.host, gate.host, up.host, cpu);
    swiglu(y.gpu, gate.gpu, up.gpu, gpu);
    expect_same(y);
  }
  void backward(const Pair& to_gate, const Pair& to_up, const Pair& to_inner) {
    swiglu_backward({to_gate.host, to_up.host, to_inner.host}, dy.host, gate.host, up.host, cpu);
    swiglu_backward({to_gate.gpu, to_up.gpu, to_inner.gpu}, dy.gpu, gate.gpu, up.gpu, gpu);
    expect_same(to_gate);
    expect_same(to_up);
    if (to_inner.host.defined()) expect_same(to_inner);
  }
  // In place, with dots of gate, of up, or of both.
  void backward_with_dots(bool biased, bool of_gate, bool of_up) {
    const Shape width{gate.host.dim(1)};
    const auto pair_of_dots = [&](bool wanted) {
      if (!wanted) return std::array<ColumnDots, 2>{};
      const Pair bias = biased ? pair(memory.normal(width), DType::kF32) : Pair{};
      return std::array{ColumnDots{memory.poisoned(width), bias.host},
                        ColumnDots{device.poisoned(DType::kF32, width), bias.gpu}};
    };
    const auto gate_dots = pair_of_dots(of_gate), up_dots = pair_of_dots(of_up);
    swiglu_backward({gate.host, up.host, inner.host, gate_dots[0], up_dots[0]}, dy.host, gate.host,
                    up.host, cpu);
    swiglu_backward({gate.gpu, up.gpu, inner.gpu, gate_dots[1], up_dots[1]}, dy.gpu, gate.gpu,
                    up.gpu, gpu);
    expect_same(gate);
    expect_same(up);
    expect_same(inner);
    for (const auto& [host, on_gpu] : {gate_dots, up_dots}) {
      if (!host.defined()) continue;
      // Before rounding the gradients differ by the approximations of the functions alone.
      expect_near(device.to_host(on_gpu.dots, memory), host.dots, 1e-4);
    }
  }
  void expect_same(const Pair& x) {
    expect_near(device.to_host(x.gpu, memory), x.host, tolerance(dtype));
  }

  DType dtype;
  int64_t extra_columns;
  Pair gate, up, dy, y, inner, dgate, dup;
};

TEST(SwiGluCuda, AgreesWithTheCpu) {
  RW_REQUIRE_GPU();
  for (const Shape& shape : {Shape{1, 1}, Shape{3, 24}, Shape{5, 172}, Shape{65, 37},
                             Shape{130, 688}, Shape{3, 11008}}) {
    for (const DType dtype : kActivationTypes) {
      for (const int64_t extra : {0, 8, 3}) {
        SCOPED_TRACE(::testing::Message()
                     << to_string(shape) << " " << name_of(dtype) << " extra " << extra);
        Call call(shape, dtype, extra);
        call.forward();
        call.backward(call.dgate, call.dup, {});
        call.backward(call.dgate, call.dup, call.inner);
        expect_identical(call.device.to_host(call.inner.gpu, call.memory),
                         call.device.to_host(call.y.gpu, call.memory));
        call.backward(call.gate, call.up, call.inner);  // in place
      }
    }
  }
}

TEST(SwiGluCuda, BackwardWithDotsAgreesWithTheCpu) {
  RW_REQUIRE_GPU();
  for (const Shape& shape :
       {Shape{1, 1}, Shape{7, 43}, Shape{130, 172}, Shape{300, 688}, Shape{65, 1000}}) {
    for (const DType dtype : kActivationTypes) {
      for (const int64_t extra : {0, 8, 3}) {
        for (const bool biased : {false, true}) {
          SCOPED_TRACE(::testing::Message() << to_string(shape) << " " << name_of(dtype)
                                            << " extra " << extra << " biased " << biased);
          Call(shape, dtype, extra).backward_with_dots(biased, true, true);
        }
      }
    }
  }
  Call({70, 40}, DType::kBF16, 0).backward_with_dots(true, true, false);
  Call({70, 40}, DType::kBF16, 0).backward_with_dots(true, false, true);
}

TEST(SwiGluCuda, MayOverwriteItsInputs) {
  RW_REQUIRE_GPU();
  Call call({65, 40}, DType::kBF16, 0);
  call.forward();
  swiglu(call.gate.gpu, call.gate.gpu, call.up.gpu, call.gpu);
  expect_identical(call.device.to_host(call.gate.gpu, call.memory),
                   call.device.to_host(call.y.gpu, call.memory));
}

TEST(SwiGluCuda, SaturatesWithoutOverflow) {
  RW_REQUIRE_GPU();
  for (const DType dtype : kActivationTypes) {
    Call call({1, 8}, dtype, 0);
    call.gate = call.pair(
        call.memory.of<float>({1, 8}, {-1e4f, 1e4f, -128.0f, 128.0f, -88.0f, 0.0f, -96.0f, 64.0f}),
        dtype);
    call.forward();
    call.backward(call.dgate, call.dup, call.inner);
  }
}

}  // namespace
}  // namespace rankwise
