// SPDX-License-Identifier: Apache-2.0
// Stream: ordered work on a device. The CPU stream runs every operation inline.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "runtime/device.h"

namespace rankwise {

// In measuring mode operations check their arguments and then do nothing, so that a whole step can
// be walked over an Arena in measuring mode to learn exactly what it will allocate.
class Stream {
 public:
  enum class Mode { kExecute, kMeasure };

  // ConfigError for a CUDA device that this build has no backend for, unless only measuring.
  explicit Stream(Device device = {}, Mode mode = Mode::kExecute);
  ~Stream();
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;

  Device device() const { return device_; }
  bool is_cuda() const { return device_.is_cuda(); }
  bool measuring() const { return mode_ == Mode::kMeasure; }

  // Waits until all work given so far is done. A no-op on the CPU.
  void synchronize();

  // Scratch memory of this stream, 64-byte aligned, valid until the next call; it grows and is
  // reused, so that operations allocate nothing in steady state.
  void* scratch(size_t bytes);

 private:
  Device device_;
  Mode mode_;
  std::byte* scratch_ = nullptr;
  size_t scratch_bytes_ = 0;
};

}  // namespace rankwise
