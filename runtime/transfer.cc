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
  check_device_side(from, stream);
  if (stream.measuring()) return;
  if constexpr (kHasCuda) {
    if (stream.is_cuda()) {
      if (from.bytes() > 0) {
        cuda::copy_to_host(stream.device(), to, from.raw(), from.bytes(), stream.native());
      }
      return stream.synchronize();
    }
  }
  if (from.bytes() > 0) std::memcpy(to, from.raw(), static_cast<size_t>(from.bytes()));
}

}  // namespace rankwise
