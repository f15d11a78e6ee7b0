// SPDX-License-Identifier: Apache-2.0
#include "runtime/arena.h"

#include <gtest/gtest.h>

#include "tests/support/device_memory.h"
#include "tests/support/error_of.h"

namespace rankwise {
namespace {

constexpr Device kGpu{DeviceKind::kCuda, 0};
constexpr int64_t kMebi = int64_t{1} << 20;

Tensor bytes(Arena& arena, std::string_view purpose, int64_t count) {
  return arena.allocate(purpose, DType::kU8, Shape{count});
}

// What a step allocates, with scopes of two purposes and odd sizes.
void step(Arena& arena) {
  const auto scope = arena.scope("activations");
  for (int64_t i = 1; i <= 20; ++i) {
    const Tensor tensor = bytes(arena, "activations", i * 100'001);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(tensor.raw()) % 256, 0u);
    const auto inner = arena.scope("workspace");
    bytes(arena, "workspace", 777 * i);
  }
}

TEST(CudaArena, RepeatedStepAllocatesNoDeviceMemory) {
  RW_REQUIRE_GPU();
  Arena arena(kGpu);
  const int64_t before = device_allocation_count();
  step(arena);
  const int64_t after_first = device_allocation_count();
  EXPECT_GT(after_first, before);
  for (int i = 0; i < 3; ++i) step(arena);
  EXPECT_EQ(device_allocation_count(), after_first);
}

TEST(CudaArena, PlannedBytesAreReservedBytes) {
  RW_REQUIRE_GPU();
  Arena measured(kGpu, Arena::Mode::kMeasure);
  step(measured);
  Arena arena(kGpu);
  const int64_t before = device_allocation_count();
  for (const Arena::Usage& usage : measured.usage()) {
    arena.reserve(usage.purpose, usage.peak_bytes);
  }
  EXPECT_EQ(device_allocation_count(), before + 2);  // one per purpose
  for (int i = 0; i < 3; ++i) step(arena);
  EXPECT_EQ(device_allocation_count(), before + 2);
  EXPECT_EQ(arena.peak_bytes(), measured.peak_bytes());
}

TEST(CudaArena, ReserveMakesLaterTensorsContiguous) {
  RW_REQUIRE_GPU();
  Arena arena(kGpu);
  arena.reserve("gradients", 64 * kMebi);
  const auto* previous = static_cast<std::byte*>(bytes(arena, "gradients", 8 * kMebi).raw());
  for (int i = 1; i < 8; ++i) {
    const auto* next = static_cast<std::byte*>(bytes(arena, "gradients", 8 * kMebi).raw());
    EXPECT_EQ(next, previous + 8 * kMebi);
    previous = next;
  }
}

TEST(CudaArena, OutOfMemoryNamesWhatTheDeviceHasLeft) {
  RW_REQUIRE_GPU();
  Arena arena(kGpu);
  bytes(arena, "weights", 1000);
  const std::string message =
      testing::error_of<OutOfMemoryError>([&] { bytes(arena, "activations", int64_t{1} << 50); });
  RW_EXPECT_HAS(message, "out of memory on cuda:0: activations asks for 1125899906842624 bytes, ");
  RW_EXPECT_HAS(message, "weights 1024 bytes");
  const size_t figure = message.find("bytes, ") + 7;
  const int64_t available = std::stoll(message.substr(figure));
  EXPECT_GT(available, 0);
  EXPECT_LT(available, gpu_properties(0).memory_bytes);
  // The failure leaves nothing behind: neither in the arena nor in the driver.
  Stream stream(kGpu);
  const uint8_t value = 7;
  uint8_t back = 0;
  const Tensor tensor = bytes(arena, "activations", 1);
  upload(tensor, &value, stream);
  download(&back, tensor, stream);
  EXPECT_EQ(back, 7);
}

TEST(CudaArena, EmptyChunksGiveWayToALargerReservation) {
  RW_REQUIRE_GPU();
  Arena arena(kGpu);
  // Both at once do not fit the device; the second fits once the first, unused, is given back.
  const int64_t most = gpu_properties(0).free_bytes / 8 * 5;
  arena.reserve("activations", most);
  EXPECT_NO_THROW(arena.reserve("activations", most + 64 * kMebi));
}

}  // namespace
}  // namespace rankwise
