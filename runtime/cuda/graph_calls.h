// SPDX-License-Identifier: Apache-2.0
// The calls of the CUDA runtime that record and launch graphs, over plain types.
#pragma once

#include "runtime/device.h"

// What fails throws CommunicationError naming call, device and code.
namespace rankwise::cuda {

void begin_capture(Device device, void* stream);
void* end_capture(Device device, void* stream);  // cudaGraphExec_t
void abandon_capture(void* stream) noexcept;
void launch_graph(Device device, void* graph, void* stream);
void destroy_graph(void* graph) noexcept;

}  // namespace rankwise::cuda
