// SPDX-License-Identifier: Apache-2.0
#include <functional>

#include "kernels/elementwise.h"
#include "launch/benchmarks_workbench.h"
#include "parallel/device_mesh.h"

namespace rankwise {
namespace {

// `wire`: bytes that each rank sends in one call, around a ring.
BenchmarkRow make_row(const char* name, int64_t bytes, double wire, const BenchmarkTiming& timing) {
  const bool small = bytes < int64_t{1} << 20;
  BenchmarkRow row;
  row.name = fmt::format("{} {} {}", name, bytes >> (small ? 10 : 20), small ? "KiB" : "MiB");
  row.unit = "GB/s";
  row.median = wire / timing.median_seconds * 1e-9;
  row.best = wire / timing.best_seconds * 1e-9;
  row.microseconds = timing.median_seconds * 1e6;
  return row;
}

}  // namespace

std::vector<BenchmarkRow> benchmark_allreduce(const BenchmarkShape& shape,
                                              const BenchmarkCeiling&) {
  RW_ASSERT(shape.world != nullptr, "all ranks take part");
  const int64_t n = shape.world->size();
  if (n == 1) throw ConfigError("bench allreduce: needs several ranks, as by mpirun -np 2");
  const int64_t smallest = int64_t{1} << (shape.device.is_cuda() ? 20 : 16);
  const int64_t largest = int64_t{1} << (shape.device.is_cuda() ? 29 : 24);
  const DeviceMesh mesh(*shape.world, 1, shape.device);
  Communicator& ranks = mesh.world();
  Arena arena(shape.device);
  Stream stream(shape.device);
  const Tensor whole = arena.allocate("workspace", DType::kF32, {n, largest / 4 / n});
  const Tensor part = arena.allocate("workspace", DType::kF32, {largest / 4 / n});
  fill(whole, 0.0f, stream);
  fill(part, 0.0f, stream);
  std::vector<BenchmarkRow> reduce, gather;
  for (int64_t bytes = smallest; bytes <= largest; bytes *= 2) {
    const int64_t own = bytes / 4 / n;  // elements of one rank
    const Tensor in = part.rows(0, own);
    const Tensor out = whole.reshaped({whole.numel()}).rows(0, n * own);
    const Tensor parts = out.reshaped({n, own});
    const auto wire = static_cast<double>((n - 1) * in.bytes());
    const auto time = [&](const std::function<void()>& call) {
      return time_on_all_ranks(ranks, stream, shape.seconds, call);
    };
    reduce.push_back(make_row("all-reduce", bytes, 2.0 * wire, time([&] {
                                ranks.all_reduce(out, ReduceOp::kSum, "benchmark", stream);
                              })));
    gather.push_back(make_row("all-gather", bytes, wire,
                              time([&] { ranks.all_gather(parts, in, "benchmark", stream); })));
  }
  reduce.insert(reduce.end(), gather.begin(), gather.end());
  return reduce;
}

}  // namespace rankwise
