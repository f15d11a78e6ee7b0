// SPDX-License-Identifier: Apache-2.0
#include "runtime/transfer.h"

#include <cstring>

#include "runtime/cuda/runtime_calls.h"
#include "runtime/cuda/staging.h"

namespace rankwise {
namespace {

void check_device_side(const Tensor& tensor, const Stream& stream) {
  RW_ASSERT(tensor.defined() && tensor.is_contiguous(), "{}", to_string(tensor.shape()));
  RW_ASSERT(tensor.device() == stream.device(), "tensor on {}, stream on {}",
            to_string(tensor.device()), to_string(stream.device()));
}

}  // namespace

void upload(const Tensor& to, const void* from, Stream& stream) {
  check_device_side(to, stream);
  if (stream.measuring() || to.bytes() == 0) return;
  if constexpr (kHasCuda) {
    if (stream.is_cuda()) {
      return stream.state<cuda::Staging>().upload(to.raw(), from, to.bytes());
    }
  }
  std::memcpy(to.raw(), from, static_cast<size_t>(to.bytes()));
}

void download(void* to, const Tensor& from, Stream& stream) {
  start_download(to, from, stream);
  stream.synchronize();
}

void start_download(void* to, const Tensor& from, Stream& stream) {
  check_device_side(from, stream);
  if (stream.measuring() || from.bytes() == 0) return;
  if constexpr (kHasCuda) {
    if (stream.is_cuda()) {
      return cuda::copy_to_host(stream.device(), to, from.raw(), from.bytes(), stream.native());
    }
  }
  std::memcpy(to, from.raw(), static_cast<size_t>(from.bytes()));
}

std::shared_ptr<std::byte[]> allocate_host([[maybe_unused]] Device device, int64_t bytes) {
  if constexpr (kHasCuda) {
    void* pinned = device.is_cuda() ? cuda::allocate_pinned(device, bytes) : nullptr;
    if (pinned != nullptr) return {static_cast<std::byte*>(pinned), cuda::release_pinned};
  }
  return std::make_shared_for_overwrite<std::byte[]>(static_cast<size_t>(bytes));
}

}  // namespace rankwise
