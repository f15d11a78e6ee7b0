// SPDX-License-Identifier: Apache-2.0
// Gradients with chosen singular values, how much of a gradient a basis holds, and two ranks that
// refresh one.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <barrier>
#include <functional>
#include <thread>

#include "kernels/matmul.h"
#include "kernels/orthonormalize.h"
#include "tests/support/kernel_harness.h"

namespace rankwise::testing {

inline constexpr BasisSide kSides[] = {BasisSide::kLeft, BasisSide::kRight};

inline Shape shape_of_basis(const Shape& gradient, BasisSide side, int64_t rank) {
  return side == BasisSide::kLeft ? Shape{gradient.dim(0), rank} : Shape{rank, gradient.dim(1)};
}

inline Tensor transposed(const Tensor& x, GuardedMemory& memory) {
  const Tensor out = memory.poisoned({x.dim(1), x.dim(0)});
  for (int64_t i = 0; i < x.numel(); ++i) {
    out.data<float>()[i % x.dim(1) * x.dim(0) + i / x.dim(1)] = x.data<float>()[i];
  }
  return out;
}

// U diag(value(0), value(1), ...) V^T; U and V are the same for all calls, up to `drift` (the size
// of a random change), which differs from call to call.
inline Tensor with_singular_values(const Shape& shape, const std::function<double(int64_t)>& value,
                                   GuardedMemory& memory, double drift = 0.0) {
  const int64_t k = std::min(shape.dim(0), shape.dim(1));
  Stream stream;
  GuardedMemory fixed(99);
  const auto factor = [&](int64_t length) {
    const Tensor out = fixed.normal({length, k}), change = memory.normal({length, k});
    for (int64_t i = 0; i < out.numel(); ++i) {
      out.data<float>()[i] += static_cast<float>(drift) * change.data<float>()[i];
    }
    const Tensor failed = fixed.zeros({1});
    orthonormalize(out, BasisSide::kLeft, failed, {}, stream);
    EXPECT_EQ(*failed.data<float>(), 0.0f);
    return out;
  };
  const Tensor u = factor(shape.dim(0)), v = factor(shape.dim(1));
  for (int64_t i = 0; i < u.numel(); ++i) {
    u.data<float>()[i] *= static_cast<float>(value(i % k));
  }
  const Tensor g = memory.poisoned(shape);
  matmul(g, u, v, {.transpose_b = true}, stream);
  return g;
}

inline void expect_orthonormal(const Tensor& basis, BasisSide side, double tolerance) {
  const bool left = side == BasisSide::kLeft;
  const int64_t rank = basis.dim(left ? 1 : 0), length = basis.dim(left ? 0 : 1);
  const auto* x = basis.data<float>();
  const int64_t next = left ? 1 : length, along = left ? rank : 1;
  for (int64_t i = 0; i < rank; ++i) {
    for (int64_t j = 0; j <= i; ++j) {
      double sum = 0.0;
      for (int64_t k = 0; k < length; ++k) {
        sum += static_cast<double>(x[i * next + k * along]) * x[j * next + k * along];
      }
      ASSERT_NEAR(sum, i == j ? 1.0 : 0.0, tolerance) << i << ", " << j;
    }
  }
}

// ||basis^T g||_F^2, for the right side ||g basis^T||_F^2; tensors on the host.
inline double captured_energy(const Tensor& basis, BasisSide side, const Tensor& g) {
  GuardedMemory memory;
  Stream stream;
  const bool left = side == BasisSide::kLeft;
  const Tensor r =
      memory.poisoned(left ? Shape{basis.dim(1), g.dim(1)} : Shape{g.dim(0), basis.dim(0)});
  matmul(r, left ? basis : g, left ? g : basis, {.transpose_a = left, .transpose_b = !left},
         stream);
  return weighted_sum(r, r);
}

// body(rank, sum) on two threads; sum adds the tensors of both up, on both.
inline void on_two_ranks(const std::function<void(int, const RankSum&)>& body) {
  std::barrier<> both(2);
  std::array<std::vector<float>, 2> summands;
  const auto run = [&](int rank) {
    body(rank, [&, rank](const Tensor& x) {
      const auto own = GuardedMemory::elements(x);
      summands[rank].assign(own.begin(), own.end());
      both.arrive_and_wait();
      std::ranges::transform(own, summands[1 - rank], own.begin(), std::plus());
      both.arrive_and_wait();
    });
  };
  std::thread other(run, 1);
  run(0);
  other.join();
}

}  // namespace rankwise::testing
