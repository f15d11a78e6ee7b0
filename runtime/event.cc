// SPDX-License-Identifier: Apache-2.0
#include "runtime/event.h"

#include <chrono>

#include "runtime/cuda/runtime_calls.h"
#include "runtime/errors.h"

namespace rankwise {

Event::Event(Device device) : device_(device) {
  require_device(device);
  if constexpr (kHasCuda) {
    if (device.is_cuda()) native_ = cuda::create_event(device);
  }
}

Event::~Event() {
  if constexpr (kHasCuda) cuda::destroy_event(native_);
}

void Event::record(Stream& stream) {
  RW_ASSERT(stream.device() == device_, "event on {}, stream on {}", to_string(device_),
            to_string(stream.device()));
  if (stream.measuring()) return;
  if constexpr (kHasCuda) {
    if (device_.is_cuda()) return cuda::record_event(device_, native_, stream.native());
  }
  const auto now = std::chrono::steady_clock::now().time_since_epoch();
  host_seconds_ = std::chrono::duration<double>(now).count();
}

void Event::hold_back(Stream& stream) const {
  RW_ASSERT(stream.is_cuda() == device_.is_cuda(), "event on {}, stream on {}", to_string(device_),
            to_string(stream.device()));
  if (stream.measuring()) return;
  if constexpr (kHasCuda) {
    if (device_.is_cuda()) cuda::hold_back_stream(stream.device(), native_, stream.native());
  }
}

void Event::wait() const {
  if constexpr (kHasCuda) {
    if (device_.is_cuda()) cuda::wait_for_event(device_, native_);
  }
}

double Event::seconds_between(const Event& begin, const Event& end) {
  RW_ASSERT(begin.device_ == end.device_, "events on {} and {}", to_string(begin.device_),
            to_string(end.device_));
  if constexpr (kHasCuda) {
    if (begin.device_.is_cuda()) {
      return cuda::seconds_between_events(begin.device_, begin.native_, end.native_);
    }
  }
  return end.host_seconds_ - begin.host_seconds_;
}

}  // namespace rankwise
