// SPDX-License-Identifier: Apache-2.0
#include "runtime/graph.h"

#include "runtime/cuda/runtime_calls.h"
#include "runtime/errors.h"

namespace rankwise {

Graph::Graph(Stream& stream, const std::function<void()>& work) : device_(stream.device()) {
  RW_ASSERT(stream.is_cuda() && !stream.measuring(), "graphs are for GPUs");
  if constexpr (kHasCuda) {
    cuda::begin_capture(device_, stream.native());
    try {
      work();
    } catch (...) {
      cuda::abandon_capture(stream.native());
      throw;
    }
    native_ = cuda::end_capture(device_, stream.native());
  }
}

Graph::~Graph() {
  if constexpr (kHasCuda) cuda::destroy_graph(native_);
}

void Graph::launch(Stream& stream) {
  if constexpr (kHasCuda) cuda::launch_graph(device_, native_, stream.native());
}

}  // namespace rankwise
