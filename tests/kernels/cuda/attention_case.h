// SPDX-License-Identifier: Apache-2.0
// Problems for tests of attention on a GPU: the same tensors on the host and on the device.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <ostream>
#include <string>
#include <vector>

#include "kernels/attention.h"
#include "kernels/attention_arguments.h"
#include "tests/support/device_memory.h"

namespace rankwise::testing {

struct AttentionCase {
  std::string name;
  std::vector<int32_t> queries;  // per document
  std::vector<int32_t> keys;     // empty: as queries
  int64_t heads;
  int64_t kv_heads;
  int64_t dim;
  int64_t window = 0;
  DType dtype = DType::kF32;
  int64_t extra_columns = 0;
  bool deterministic = false;
};

inline void PrintTo(const AttentionCase& c, std::ostream* out) { *out << c.name; }

inline std::vector<int32_t> offsets_of(const std::vector<int32_t>& lengths) {
  std::vector<int32_t> offsets{0};
  for (const int32_t length : lengths) offsets.push_back(offsets.back() + length);
  return offsets;
}

// All tensors of both passes, on one device.
struct AttentionTensors {
  Tensor q, k, v, dy, y, log_sum_exp, dq, dk, dv, query_offsets, key_offsets;
  AttentionParams params;

  AttentionInputs inputs() const { return {q, k, v, query_offsets, key_offsets, params}; }
  AttentionGradients gradients() const { return {dq, dk, dv}; }
  AttentionOutputs outputs() const { return {dy, y, log_sum_exp}; }

  void forward(Stream& stream) const {
    attention(y, log_sum_exp, q, k, v, query_offsets, key_offsets, params, stream);
  }
  void backward(Stream& stream) const {
    attention_backward(dq, dk, dv, dy, q, k, v, y, log_sum_exp, query_offsets, key_offsets, params,
                       stream);
  }
};

inline AttentionTensors host_tensors(const AttentionCase& c, GuardedMemory& memory) {
  const std::vector<int32_t>& keys = c.keys.empty() ? c.queries : c.keys;
  const std::vector<int32_t> query_ends = offsets_of(c.queries);
  const std::vector<int32_t> key_ends = offsets_of(keys);
  const auto documents = static_cast<int64_t>(c.queries.size());
  const Shape of_queries{query_ends.back(), c.heads, c.dim};
  const Shape of_keys{key_ends.back(), c.kv_heads, c.dim};
  AttentionTensors t;
  t.q = memory.normal(of_queries);
  t.k = memory.normal(of_keys);
  t.v = memory.normal(of_keys);
  t.dy = memory.normal(of_queries);
  for (const Tensor& x : {t.q, t.k, t.v, t.dy}) rounded(x, c.dtype);
  t.y = memory.poisoned(of_queries);
  t.log_sum_exp = memory.poisoned({c.heads, t.q.dim(0)});
  t.dq = memory.poisoned(of_queries);
  t.dk = memory.poisoned(of_keys);
  t.dv = memory.poisoned(of_keys);
  t.query_offsets = memory.of<int32_t>({documents + 1}, query_ends);
  t.key_offsets = memory.of<int32_t>({documents + 1}, key_ends);
  t.params = {.scale = 1.0f / std::sqrt(static_cast<float>(c.dim)),
              .window = c.window,
              .longest_query = *std::max_element(c.queries.begin(), c.queries.end()),
              .longest_key = *std::max_element(keys.begin(), keys.end()),
              .deterministic = c.deterministic};
  return t;
}

// Every tensor has another row stride when there are extra columns; in BF16 a gradient has that of
// its tensor, as cuDNN demands of packed documents.
inline AttentionTensors device_tensors(const AttentionTensors& host, const AttentionCase& c,
                                       DeviceMemory& memory) {
  const int64_t extra = c.extra_columns;
  AttentionTensors t;
  t.q = memory.copy_of(host.q, c.dtype, extra);
  t.k = memory.copy_of(host.k, c.dtype, 2 * extra);
  t.v = memory.copy_of(host.v, c.dtype, 3 * extra);
  const int64_t more = c.dtype == DType::kBF16 ? 0 : extra;
  t.dy = memory.copy_of(host.dy, c.dtype, 4 * extra + more);
  t.y = memory.poisoned(c.dtype, host.y.shape(), 4 * extra);
  t.log_sum_exp = memory.poisoned(DType::kF32, host.log_sum_exp.shape());
  t.dq = memory.poisoned(c.dtype, host.dq.shape(), extra + more);
  t.dk = memory.poisoned(c.dtype, host.dk.shape(), 2 * extra + more);
  t.dv = memory.poisoned(c.dtype, host.dv.shape(), 3 * extra + more);
  t.query_offsets = memory.copy_of(host.query_offsets);
  t.key_offsets = memory.copy_of(host.key_offsets);
  t.params = host.params;
  return t;
}

inline double tolerance_of(const AttentionCase& c) { return c.dtype == DType::kF32 ? 3e-5 : 2e-2; }

// Errors are measured against the largest of all gradients: of a query that sees one key, dq and dk
// are zero but for rounding.
inline void expect_gradients_near(const AttentionTensors& actual, const AttentionTensors& expected,
                                  double tolerance, DeviceMemory& device, GuardedMemory& memory) {
  double largest = 0.0;
  for (const Tensor& x : {expected.dq, expected.dk, expected.dv}) {
    for (const float e : GuardedMemory::elements(x))
      largest = std::max<double>(largest, std::abs(e));
  }
  const auto expect = [&](const char* name, const Tensor& on_device, const Tensor& wanted) {
    const Tensor got = device.to_host(on_device, memory);
    for (int64_t i = 0; i < wanted.numel(); ++i) {
      const double a = got.data<float>()[i];
      const double e = wanted.data<float>()[i];
      ASSERT_TRUE(std::abs(a - e) <= tolerance * largest)
          << name << " element " << i << ": " << a << ", expected " << e;
    }
  };
  expect("dq", actual.dq, expected.dq);
  expect("dk", actual.dk, expected.dk);
  expect("dv", actual.dv, expected.dv);
}

}  // namespace rankwise::testing
