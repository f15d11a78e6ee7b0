// SPDX-License-Identifier: Apache-2.0
#include "runtime/arena.h"

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cstring>
#include <fstream>

#include "tests/support/error_of.h"

namespace rankwise {
namespace {

constexpr int64_t kMebi = int64_t{1} << 20;

void fill(const Tensor& tensor, int value) {
  std::memset(tensor.raw(), value, static_cast<size_t>(tensor.bytes()));
}

Tensor bytes(Arena& arena, std::string_view purpose, int64_t count) {
  return arena.allocate(purpose, DType::kU8, Shape{count});
}

TEST(Arena, TensorsAreAlignedAndDisjoint) {
  Arena arena;
  std::vector<Tensor> tensors;
  for (const int64_t size : {int64_t{1}, int64_t{63}, int64_t{64}, int64_t{65}, 5 * kMebi,
                             int64_t{7}, 600 * kMebi, int64_t{0}, int64_t{9}}) {
    tensors.push_back(bytes(arena, "weights", size));
    EXPECT_EQ(reinterpret_cast<uintptr_t>(tensors.back().raw()) % Arena::kAlignment, 0u);
    if (size < 100 * kMebi) fill(tensors.back(), static_cast<int>(tensors.size()));
  }
  for (size_t i = 0; i < tensors.size(); ++i) {
    if (tensors[i].numel() == 0 || tensors[i].numel() > 100 * kMebi) continue;
    EXPECT_EQ(tensors[i].data<uint8_t>()[tensors[i].numel() - 1], i + 1);
    EXPECT_EQ(tensors[i].data<uint8_t>()[0], i + 1);
  }
}

TEST(Arena, ScopeEndGivesMemoryBackForReuse) {
  Arena arena;
  const Tensor kept = bytes(arena, "activations", 100);
  fill(kept, 7);
  std::vector<void*> first;
  for (int pass = 0; pass < 3; ++pass) {
    const auto scope = arena.scope("activations");
    std::vector<void*> addresses;
    for (const int64_t size : {kMebi, 9 * kMebi, int64_t{10}, 30 * kMebi, 3 * kMebi}) {
      addresses.push_back(bytes(arena, "activations", size).raw());
    }
    if (pass == 0) first = addresses;
    EXPECT_EQ(addresses, first);  // the same chunks again, in the same order
  }
  EXPECT_EQ(arena.current_bytes(), 128);
  EXPECT_EQ(kept.data<uint8_t>()[99], 7);
}

TEST(Arena, ScopesNestAndPurposesAreIndependent) {
  Arena arena;
  const auto outer = arena.scope("activations");
  bytes(arena, "activations", 64);
  {
    const auto inner = arena.scope("activations");
    bytes(arena, "activations", 5 * kMebi);
    bytes(arena, "weights", 64);
    EXPECT_EQ(arena.current_bytes(), 5 * kMebi + 128);
  }
  EXPECT_EQ(arena.current_bytes(), 128);
  EXPECT_EQ(arena.peak_bytes(), 5 * kMebi + 128);
}

TEST(Arena, MovedScopeEndsOnce) {
  Arena arena;
  {
    auto scope = arena.scope("a");
    bytes(arena, "a", 64);
    const auto moved = std::move(scope);
    EXPECT_EQ(arena.current_bytes(), 64);
  }
  EXPECT_EQ(arena.current_bytes(), 0);
}

TEST(Arena, ReserveMakesLaterTensorsContiguous) {
  Arena arena;
  bytes(arena, "gradients", 3 * kMebi);
  arena.reserve("gradients", 64 * kMebi);
  EXPECT_EQ(arena.current_bytes(), 3 * kMebi);
  const auto* previous = static_cast<std::byte*>(bytes(arena, "gradients", 8 * kMebi).raw());
  for (int i = 1; i < 8; ++i) {
    const auto* next = static_cast<std::byte*>(bytes(arena, "gradients", 8 * kMebi).raw());
    EXPECT_EQ(next, previous + 8 * kMebi);
    previous = next;
  }
}

// A walk with growth, scopes and odd sizes, as a model makes it.
void walk(Arena& arena) {
  arena.reserve("weights", 10 * kMebi);
  bytes(arena, "weights", 10 * kMebi - 1);
  bytes(arena, "weights", 1);
  bytes(arena, "weights", 0);
  for (int step = 0; step < 3; ++step) {
    const auto scope = arena.scope("activations");
    for (int64_t i = 1; i <= 20; ++i) {
      bytes(arena, "activations", i * 50'001);
      const auto inner = arena.scope("scratch");
      bytes(arena, "scratch", 777 * i);
    }
  }
}

TEST(Arena, MeasuringGivesTheFiguresOfARealRun) {
  Arena real;
  Arena measured({}, Arena::Mode::kMeasure);
  walk(real);
  walk(measured);
  EXPECT_EQ(measured.peak_bytes(), real.peak_bytes());
  EXPECT_EQ(measured.current_bytes(), real.current_bytes());
  const auto expected = real.usage();
  const auto actual = measured.usage();
  ASSERT_EQ(actual.size(), expected.size());
  for (size_t i = 0; i < actual.size(); ++i) {
    EXPECT_EQ(actual[i].purpose, expected[i].purpose);
    EXPECT_EQ(actual[i].peak_bytes, expected[i].peak_bytes);
    EXPECT_EQ(actual[i].current_bytes, expected[i].current_bytes);
  }
  EXPECT_EQ(expected[0].purpose, "activations");
  EXPECT_EQ(expected[2].peak_bytes, 15'552);  // 777 * 20, aligned
  const Tensor tensor = measured.allocate("x", DType::kF32, Shape{int64_t{1} << 45});
  EXPECT_EQ(tensor.raw(), nullptr);
}

TEST(Arena, OutOfMemoryNamesPurposeBytesAndOwners) {
  Arena arena;
  bytes(arena, "weights", 1000);
  bytes(arena, "adapters", 100);
  const std::string message =
      testing::error_of<OutOfMemoryError>([&] { bytes(arena, "activations", int64_t{1} << 50); });
  RW_EXPECT_HAS(message, "activations asks for 1125899906842624 bytes");
  RW_EXPECT_HAS(message, "weights 1024 bytes, adapters 128 bytes");
  testing::error_of<OutOfMemoryError>([&] { arena.reserve("optimizer", int64_t{1} << 50); });
  EXPECT_EQ(arena.current_bytes(), 1152);
  fill(bytes(arena, "activations", 100), 1);  // still usable
}

// A failure gives empty chunks back before it is told; the scopes around it must still end well.
TEST(Arena, ScopesEndWellAfterAFailedReserve) {
  Arena arena;
  const Tensor kept = bytes(arena, "a", 100);
  fill(kept, 5);
  for (int pass = 0; pass < 2; ++pass) {
    const auto scope = arena.scope("a");
    fill(bytes(arena, "a", 3 * kMebi), 1);
    arena.reserve("a", 32 * kMebi);  // an empty chunk behind a used one
    testing::error_of<OutOfMemoryError>([&] { arena.reserve("a", int64_t{1} << 50); });
    testing::error_of<OutOfMemoryError>([&] { bytes(arena, "a", int64_t{1} << 50); });
    fill(bytes(arena, "a", 8 * kMebi), 2);
  }
  EXPECT_EQ(arena.current_bytes(), 128);
  EXPECT_EQ(kept.data<uint8_t>()[99], 5);
  fill(bytes(arena, "a", kMebi), 3);
}

#ifndef RANKWISE_SANITIZE  // the sanitizers need more address space than any limit leaves
TEST(Arena, EmptyChunksGiveWayToALargerReservation) {
  int64_t pages = 0;
  std::ifstream("/proc/self/statm") >> pages;
  rlimit before{};
  getrlimit(RLIMIT_AS, &before);
  constexpr int64_t kGibi = int64_t{1} << 30;
  const auto room = static_cast<rlim_t>(pages * sysconf(_SC_PAGESIZE) + 3 * kGibi);
  const rlimit limit{room, before.rlim_max};
  setrlimit(RLIMIT_AS, &limit);
  Arena arena;
  arena.reserve("activations", 2 * kGibi);  // no two of this size fit
  EXPECT_NO_THROW(arena.reserve("activations", 2 * kGibi + (64 << 20)));
  EXPECT_THROW(arena.reserve("activations", 4 * kGibi), OutOfMemoryError);
  setrlimit(RLIMIT_AS, &before);
}
#endif

TEST(Arena, MeasuringNeedsNoDevice) {
  const Device device{DeviceKind::kCuda, 7};
  Arena arena(device, Arena::Mode::kMeasure);
  EXPECT_EQ(bytes(arena, "weights", 100).device(), device);
  bytes(arena, "weights", 257);
  EXPECT_EQ(arena.peak_bytes(), 256 + 512);  // aligned as on that device
}

TEST(ArenaDeathTest, ScopesEndingOutOfOrderAbort) {
  EXPECT_DEATH(
      {
        Arena arena;
        auto outer = std::make_unique<Arena::Scope>(arena.scope("a"));
        bytes(arena, "a", 64);
        const auto inner = arena.scope("a");
        outer.reset();
      },
      "ended out of order");
}

#ifdef RANKWISE_SANITIZE
TEST(ArenaDeathTest, UseAfterScopeIsReported) {
  Arena arena;
  Tensor stale;
  {
    const auto scope = arena.scope("a");
    stale = bytes(arena, "a", 100);
    fill(stale, 1);
  }
  EXPECT_DEATH(fill(stale, 1), "use-after-poison");
}

TEST(ArenaDeathTest, WritingBehindATensorIsReported) {
  Arena arena;
  const Tensor tensor = bytes(arena, "a", 100);
  EXPECT_DEATH(tensor.data<uint8_t>()[100] = 1, "use-after-poison");
}
#endif

}  // namespace
}  // namespace rankwise
