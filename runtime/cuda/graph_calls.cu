// SPDX-License-Identifier: Apache-2.0
#include <cuda_runtime.h>

#include <string>

#include "runtime/cuda/graph_calls.h"
#include "runtime/errors.h"

namespace rankwise::cuda {
namespace {

void check(cudaError_t status, const char* call, Device device) {
  if (status == cudaSuccess) return;
  cudaGetLastError();  // told here: the next check of a launch must not find it again
  throw CommunicationError(std::string(call) + " on " + to_string(device) +
                           " failed: " + cudaGetErrorString(status) + " (" +
                           cudaGetErrorName(status) + ", code " + std::to_string(status) + ")");
}

cudaStream_t native_stream(void* stream) { return static_cast<cudaStream_t>(stream); }

}  // namespace

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
