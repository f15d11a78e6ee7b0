// SPDX-License-Identifier: Apache-2.0
// Staging: a ring of pinned buffers through which host bytes reach the device of a stream.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>

#include "runtime/event.h"
#include "runtime/stream.h"

namespace rankwise::cuda {

// Kept per stream by Stream::state(). Uploads are packed one behind the other into the current
// buffer and cut at its end, so a small one waits only when the ring has come round and the device
// has not yet read what was put there.
class Staging {
 public:
  explicit Staging(Stream& stream);

  // `from` may be reused at once; the bytes arrive in the order of the stream.
  void upload(void* to, const void* from, int64_t bytes);

 private:
  static constexpr size_t kBuffers = 4;
  static constexpr int64_t kBufferBytes = int64_t{4} << 20;

  Stream* stream_;
  std::deque<Event> read_;  // by buffer: the device has read it
  std::shared_ptr<std::byte[]> memory_;
  size_t current_ = 0;
  int64_t used_ = 0;  // bytes of the current buffer
};

}  // namespace rankwise::cuda
