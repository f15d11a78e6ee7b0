// SPDX-License-Identifier: Apache-2.0
#include "runtime/transfer.h"

#include <gtest/gtest.h>

#include <cstring>
#include <vector>

#include "tests/support/device_memory.h"

namespace rankwise {
namespace {

constexpr Device kGpu{DeviceKind::kCuda, 0};
constexpr int64_t kMebi = int64_t{1} << 20;

std::vector<uint8_t> pattern(int64_t bytes, uint64_t seed) {
  std::vector<uint8_t> values(static_cast<size_t>(bytes));
  for (size_t i = 0; i < values.size(); ++i) {
    values[i] = static_cast<uint8_t>((i * 2654435761u + seed * 97) >> 13);
  }
  return values;
}

TEST(CudaTransfer, RoundTripsOfAllSizesKeepTheBytes) {
  RW_REQUIRE_GPU();
  Stream stream(kGpu);
  testing::DeviceMemory memory(stream);
  for (const int64_t size : {int64_t{1}, int64_t{255}, int64_t{257}, 4 * kMebi - 1, 4 * kMebi,
                             4 * kMebi + 1, 37 * kMebi + 3}) {
    const std::vector<uint8_t> sent = pattern(size, static_cast<uint64_t>(size));
    const Tensor tensor = memory.poisoned(DType::kU8, {size});
    upload(tensor, sent.data(), stream);
    std::vector<uint8_t> got(sent.size());
    download(got.data(), tensor, stream);
    EXPECT_TRUE(got == sent) << size << " bytes";
  }
}

// More bytes than the ring holds, in pieces that do not divide a buffer; the source is overwritten
// as soon as each call returns.
TEST(CudaTransfer, SourceMayBeReusedAtOnce) {
  RW_REQUIRE_GPU();
  constexpr int64_t kCount = 700;
  constexpr int64_t kBytes = 50'003;
  Stream stream(kGpu);
  Arena arena(kGpu);
  const Tensor all = arena.allocate("test", DType::kU8, {kCount * kBytes});
  std::vector<uint8_t> source;
  for (int64_t i = 0; i < kCount; ++i) {
    source = pattern(kBytes, static_cast<uint64_t>(i));
    upload(all.rows(i * kBytes, (i + 1) * kBytes), source.data(), stream);
    std::fill(source.begin(), source.end(), uint8_t{0xee});
  }
  std::vector<uint8_t> got(static_cast<size_t>(all.bytes()));
  download(got.data(), all, stream);
  for (int64_t i = 0; i < kCount; ++i) {
    const std::vector<uint8_t> sent = pattern(kBytes, static_cast<uint64_t>(i));
    ASSERT_TRUE(std::equal(sent.begin(), sent.end(), got.begin() + i * kBytes)) << "piece " << i;
  }
}

TEST(CudaTransfer, CopiesAreOrderedInTheStream) {
  RW_REQUIRE_GPU();
  Stream stream(kGpu);
  Arena arena(kGpu);
  const Tensor tensor = arena.allocate("test", DType::kI32, {1});
  for (int32_t i = 0; i < 1000; ++i) upload(tensor, &i, stream);
  int32_t last = -1;
  download(&last, tensor, stream);
  EXPECT_EQ(last, 999);
}

TEST(CudaTransfer, StartedDownloadsHoldWhatTheStreamHadThen) {
  RW_REQUIRE_GPU();
  constexpr int64_t kBytes = 64 * kMebi;
  Stream stream(kGpu);
  testing::DeviceMemory memory(stream);
  const Tensor tensor = memory.poisoned(DType::kU8, {kBytes});
  const std::vector<uint8_t> first = pattern(kBytes, 1), second = pattern(kBytes, 2);
  const auto got = allocate_host(kGpu, kBytes);
  upload(tensor, first.data(), stream);
  start_download(got.get(), tensor, stream);
  upload(tensor, second.data(), stream);
  stream.synchronize();
  EXPECT_EQ(std::memcmp(got.get(), first.data(), first.size()), 0);
}

TEST(CudaTransfer, EmptyTensorsAreAllowed) {
  RW_REQUIRE_GPU();
  Stream stream(kGpu);
  Arena arena(kGpu);
  const Tensor empty = arena.allocate("test", DType::kF32, {0});
  EXPECT_NO_THROW(upload(empty, nullptr, stream));
  EXPECT_NO_THROW(download(nullptr, empty, stream));
}

TEST(CudaTransfer, TransfersMakeNoDeviceAllocations) {
  RW_REQUIRE_GPU();
  Stream stream(kGpu);
  Arena arena(kGpu);
  const Tensor tensor = arena.allocate("test", DType::kU8, {9 * kMebi});
  const std::vector<uint8_t> values = pattern(tensor.bytes(), 1);
  const int64_t before = device_allocation_count();
  for (int i = 0; i < 5; ++i) upload(tensor, values.data(), stream);
  stream.synchronize();
  EXPECT_EQ(device_allocation_count(), before);
}

}  // namespace
}  // namespace rankwise
