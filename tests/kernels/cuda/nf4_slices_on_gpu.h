// SPDX-License-Identifier: Apache-2.0
// Slices of NF4 matrices on a GPU, beside the same on the CPU.
#pragma once

#include "kernels/matmul.h"
#include "tests/kernels/nf4_slices.h"
#include "tests/support/device_memory.h"

namespace rankwise::testing {

inline QuantizedTensor on_gpu(QuantizedTensor q, DeviceMemory& device) {
  for (Tensor* part : {&q.codes, &q.absmax, &q.nested_absmax, &q.nested_map}) {
    if (part->defined()) *part = device.copy_of(*part);
  }
  return q;
}

// Runs test(whole, slice, gpu, device) for every slice of every shape, single and double.
template <class Test>
void for_each_slice(const Test& test) {
  Stream gpu(kGpu);
  set_matmul_tuning(gpu, false);
  for (const Shape& shape : kSlicedShapes) {
    for (const bool double_quant : {false, true}) {
      WholeNf4 whole(shape, double_quant);
      for (const MatrixSlice& slice : slices_of(shape)) {
        SCOPED_TRACE(description_of(slice) + (double_quant ? " double" : " single"));
        DeviceMemory device(gpu);
        test(whole, slice, gpu, device);
      }
    }
  }
}

}  // namespace rankwise::testing
