// SPDX-License-Identifier: Apache-2.0
#include "runtime/stream.h"

#include <algorithm>
#include <new>
#include <utility>

#include "runtime/cuda/runtime_calls.h"
#include "runtime/errors.h"

namespace rankwise {
namespace {

constexpr std::align_val_t kScratchAlignment{256};

void* allocate(Device device, size_t bytes) {  // null when there is no memory
  if constexpr (kHasCuda) {
    if (device.is_cuda()) return cuda::allocate(device, static_cast<int64_t>(bytes));
  }
  return ::operator new(bytes, kScratchAlignment, std::nothrow);
}

void release(Device device, void* memory) noexcept {
  if constexpr (kHasCuda) {
    if (device.is_cuda()) return cuda::release(device, memory);
  }
  ::operator delete(memory, kScratchAlignment);
}

}  // namespace

Stream::Stream(Device device, Mode mode, Priority priority) : device_(device), mode_(mode) {
  if (measuring()) return;
  require_device(device);
  if constexpr (kHasCuda) {
    if (is_cuda()) native_ = cuda::create_stream(device, priority == Priority::kHigh);
  }
}

Stream::~Stream() {
  try {
    synchronize();  // work under way may use the memory freed below
  } catch (const Error&) {
    // A failure nobody waited for ends with the stream.
  }
  states_.clear();
  if (!scratch_is_lent_) release(device_, scratch_);
  if constexpr (kHasCuda) cuda::destroy_stream(native_);
}

void Stream::synchronize() {
  if constexpr (kHasCuda) {
    if (native_ != nullptr) cuda::synchronize_stream(device_, native_);
  }
}

void* Stream::scratch(size_t bytes) {
  scratch_peak_bytes_ = std::max(scratch_peak_bytes_, bytes);
  if (measuring()) return nullptr;
  if (bytes > scratch_bytes_) {
    RW_ASSERT(!scratch_is_lent_, "{} bytes of scratch, {} lent", bytes, scratch_bytes_);
    // Device memory is scarce: exactly what is asked for.
    const size_t wanted = is_cuda() ? bytes : std::max(bytes, 2 * scratch_bytes_);
    synchronize();
    // Freed first: the old content is dead by contract, and both together might not fit.
    release(device_, std::exchange(scratch_, nullptr));
    scratch_bytes_ = 0;
    scratch_ = static_cast<std::byte*>(allocate(device_, wanted));
    if (scratch_ == nullptr) {
      throw OutOfMemoryError(
          fmt::format("scratch memory of {}: {} bytes not available", to_string(device_), wanted));
    }
    scratch_bytes_ = wanted;
  }
  return scratch_;
}

void Stream::lend_scratch(void* memory, size_t bytes) {
  RW_ASSERT(scratch_ == nullptr, "lent to a stream that has {} bytes", scratch_bytes_);
  scratch_ = static_cast<std::byte*>(memory);
  scratch_bytes_ = bytes;
  scratch_is_lent_ = true;
}

}  // namespace rankwise
