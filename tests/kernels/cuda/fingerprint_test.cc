// SPDX-License-Identifier: Apache-2.0
// Hashes made on a GPU are those of the CPU, bit by bit.
#include "kernels/fingerprint.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "tests/support/device_memory.h"

namespace rankwise {
namespace {

using testing::expect_identical;

TEST(CudaFingerprint, IsThatOfTheCpuForAnyTypeSizeAndAddress) {
  RW_REQUIRE_GPU();
  testing::Backends bench;
  std::vector<Tensor> on_cpu, on_gpu;
  for (int copy = 0; copy < 9; ++copy) {  // more than one launch takes
    for (const int64_t n : {0, 1, 5, 1023, 16384, 100001}) {
      const Tensor numbers = bench.memory.normal({n + 1});
      const auto bytes_of = [&](DType dtype, const Tensor& from) {
        return Tensor(from.raw(), dtype, {from.bytes() * 8 / bits_of(dtype)}, from.device());
      };
      const Tensor copied = bench.device.copy_of(numbers);
      for (const DType dtype : {DType::kU8, DType::kBF16, DType::kF32}) {
        const int64_t all = numbers.bytes() * 8 / bits_of(dtype);
        const int64_t first = std::min<int64_t>(copy % 3, all);  // so that some addresses are odd
        on_cpu.push_back(bytes_of(dtype, numbers).rows(first, all));
        on_gpu.push_back(bytes_of(dtype, copied).rows(first, all));
      }
    }
  }
  const auto n = static_cast<int64_t>(on_cpu.size());
  EXPECT_GT(n, 104);
  const Tensor expected = bench.memory.poisoned(DType::kI64, {n});
  fingerprint(expected, on_cpu, bench.cpu);
  const Tensor hashes = bench.device.poisoned(DType::kI64, {n});
  fingerprint(hashes, on_gpu, bench.gpu);
  expect_identical(bench.device.to_host(hashes, bench.memory), expected);
}

}  // namespace
}  // namespace rankwise
