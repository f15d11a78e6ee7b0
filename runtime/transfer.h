// SPDX-License-Identifier: Apache-2.0
// Copies between host memory and the memory of a stream's device.
#pragma once

#include <memory>

#include "runtime/stream.h"
#include "runtime/tensor.h"

namespace rankwise {

// to (contiguous, on the stream's device) = bytes at `from`; `from` may be reused at once. On a GPU
// the bytes pass through a ring of pinned buffers, so the call returns before they arrive and waits
// only for a free buffer. Nothing happens in measuring mode.
void upload(const Tensor& to, const void* from, Stream& stream);

// Bytes at `to` = from (contiguous, on the stream's device), after all work given to the stream so
// far; waits for them. Nothing happens in measuring mode.
void download(void* to, const Tensor& from, Stream& stream);
// The same without waiting: `to` holds the bytes once the stream was waited for. On a GPU the call
// itself waits unless `to` is page-locked.
void start_download(void* to, const Tensor& from, Stream& stream);

// Host memory for copies, its bytes without a value yet. For a GPU page-locked, unless the system
// has no such memory left: copies are then slower.
std::shared_ptr<std::byte[]> allocate_host(Device device, int64_t bytes);

}  // namespace rankwise
