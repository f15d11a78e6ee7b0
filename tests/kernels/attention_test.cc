// SPDX-License-Identifier: Apache-2.0
#include "kernels/attention.h"

#include <gtest/gtest.h>
#include <omp.h>

#include <algorithm>
#include <cmath>
#include <ostream>
#include <string>
#include <vector>

#include "tests/support/kernel_harness.h"

namespace rankwise {
namespace {

using testing::expect_close;
using testing::expect_gradient;
using testing::expect_identical;
using testing::GuardedMemory;
using testing::weighted_sum;

struct Case {
  std::string name;
  std::vector<int32_t> queries;  // per document
  std::vector<int32_t> keys;
  int64_t heads;
  int64_t kv_heads;
  int64_t dim;
  int64_t window = 0;
  float spread = 1.0f;  // standard deviation of q and k
};

void PrintTo(const Case& c, std::ostream* out) { *out << c.name; }

std::vector<int32_t> offsets_of(const std::vector<int32_t>& lengths) {
  std::vector<int32_t> offsets{0};
  for (const int32_t length : lengths) offsets.push_back(offsets.back() + length);
  return offsets;
}

// Inputs and outputs of one case.
struct Call {
  explicit Call(const Case& c) : memory(7) {
    const std::vector<int32_t> query_ends = offsets_of(c.queries);
    const std::vector<int32_t> key_ends = offsets_of(c.keys);
    const auto documents = static_cast<int64_t>(c.queries.size());
    const int64_t tq = query_ends.back();
    const int64_t tk = key_ends.back();
    q = memory.normal({tq, c.heads, c.dim}, c.spread);
    k = memory.normal({tk, c.kv_heads, c.dim}, c.spread);
    v = memory.normal({tk, c.kv_heads, c.dim});
    dy = memory.normal({tq, c.heads, c.dim});
    y = memory.poisoned({tq, c.heads, c.dim});
    log_sum_exp = memory.poisoned({c.heads, tq});
    dq = memory.poisoned(q.shape());
    dk = memory.poisoned(k.shape());
    dv = memory.poisoned(v.shape());
    query_offsets = memory.of<int32_t>({documents + 1}, query_ends);
    key_offsets = memory.of<int32_t>({documents + 1}, key_ends);
    params.scale = 1.0f / std::sqrt(static_cast<float>(c.dim));
    params.window = c.window;
    params.longest_query = *std::max_element(c.queries.begin(), c.queries.end());
    params.longest_key = *std::max_element(c.keys.begin(), c.keys.end());
  }

  void forward() { attention(y, log_sum_exp, q, k, v, query_offsets, key_offsets, params, stream); }
  void backward() {
    attention_backward(dq, dk, dv, dy, q, k, v, y, log_sum_exp, query_offsets, key_offsets, params,
                       stream);
  }

