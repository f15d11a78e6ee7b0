// SPDX-License-Identifier: Apache-2.0
// Benchmark counters that put a kernel's speed beside the measured ceiling of this machine. Rates
// are per CPU second of the calling thread, which other load disturbs least; OpenMP workers run
// beside it.
#pragma once

#include <benchmark/benchmark.h>
#include <fmt/format.h>

#include "kernels/machine_ceiling.h"

namespace rankwise::bench {

inline const MachineCeiling& ceiling() {
  static const MachineCeiling measured = measure_machine_ceiling();
  return measured;
}

// Counters "GFLOP" per second and "peak" (1.0: all multiply-add units of all threads busy in every
// cycle).
inline void count_flops(benchmark::State& state, double flops_per_iteration) {
  using benchmark::Counter;
  const double giga = flops_per_iteration * 1e-9;
  state.counters["GFLOP"] = Counter(giga, Counter::kIsIterationInvariantRate);
  state.counters["peak"] = Counter(giga / ceiling().all_gflops, Counter::kIsIterationInvariantRate);
}

// Counters "GB" per second (bytes read plus written) and "copy" (1.0: the speed of a large memory
// copy; data that stays in cache can exceed it).
inline void count_bytes(benchmark::State& state, double bytes_per_iteration) {
  using benchmark::Counter;
  const double giga = bytes_per_iteration * 1e-9;
  state.counters["GB"] = Counter(giga, Counter::kIsIterationInvariantRate);
  state.counters["copy"] =
      Counter(giga / ceiling().all_copy_gb_per_s, Counter::kIsIterationInvariantRate);
}

// main() of a benchmark program: the ceiling becomes part of the report's context.
inline int run(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  const MachineCeiling& c = ceiling();
  benchmark::AddCustomContext(
      "ceiling", fmt::format("{} thread(s), {}-bit vectors: {:.1f} GFLOP/s (one core {:.1f}), copy "
                             "{:.1f} GB/s (one core {:.1f})",
                             c.threads, c.vector_bits, c.all_gflops, c.core_gflops,
                             c.all_copy_gb_per_s, c.core_copy_gb_per_s));
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
  return 0;
}

}  // namespace rankwise::bench
