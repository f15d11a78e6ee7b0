// SPDX-License-Identifier: Apache-2.0
// Parameters with integer gradients, whose float sums are exact, for tests of the GradientReducer.
#pragma once

#include <gtest/gtest.h>

#include <deque>
#include <vector>

#include "parallel/gradient_reducer.h"

namespace rankwise::testing {

// Parameters of the given shapes; weights are memory of an arena, gradients come from a reducer.
class ParameterSet {
 public:
  ParameterSet(const std::vector<Shape>& shapes, Arena& arena) {
    for (size_t i = 0; i < shapes.size(); ++i) {
      Parameter parameter;
      parameter.name = fmt::format("p{}", i);
      parameter.weight = arena.allocate("weights", DType::kF32, shapes[i]);
      parameter.trainable = true;
      parameters_.push_back(std::move(parameter));
      pointers_.push_back(&parameters_.back());
    }
  }
  Parameter& operator[](size_t i) { return parameters_[i]; }
  size_t size() const { return parameters_.size(); }
  const std::vector<Parameter*>& pointers() const { return pointers_; }

 private:
  std::deque<Parameter> parameters_;  // addresses stay
  std::vector<Parameter*> pointers_;
};

// What rank r adds to element i of parameter p in micro-batch m: small integers.
inline float summand(int r, int64_t m, size_t p, int64_t i) {
  return static_cast<float>((r + 1) * 3 + m * 5 + static_cast<int64_t>(p) + i % 7);
}

inline void add_summands(Parameter& parameter, int r, int64_t m, size_t p) {
  for (int64_t i = 0; i < parameter.gradient.numel(); ++i) {
    parameter.gradient.data<float>()[i] += summand(r, m, p, i);
  }
}

// Two steps; every rank trains on 2^k tokens in total so that the division is exact too.
inline void expect_exact_gradients(Communicator& world, int64_t micro_batches,
                                   int64_t bucket_bytes) {
  Arena arena;
  Stream stream;
  const DeviceMesh mesh(world, 1);
  ParameterSet parameters({{3, 5}, {16}, {7}, {4, 16}, {1}}, arena);
  GradientReducer reducer(parameters.pointers(), mesh, arena, bucket_bytes);
  // World totals of 64 per micro-batch for 1, 2 and 4 ranks; of 48 for 3 ranks.
  const int64_t tokens = world.size() == 3 ? 16 : 64 / world.size();
  for (int step = 0; step < 2; ++step) {
    reducer.begin_step(stream);
    for (int64_t m = 0; m < micro_batches; ++m) {
      reducer.begin_micro_batch(tokens, m + 1 == micro_batches);
      for (size_t p = 0; p < parameters.size(); ++p) {
        add_summands(parameters[p], world.rank(), m, p);
        reducer.ready(parameters[p], stream);
      }
    }
    const int64_t total = reducer.finish_step(stream);
    EXPECT_EQ(total, tokens * world.size() * micro_batches);
    for (size_t p = 0; p < parameters.size(); ++p) {
      for (int64_t i = 0; i < parameters[p].gradient.numel(); ++i) {
        double sum = 0.0;
        for (int r = 0; r < world.size(); ++r) {
          for (int64_t m = 0; m < micro_batches; ++m) sum += summand(r, m, p, i);
        }
        // The sum is exact; the division rounds once.
        ASSERT_FLOAT_EQ(parameters[p].gradient.data<float>()[i],
                        static_cast<float>(sum / static_cast<double>(total)));
        if ((total & (total - 1)) == 0) {
          ASSERT_EQ(parameters[p].gradient.data<float>()[i], sum / static_cast<double>(total));
        }
      }
    }
  }
}

}  // namespace rankwise::testing
