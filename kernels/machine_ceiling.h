// SPDX-License-Identifier: Apache-2.0
// What this CPU can do at most, measured: the yardstick beside every kernel speed that is reported.
#pragma once

namespace rankwise {

struct MachineCeiling {
  int threads = 1;           // OpenMP threads of the all-thread figures
  int vector_bits = 128;     // widest float vectors this build uses
  double core_gflops = 0.0;  // fp32 multiply-adds of one thread, 2 FLOP each
  double all_gflops = 0.0;
  double core_copy_gb_per_s = 0.0;  // memory copy, bytes read plus bytes written, 1e9 per second
  double all_copy_gb_per_s = 0.0;
};

// Takes about half a second and 128 MiB of memory. Best of several rounds: other load only lowers
// what a round sees.
MachineCeiling measure_machine_ceiling();

// all_gflops alone, in a few milliseconds.
double measure_multiply_add_gflops();

}  // namespace rankwise