  GuardedMemory memory;
  Stream stream;
  Tensor q, k, v, dy, y, log_sum_exp, dq, dk, dv, query_offsets, key_offsets;
  AttentionParams params;
};

struct Reference {
  std::vector<double> y, log_sum_exp, dq, dk, dv;
};

// Softmax attention and its gradient as the textbook has them, in double.
Reference reference(const Case& c, const Call& call) {
  const int64_t tq = call.q.dim(0);
  const auto rows = [&](const Tensor& x, int64_t t, int64_t h) {
    return x.data<float>() + (t * x.dim(1) + h) * c.dim;
  };
  Reference out;
  out.y.resize(static_cast<size_t>(call.q.numel()));
  out.dq.resize(static_cast<size_t>(call.q.numel()));
  out.dk.resize(static_cast<size_t>(call.k.numel()));
  out.dv.resize(static_cast<size_t>(call.k.numel()));
  out.log_sum_exp.resize(static_cast<size_t>(c.heads * tq));
  for (size_t d = 0; d < c.queries.size(); ++d) {
    const int64_t first_query = call.query_offsets.data<int32_t>()[d];
    const int64_t first_key = call.key_offsets.data<int32_t>()[d];
    for (int64_t h = 0; h < c.heads; ++h) {
      const int64_t g = h / (c.heads / c.kv_heads);
      for (int64_t i = 0; i < c.queries[d]; ++i) {
        const int64_t position = c.keys[d] - c.queries[d] + i;
        std::vector<double> p;
        std::vector<int64_t> seen;
        for (int64_t j = 0; j < c.keys[d]; ++j) {
          const int64_t distance = position - j;
          if (distance < 0 || (c.window > 0 && distance >= c.window)) continue;
          double score = 0.0;
          for (int64_t e = 0; e < c.dim; ++e) {
            score += static_cast<double>(rows(call.q, first_query + i, h)[e]) *
                     rows(call.k, first_key + j, g)[e];
          }
          seen.push_back(first_key + j);
          p.push_back(score * call.params.scale);
        }
        const double maximum = *std::max_element(p.begin(), p.end());
        double sum = 0.0;
        for (const double score : p) sum += std::exp(score - maximum);
        const double lse = maximum + std::log(sum);
        out.log_sum_exp[static_cast<size_t>(h * tq + first_query + i)] = lse;
        const auto row = static_cast<size_t>(((first_query + i) * c.heads + h) * c.dim);
        const float* dy = rows(call.dy, first_query + i, h);
        double delta = 0.0;
        for (size_t s = 0; s < p.size(); ++s) {
          p[s] = std::exp(p[s] - lse);
          for (int64_t e = 0; e < c.dim; ++e) {
            const double value = rows(call.v, seen[s], g)[e];
            out.y[row + static_cast<size_t>(e)] += p[s] * value;
            delta += dy[e] * p[s] * value;
          }
        }
        for (size_t s = 0; s < p.size(); ++s) {
          const auto key_row = static_cast<size_t>((seen[s] * c.kv_heads + g) * c.dim);
          double dp = 0.0;
          for (int64_t e = 0; e < c.dim; ++e) {
            dp += static_cast<double>(dy[e]) * rows(call.v, seen[s], g)[e];
            out.dv[key_row + static_cast<size_t>(e)] += p[s] * dy[e];
          }
          const double ds = p[s] * (dp - delta) * call.params.scale;
          for (int64_t e = 0; e < c.dim; ++e) {
            out.dq[row + static_cast<size_t>(e)] += ds * rows(call.k, seen[s], g)[e];
            out.dk[key_row + static_cast<size_t>(e)] += ds * rows(call.q, first_query + i, h)[e];
          }
        }
      }
    }
  }
  return out;
}

// P is the exponential of a score whose rounding error grows with the score.
double tolerance_of(const Case& c) { return 2e-6 * std::max(1.0f, c.spread * c.spread); }

class Attention : public ::testing::TestWithParam<Case> {};

TEST_P(Attention, AgreesWithDoublePrecisionReference) {
  const Case& c = GetParam();
  Call call(c);
  call.forward();
  const Reference expected = reference(c, call);
  expect_close(call.y, expected.y, tolerance_of(c), 1e-5);
  expect_close(call.log_sum_exp, expected.log_sum_exp, 2e-6, 1e-6);
}

TEST_P(Attention, BackwardAgreesWithDoublePrecisionReference) {
  const Case& c = GetParam();
  Call call(c);
  call.forward();
  call.backward();
  const Reference expected = reference(c, call);
  const double tolerance = 5.0 * tolerance_of(c);
  expect_close(call.dq, expected.dq, tolerance, 1e-5);
  expect_close(call.dk, expected.dk, tolerance, 1e-5);
  expect_close(call.dv, expected.dv, tolerance, 1e-5);
}

TEST_P(Attention, DoesNotDependOnTheThreadCount) {
  const int before = omp_get_max_threads();
  omp_set_num_threads(1);
  Call one(GetParam());
  one.forward();
  one.backward();
  omp_set_num_threads(3);
  Call three(GetParam());
  three.forward();
  three.backward();
  omp_set_num_threads(before);
  expect_identical(three.y, one.y);
  expect_identical(three.dq, one.dq);
  expect_identical(three.dk, one.dk);
  expect_identical(three.dv, one.dv);
}

INSTANTIATE_TEST_SUITE_P(
    Cases, Attention,
    ::testing::Values(
        Case{"one_token", {1}, {1}, 2, 2, 8}, Case{"three_tokens", {3}, {3}, 4, 2, 24},
        Case{"odd_length", {65}, {65}, 2, 1, 128}, Case{"head_dim_16", {70}, {70}, 3, 3, 16},
        Case{"several_panels", {300}, {300}, 2, 2, 32},
        Case{"documents", {5, 1, 40, 129}, {5, 1, 40, 129}, 4, 2, 32},
        Case{"all_heads_share_one", {33}, {33}, 8, 1, 64},
        Case{"group_of_three", {50, 7}, {50, 7}, 6, 2, 32, 11},
        Case{"window", {150}, {150}, 2, 1, 32, 20}, Case{"window_of_one", {20}, {20}, 2, 1, 8, 1},
        Case{"window_wider_than_text", {40}, {40}, 2, 1, 24, 1000},
        Case{"window_over_documents", {90, 1, 60}, {90, 1, 60}, 4, 4, 16, 37},
        Case{"decode_one", {1}, {333}, 4, 1, 64}, Case{"decode_window", {2}, {200}, 4, 2, 24, 50},
        Case{"decode_batch", {1, 1, 0, 3}, {17, 1, 4, 100}, 4, 2, 32},
        Case{"chunk_after_cache", {30}, {200}, 4, 2, 32},
        Case{"chunk_after_cache_window", {70}, {300}, 2, 1, 64, 90},
        Case{"large_scores", {70}, {70}, 2, 2, 32, 0, 6.0f}),
    [](const auto& instance) { return instance.param.name; });

TEST(AttentionGradient, BackwardMatchesFiniteDifferences) {
  const Case c{"small", {1, 21}, {1, 21}, 4, 2, 8, 6};
  Call call(c);
  call.forward();
  call.backward();
  Tensor other = call.memory.poisoned(call.y.shape());
  const auto scalar = [&] {
    attention(other, Tensor{}, call.q, call.k, call.v, call.query_offsets, call.key_offsets,
              call.params, call.stream);
    return weighted_sum(other, call.dy);
  };
  expect_gradient(call.q, call.dq, scalar);
  expect_gradient(call.k, call.dk, scalar);
  expect_gradient(call.v, call.dv, scalar);
}

TEST(AttentionGradient, IsZeroForKeysThatNoQuerySees) {
  const Case c{"cache", {5, 0}, {40, 3}, 2, 1, 16, 8};
  Call call(c);
  call.forward();
  call.backward();
  const int64_t row = 16;
  for (int64_t key : {0, 27, 40, 42}) {  // before the first window; in the document without queries
    for (int64_t e = 0; e < row; ++e) {
      EXPECT_EQ(0.0f, call.dk.data<float>()[key * row + e]) << key;
      EXPECT_EQ(0.0f, call.dv.data<float>()[key * row + e]) << key;
    }
  }
  EXPECT_NE(0.0f, call.dv.data<float>()[28 * row]);
}

TEST(AttentionForward, TenThousandfoldScoresDoNotOverflow) {
  Call call(Case{"huge", {40}, {40}, 1, 1, 8});
  for (float& x : GuardedMemory::elements(call.q)) x *= 300.0f;
  for (float& x : GuardedMemory::elements(call.k)) x *= 300.0f;
  call.forward();
  call.backward();
  for (const Tensor& x : {call.y, call.dq, call.dk, call.dv}) {
    for (const float value : GuardedMemory::elements(x)) EXPECT_TRUE(std::isfinite(value));
  }
}

TEST(AttentionForward, OneTokenCopiesItsValue) {
  Call call(Case{"copy", {1}, {1}, 2, 1, 24});
  call.forward();
  for (int64_t h = 0; h < 2; ++h) {
    for (int64_t e = 0; e < 24; ++e) {
      EXPECT_EQ(call.v.data<float>()[e], call.y.data<float>()[h * 24 + e]);
    }
  }
}

TEST(AttentionForward, DecodingRowsEqualThoseOfTheWholeDocument) {
  const Case whole_case{"whole", {150}, {150}, 4, 2, 32};
  Call whole(whole_case);
  whole.forward();
  Call last(Case{"last", {1}, {150}, 4, 2, 32});
  std::copy_n(whole.k.data<float>(), whole.k.numel(), last.k.data<float>());
  std::copy_n(whole.v.data<float>(), whole.v.numel(), last.v.data<float>());
  const int64_t row = 4 * 32;
  std::copy_n(whole.q.data<float>() + 149 * row, row, last.q.data<float>());
  last.forward();
  for (int64_t e = 0; e < row; ++e) {
    EXPECT_NEAR(whole.y.data<float>()[149 * row + e], last.y.data<float>()[e], 1e-6);
  }
}

TEST(AttentionForward, DoesNothingWhenMeasuring) {
  Stream measuring({}, Stream::Mode::kMeasure);
  const Tensor x(nullptr, DType::kF32, {4, 2, 8});
  const Tensor offsets(nullptr, DType::kI32, {2});
  attention(x, Tensor{}, x, x, x, offsets, offsets, {}, measuring);
  const Tensor lse(nullptr, DType::kF32, {2, 4});
  attention_backward(x, x, x, x, x, x, x, x, lse, offsets, offsets, {}, measuring);
}

TEST(AttentionDeathTest, RefusesHeadsThatDoNotDivide) {
  Stream stream;
  GuardedMemory memory;
  const Tensor q = memory.zeros({4, 3, 8});
  const Tensor k = memory.zeros({4, 2, 8});
  const Tensor offsets = memory.of<int32_t>({2}, {0, 4});
  EXPECT_DEATH(attention(q, {}, q, k, k, offsets, offsets, {}, stream),
               "3 query heads, 2 kv heads");
}

TEST(AttentionDeathTest, RefusesMoreQueriesThanKeys) {
  Stream stream;
  GuardedMemory memory;
  const Tensor q = memory.zeros({4, 1, 8});
  const Tensor k = memory.zeros({3, 1, 8});
  const Tensor query_offsets = memory.of<int32_t>({2}, {0, 4});
  const Tensor key_offsets = memory.of<int32_t>({2}, {0, 3});
  EXPECT_DEATH(attention(q, {}, q, k, k, query_offsets, key_offsets, {}, stream),
               "4 queries, 3 keys");
}

}  // namespace
}  // namespace rankwise
