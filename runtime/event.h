// SPDX-License-Identifier: Apache-2.0
// Event: a point in the work of a stream, to wait for or to measure time between.
#pragma once

#include "runtime/stream.h"

namespace rankwise {

// Nothing happens on a stream in measuring mode.
class Event {
 public:
  // As the constructor of Stream throws.
  explicit Event(Device device = {});
  ~Event();
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;

  // Marks the end of the work given to the stream so far.
  void record(Stream& stream);
  // Later work of `stream` begins after the mark. A no-op on the CPU.
  void hold_back(Stream& stream) const;
  // Blocks the caller until the mark is reached; returns at once when nothing was marked.
  void wait() const;
  // Both recorded and reached: device time on a GPU, host time on the CPU.
  static double seconds_between(const Event& begin, const Event& end);

 private:
  Device device_;
  void* native_ = nullptr;  // cudaEvent_t
  double host_seconds_ = 0.0;
};

}  // namespace rankwise
