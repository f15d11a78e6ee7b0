// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cstring>

#include "runtime/cuda/runtime_calls.h"
#include "runtime/cuda/staging.h"
#include "runtime/transfer.h"

namespace rankwise::cuda {
namespace {

constexpr int64_t kPieceAlignment = 256;

}  // namespace

Staging::Staging(Stream& stream) : stream_(&stream) {
  for (size_t i = 0; i < kBuffers; ++i) read_.emplace_back(stream.device());
  memory_ = allocate_host(stream.device(), static_cast<int64_t>(kBuffers) * kBufferBytes);
}

void Staging::upload(void* to, const void* from, int64_t bytes) {
  auto* target = static_cast<std::byte*>(to);
  const auto* source = static_cast<const std::byte*>(from);
  while (bytes > 0) {
    if (used_ == kBufferBytes) {
      read_[current_].record(*stream_);
      current_ = (current_ + 1) % kBuffers;
      read_[current_].wait();
      used_ = 0;
    }
    const int64_t piece = std::min(bytes, kBufferBytes - used_);
    std::byte* buffer = memory_.get() + static_cast<int64_t>(current_) * kBufferBytes + used_;
    std::memcpy(buffer, source, static_cast<size_t>(piece));
    copy_to_device(stream_->device(), target, buffer, piece, stream_->native());
    used_ += (piece + kPieceAlignment - 1) / kPieceAlignment * kPieceAlignment;
    target += piece;
    source += piece;
    bytes -= piece;
  }
}

}  // namespace rankwise::cuda
