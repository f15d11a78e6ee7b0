// SPDX-License-Identifier: Apache-2.0
#include "runtime/stream.h"

#include <algorithm>
#include <new>

#include "runtime/errors.h"

namespace rankwise {
namespace {

constexpr std::align_val_t kScratchAlignment{64};

}  // namespace

Stream::Stream(Device device, Mode mode) : device_(device), mode_(mode) {
  if (device.is_cuda() && !measuring()) {
    throw ConfigError(fmt::format("device {}: this build has no CUDA backend", to_string(device)));
  }
}

Stream::~Stream() { ::operator delete(scratch_, kScratchAlignment); }

void Stream::synchronize() {}

void* Stream::scratch(size_t bytes) {
  if (measuring()) return nullptr;
  if (bytes > scratch_bytes_) {
    const size_t wanted = std::max(bytes, 2 * scratch_bytes_);
    // Freed first: the old content is dead by contract, and both together might not fit.
    ::operator delete(scratch_, kScratchAlignment);
    scratch_bytes_ = 0;
    scratch_ = static_cast<std::byte*>(::operator new(wanted, kScratchAlignment, std::nothrow));
    if (scratch_ == nullptr) {
      throw OutOfMemoryError(
          fmt::format("scratch memory of {}: {} bytes not available", to_string(device_), wanted));
    }
    scratch_bytes_ = wanted;
  }
  return scratch_;
}

}  // namespace rankwise
