// SPDX-License-Identifier: Apache-2.0
// Stream: ordered work on a device. The CPU stream runs every operation inline.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <typeindex>

#include "runtime/device.h"

namespace rankwise {

// In measuring mode operations check their arguments and then do nothing, so that a whole step can
// be walked over an Arena in measuring mode to learn exactly what it will allocate.
class Stream {
 public:
  enum class Mode { kExecute, kMeasure };
  // On a GPU, waiting work of kHigh takes multiprocessors that become free before that of kNormal.
  enum class Priority { kNormal, kHigh };

  // ConfigError for a CUDA device that this build has no backend for, CommunicationError for one
  // that is not there, unless only measuring.
  explicit Stream(Device device = {}, Mode mode = Mode::kExecute,
                  Priority priority = Priority::kNormal);
  ~Stream();
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;

  Device device() const { return device_; }
  bool is_cuda() const { return device_.is_cuda(); }
  bool measuring() const { return mode_ == Mode::kMeasure; }

  // Waits until all work given so far is done. A no-op on the CPU. CommunicationError when work
  // on the device failed.
  void synchronize();

  // Scratch memory of this stream on its device, 256-byte aligned, valid until the next call; it
  // grows and is reused, so that operations allocate nothing in steady state. Growing waits for the
  // device. Null in measuring mode, where only the size is noted. OutOfMemoryError naming the
  // bytes.
  void* scratch(size_t bytes);
  // The largest scratch asked for so far; reserving it in advance spares the growing.
  size_t scratch_peak_bytes() const { return scratch_peak_bytes_; }
  size_t scratch_bytes() const { return scratch_bytes_; }  // held now
  void reserve_scratch(size_t bytes) { scratch(bytes); }
  // Scratch memory from elsewhere, which must outlive the stream and be all that is asked for.
  void lend_scratch(void* memory, size_t bytes);

  // cudaStream_t; null on the CPU and in measuring mode.
  void* native() const { return native_; }

  // State that a backend keeps per stream (library handles, tuned algorithms), made by
  // T(Stream&) at first use and destroyed before the stream.
  template <class T>
  T& state() {
    std::shared_ptr<void>& held = states_[std::type_index(typeid(T))];
    if (!held) held = std::make_shared<T>(*this);
    return *static_cast<T*>(held.get());
  }

 private:
  Device device_;
  Mode mode_;
  void* native_ = nullptr;
  std::byte* scratch_ = nullptr;
  size_t scratch_bytes_ = 0;
  bool scratch_is_lent_ = false;
  size_t scratch_peak_bytes_ = 0;
  std::map<std::type_index, std::shared_ptr<void>> states_;
};

}  // namespace rankwise
