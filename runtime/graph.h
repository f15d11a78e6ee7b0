// SPDX-License-Identifier: Apache-2.0
// Graph: work of a CUDA stream recorded once and launched again as a whole.
#pragma once

#include <functional>

#include "runtime/stream.h"

namespace rankwise {

// For work of many short operations, where launching each costs more than running it. The addresses
// that the work used are part of the record: they must hold the new values at every launch.
class Graph {
 public:
  // Runs `work`, whose operations are recorded on the stream instead of being executed. They must
  // neither allocate, upload, download nor synchronise, and everything that happens at first use
  // (library plans, tuning, scratch memory) must have happened.
  Graph(Stream& stream, const std::function<void()>& work);
  ~Graph();
  Graph(const Graph&) = delete;
  Graph& operator=(const Graph&) = delete;

  void launch(Stream& stream);

 private:
  Device device_;
  void* native_ = nullptr;  // cudaGraphExec_t
};

}  // namespace rankwise
