// SPDX-License-Identifier: Apache-2.0
#include "runtime/transfer.h"

#include <gtest/gtest.h>

#include <cstring>
#include <vector>

#include "runtime/arena.h"

namespace rankwise {
namespace {

TEST(Transfer, CopiesBytesBothWays) {
  Arena arena;
  Stream stream;
  const Tensor tensor = arena.allocate("test", DType::kI32, {3});
  std::vector<int32_t> values = {4, -5, 6};
  upload(tensor, values.data(), stream);
  values.assign(3, 0);
  download(values.data(), tensor, stream);
  EXPECT_EQ(values, (std::vector<int32_t>{4, -5, 6}));
  download(values.data(), tensor.rows(1, 2), stream);
  EXPECT_EQ(values, (std::vector<int32_t>{-5, -5, 6}));
}

TEST(Transfer, NothingHappensWithoutBytesOrWhenMeasuring) {
  Arena arena;
  Stream stream;
  const Tensor empty = arena.allocate("test", DType::kF32, {0});
  upload(empty, nullptr, stream);
  download(nullptr, empty, stream);
  const Device device{DeviceKind::kCuda, 7};
  Arena measured(device, Arena::Mode::kMeasure);
  Stream measuring(device, Stream::Mode::kMeasure);
  const Tensor planned = measured.allocate("test", DType::kF32, {1000});
  upload(planned, nullptr, measuring);
  download(nullptr, planned, measuring);
}

TEST(Transfer, StartedDownloadsAreDoneWhenTheStreamIs) {
  std::vector<int32_t> values = {4, -5, 6};
  Stream stream;
  const auto to = allocate_host(stream.device(), 12);
  start_download(to.get(), Tensor(values.data(), DType::kI32, {3}), stream);
  stream.synchronize();
  EXPECT_EQ(std::memcmp(to.get(), values.data(), 12), 0);
}

TEST(TransferDeathTest, StridedAndForeignTensorsAbort) {
  std::vector<float> values(24);
  const Tensor tensor(values.data(), DType::kF32, {4, 6});
  Stream stream;
  EXPECT_DEATH(upload(tensor.columns(0, 3), values.data(), stream), "is_contiguous");
  const Tensor elsewhere(values.data(), DType::kF32, {24}, {DeviceKind::kCuda, 0});
  EXPECT_DEATH(download(values.data(), elsewhere, stream), "tensor on cuda:0, stream on cpu");
}

}  // namespace
}  // namespace rankwise
