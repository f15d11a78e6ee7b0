// SPDX-License-Identifier: Apache-2.0
// Guarded tensors on a GPU for tests: copies of host tensors in the type and row stride asked for.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <cstring>
#include <vector>

#include "runtime/arena.h"
#include "runtime/stream.h"
#include "runtime/transfer.h"
#include "tests/support/kernel_harness.h"

namespace rankwise::testing {

inline constexpr Device kGpu{DeviceKind::kCuda, 0};
inline constexpr DType kActivationTypes[] = {DType::kF32, DType::kBF16};

// x, an F32 tensor on the host, after its elements were rounded to values that `dtype` holds.
inline Tensor rounded(const Tensor& x, DType dtype) {
  if (dtype == DType::kBF16) {
    for (float& value : GuardedMemory::elements(x)) value = float_from_bf16(bf16_from_float(value));
  }
  return x;
}

// Owns tensors of one test on the device of `stream`. Guard zones before and behind each, and the
// columns between its rows when it is strided, must be untouched at the end.
class DeviceMemory {
 public:
  explicit DeviceMemory(Stream& stream) : stream_(&stream), arena_(stream.device()) {}
  DeviceMemory(const DeviceMemory&) = delete;
  DeviceMemory& operator=(const DeviceMemory&) = delete;
  ~DeviceMemory() { expect_guards_intact(); }

  // NaN everywhere. extra_columns: elements between the rows (rank 2 or more).
  Tensor poisoned(DType dtype, const Shape& shape, int64_t extra_columns = 0) {
    Block block;
    const int64_t item = shape.numel() / std::max<int64_t>(1, shape.dim(0));
    const bool strided = extra_columns > 0;
    block.row_bytes = (strided ? item : shape.numel()) * bits_of(dtype) / 8;
    block.pitch = block.row_bytes + extra_columns * bits_of(dtype) / 8;
    block.rows = strided ? shape.dim(0) : 1;
    block.memory = arena_.allocate("test", DType::kU8, {block.rows * block.pitch + 2 * kGuard});
    const std::vector<uint8_t> poison(static_cast<size_t>(block.memory.bytes()), kPoison);
    upload(block.memory, poison.data(), *stream_);
    blocks_.push_back(block);
    void* data = block.memory.data<uint8_t>() + kGuard;
    if (!strided) return Tensor(data, dtype, shape, stream_->device());
    const Tensor wide(data, dtype, {shape.dim(0), item + extra_columns}, stream_->device());
    return wide.columns(0, item).reshaped(shape);
  }

  // A host tensor (contiguous): F32 becomes `dtype` (F32 or BF16), other types stay what they are.
  Tensor copy_of(const Tensor& host, DType dtype = DType::kF32, int64_t extra_columns = 0) {
    const bool rounded = host.dtype() == DType::kF32 && dtype == DType::kBF16;
    const Tensor out = poisoned(rounded ? dtype : host.dtype(), host.shape(), extra_columns);
    std::vector<uint16_t> narrow;
    const void* from = host.raw();
    if (rounded) {
      narrow.resize(static_cast<size_t>(host.numel()));
      for (size_t i = 0; i < narrow.size(); ++i) narrow[i] = bf16_from_float(host.data<float>()[i]);
      from = narrow.data();
    }
    write_rows(out, static_cast<const uint8_t*>(from));
    return out;
  }

  // Back on the host, contiguous; BF16 widened to F32.
  Tensor to_host(const Tensor& device, GuardedMemory& memory) {
    const Tensor same_type = memory.poisoned(device.dtype(), device.shape());
    read_rows(static_cast<uint8_t*>(same_type.raw()), device);
    if (device.dtype() != DType::kBF16) return same_type;
    const Tensor out = memory.poisoned(device.shape());
    const auto* bits = static_cast<const uint16_t*>(same_type.raw());
    for (int64_t i = 0; i < out.numel(); ++i) out.data<float>()[i] = float_from_bf16(bits[i]);
    return out;
  }

  void expect_guards_intact() {
    for (const Block& block : blocks_) {
      std::vector<uint8_t> bytes(static_cast<size_t>(block.memory.bytes()));
      download(bytes.data(), block.memory, *stream_);
      const int64_t end = kGuard + block.rows * block.pitch;
      for (int64_t i = 0; i < block.memory.bytes(); ++i) {
        const bool inside = i >= kGuard && i < end && (i - kGuard) % block.pitch < block.row_bytes;
        ASSERT_TRUE(inside || bytes[static_cast<size_t>(i)] == kPoison)
            << "write outside a tensor, at byte " << i - kGuard;
      }
    }
  }

 private:
  static constexpr int64_t kGuard = 512;
  static constexpr uint8_t kPoison = 0xff;
  struct Block {
    Tensor memory;
    int64_t rows = 0, row_bytes = 0, pitch = 0;
  };

  static Tensor row_of(const Tensor& x, int64_t row) {
    const Tensor one = x.rows(row, row + 1);
    return one.reshaped({one.numel()});
  }
  void write_rows(const Tensor& out, const uint8_t* from) {
    if (out.is_contiguous()) return upload(out, from, *stream_);
    for (int64_t row = 0; row < out.dim(0); ++row) {
      const Tensor to = row_of(out, row);
      upload(to, from + row * to.bytes(), *stream_);
    }
  }
  void read_rows(uint8_t* to, const Tensor& x) {
    if (x.is_contiguous()) return download(to, x, *stream_);
    for (int64_t row = 0; row < x.dim(0); ++row) {
      const Tensor from = row_of(x, row);
      download(to + row * from.bytes(), from, *stream_);
    }
  }

  Stream* stream_;
  Arena arena_;
  std::vector<Block> blocks_;
};

// What a test needs to run an operation on both devices.
struct Backends {
  struct Pair {
    Tensor host, gpu;
  };
  // The same values on both, rounded to `dtype`.
  Pair pair(const Tensor& values, DType dtype, int64_t extra_columns = 0) {
    return {rounded(values, dtype), device.copy_of(values, dtype, extra_columns)};
  }

  GuardedMemory memory;
  Stream cpu;
  Stream gpu{kGpu};
  DeviceMemory device{gpu};
};

// |actual - expected| <= tolerance * (|expected| + largest |expected|) everywhere; tensors on the
// host, F32.
inline void expect_near(const Tensor& actual, const Tensor& expected, double tolerance) {
  ASSERT_EQ(actual.numel(), expected.numel());
  double largest = 0.0;
  for (int64_t i = 0; i < expected.numel(); ++i) {
    largest = std::max(largest, std::abs(static_cast<double>(expected.data<float>()[i])));
  }
  for (int64_t i = 0; i < expected.numel(); ++i) {
    const double a = actual.data<float>()[i];
    const double e = expected.data<float>()[i];
    ASSERT_TRUE(std::abs(a - e) <= tolerance * (std::abs(e) + largest))
        << "element " << i << " of " << to_string(expected.shape()) << ": " << a << ", expected "
        << e;
  }
}

}  // namespace rankwise::testing

// Skips visibly on a machine without a GPU.
#define RW_REQUIRE_GPU()                                        \
  do {                                                          \
    if (::rankwise::gpu_count() == 0) GTEST_SKIP() << "no GPU"; \
  } while (false)
