// SPDX-License-Identifier: Apache-2.0
// The calls of the CUDA runtime that this layer needs, over plain types.
#pragma once

#include <cstdint>

#include "runtime/device.h"

// What fails throws CommunicationError naming call, device and code, unless said otherwise;
// OutOfMemoryError when the code says that memory did not suffice.
// Streams and events are cudaStream_t and cudaEvent_t.
namespace rankwise::cuda {

int device_count();  // 0 when the driver is missing or refuses
GpuProperties device_properties(int index);
void make_current(Device device);  // for the calling thread

// Memory of the device, 256-byte aligned; null when it does not suffice.
void* allocate(Device device, int64_t bytes);
void release(Device device, void* memory) noexcept;  // waits for the device
int64_t allocation_count();                          // calls of allocate() that gave memory
int64_t available_bytes(Device device);

// Page-locked host memory; null when it does not suffice.
void* allocate_pinned(Device device, int64_t bytes);
void release_pinned(void* memory) noexcept;

void* create_stream(Device device, bool high_priority);
void destroy_stream(void* stream) noexcept;
void synchronize_stream(Device device, void* stream);

// Both are ordered in the stream. Pinned host memory must stay as it is until the copy has run;
// other host memory is read, or written, before the call returns.
void copy_to_device(Device device, void* to, const void* from, int64_t bytes, void* stream);
void copy_to_host(Device device, void* to, const void* from, int64_t bytes, void* stream);

void* create_event(Device device);
void destroy_event(void* event) noexcept;
void record_event(Device device, void* event, void* stream);
void hold_back_stream(Device device, void* event, void* stream);
void wait_for_event(Device device, void* event);
double seconds_between_events(Device device, void* begin, void* end);

void begin_capture(Device device, void* stream);
void* end_capture(Device device, void* stream);  // cudaGraphExec_t
void abandon_capture(void* stream) noexcept;
void launch_graph(Device device, void* graph, void* stream);
void destroy_graph(void* graph) noexcept;

}  // namespace rankwise::cuda
