// SPDX-License-Identifier: Apache-2.0
#include <cuda_runtime.h>

#include <atomic>

#include "runtime/cuda/runtime_calls.h"
#include "runtime/errors.h"

namespace rankwise::cuda {
namespace {

std::atomic<int64_t> g_allocation_count{0};

void check(cudaError_t status, const char* call, Device device) {
  if (status == cudaSuccess) return;
  cudaGetLastError();  // told here: the next check of a launch must not find it again
  const std::string message =
      fmt::format("{} on {} failed: {} ({}, code {})", call, to_string(device),
                  cudaGetErrorString(status), cudaGetErrorName(status), static_cast<int>(status));
  if (status == cudaErrorMemoryAllocation) throw OutOfMemoryError(message);
  throw CommunicationError(message);
}

// Whether there was memory; every other failure throws.
bool got_memory(cudaError_t status, const char* call, Device device) {
  if (status == cudaErrorMemoryAllocation) {
    cudaGetLastError();
    return false;
  }
  check(status, call, device);
  return true;
}

cudaStream_t native_stream(void* stream) { return static_cast<cudaStream_t>(stream); }
cudaEvent_t native_event(void* event) { return static_cast<cudaEvent_t>(event); }

std::string text_of(const cudaUUID_t& uuid) {
  std::string text;
  for (const char byte : uuid.bytes) text += fmt::format("{:02x}", static_cast<uint8_t>(byte));
  return text;
}

}  // namespace

void make_current(Device device) { check(cudaSetDevice(device.index), "cudaSetDevice", device); }

int device_count() {
  int count = 0;
  if (cudaGetDeviceCount(&count) == cudaSuccess) return count;
  cudaGetLastError();
  return 0;
}

GpuProperties device_properties(int index) {
  const Device device{DeviceKind::kCuda, index};
  cudaDeviceProp driver{};
  check(cudaGetDeviceProperties(&driver, index), "cudaGetDeviceProperties", device);
  int current = 0;
  check(cudaGetDevice(&current), "cudaGetDevice", device);
  GpuProperties result;
  result.free_bytes = available_bytes(device);
  make_current({DeviceKind::kCuda, current});
  result.name = driver.name;
  result.uuid = text_of(driver.uuid);
  result.compute_major = driver.major;
  result.compute_minor = driver.minor;
  result.multiprocessors = driver.multiProcessorCount;
  result.memory_bytes = static_cast<int64_t>(driver.totalGlobalMem);
  result.l2_bytes = driver.l2CacheSize;
  return result;
}

void* allocate(Device device, int64_t bytes) {
  make_current(device);
  void* memory = nullptr;
  const cudaError_t status = cudaMalloc(&memory, static_cast<size_t>(bytes));
  if (!got_memory(status, "cudaMalloc", device)) return nullptr;
  ++g_allocation_count;
  return memory;
}

void release(Device device, void* memory) noexcept {
  if (memory == nullptr) return;
  static_cast<void>(cudaSetDevice(device.index));
  static_cast<void>(cudaFree(memory));
}

int64_t allocation_count() { return g_allocation_count; }

int64_t available_bytes(Device device) {
  make_current(device);
  size_t free = 0;
  size_t total = 0;
  check(cudaMemGetInfo(&free, &total), "cudaMemGetInfo", device);
  return static_cast<int64_t>(free);
}

void* allocate_pinned(Device device, int64_t bytes) {
  make_current(device);
  void* memory = nullptr;
  const cudaError_t status =
      cudaHostAlloc(&memory, static_cast<size_t>(bytes), cudaHostAllocDefault);
  return got_memory(status, "cudaHostAlloc", device) ? memory : nullptr;
}

void release_pinned(void* memory) noexcept {
  if (memory != nullptr) static_cast<void>(cudaFreeHost(memory));
}

void* create_stream(Device device, bool high_priority) {
  make_current(device);
  int lowest = 0;  // the default; a smaller number is a higher priority
  int highest = 0;
  check(cudaDeviceGetStreamPriorityRange(&lowest, &highest), "cudaDeviceGetStreamPriorityRange",
        device);
  cudaStream_t stream = nullptr;
  check(cudaStreamCreateWithPriority(&stream, cudaStreamNonBlocking,
                                     high_priority ? highest : lowest),
        "cudaStreamCreate", device);
  return stream;
}

void destroy_stream(void* stream) noexcept {
  if (stream != nullptr) static_cast<void>(cudaStreamDestroy(native_stream(stream)));
}

void synchronize_stream(Device device, void* stream) {
  check(cudaStreamSynchronize(native_stream(stream)), "cudaStreamSynchronize", device);
}

void copy_to_device(Device device, void* to, const void* from, int64_t bytes, void* stream) {
  check(cudaMemcpyAsync(to, from, static_cast<size_t>(bytes), cudaMemcpyHostToDevice,
                        native_stream(stream)),
        "cudaMemcpyAsync to the device", device);
}

void copy_to_host(Device device, void* to, const void* from, int64_t bytes, void* stream) {
  check(cudaMemcpyAsync(to, from, static_cast<size_t>(bytes), cudaMemcpyDeviceToHost,
                        native_stream(stream)),
        "cudaMemcpyAsync to the host", device);
}

void* create_event(Device device) {
  make_current(device);
  cudaEvent_t event = nullptr;
  check(cudaEventCreate(&event), "cudaEventCreate", device);
  return event;
}

void destroy_event(void* event) noexcept {
  if (event != nullptr) static_cast<void>(cudaEventDestroy(native_event(event)));
}

void record_event(Device device, void* event, void* stream) {
  check(cudaEventRecord(native_event(event), native_stream(stream)), "cudaEventRecord", device);
}

void hold_back_stream(Device device, void* event, void* stream) {
  check(cudaStreamWaitEvent(native_stream(stream), native_event(event), 0), "cudaStreamWaitEvent",
        device);
}

void wait_for_event(Device device, void* event) {
  check(cudaEventSynchronize(native_event(event)), "cudaEventSynchronize", device);
}

double seconds_between_events(Device device, void* begin, void* end) {
  float milliseconds = 0.0f;
  check(cudaEventElapsedTime(&milliseconds, native_event(begin), native_event(end)),
        "cudaEventElapsedTime", device);
  return static_cast<double>(milliseconds) * 1e-3;
}

void begin_capture(Device device, void* stream) {
  check(cudaStreamBeginCapture(native_stream(stream), cudaStreamCaptureModeThreadLocal),
        "cudaStreamBeginCapture", device);
}

void* end_capture(Device device, void* stream) {
  cudaGraph_t graph = nullptr;
  check(cudaStreamEndCapture(native_stream(stream), &graph), "cudaStreamEndCapture", device);
  cudaGraphExec_t executable = nullptr;
  const cudaError_t status = cudaGraphInstantiate(&executable, graph, 0);
  cudaGraphDestroy(graph);
  check(status, "cudaGraphInstantiate", device);
  return executable;
}

void abandon_capture(void* stream) noexcept {
  cudaGraph_t graph = nullptr;
  cudaStreamEndCapture(native_stream(stream), &graph);
  if (graph != nullptr) cudaGraphDestroy(graph);
  cudaGetLastError();
}

void launch_graph(Device device, void* graph, void* stream) {
  check(cudaGraphLaunch(static_cast<cudaGraphExec_t>(graph), native_stream(stream)),
        "cudaGraphLaunch", device);
}

void destroy_graph(void* graph) noexcept {
  if (graph != nullptr) cudaGraphExecDestroy(static_cast<cudaGraphExec_t>(graph));
}

}  // namespace rankwise::cuda
