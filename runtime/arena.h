// SPDX-License-Identifier: Apache-2.0
// Arena: all memory of one device, by named purpose; scopes free as a whole.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/tensor.h"

namespace rankwise {

// Bump allocation per purpose ("weights", "adapters", "gradients", "optimizer", "activations",
// ...). In measuring mode nothing is reserved and tensors carry a null address, but sizes,
// alignment and peaks are those of a real run: planned bytes equal reserved bytes.
class Arena {
 public:
  enum class Mode { kReserve, kMeasure };
  static constexpr int64_t kAlignment = 64;      // of tensors on the CPU
  static constexpr int64_t kGpuAlignment = 256;  // of tensors on a GPU

  struct Usage {
    std::string purpose;
    int64_t current_bytes = 0;
    int64_t peak_bytes = 0;
  };

  // Frees, when it ends, everything its purpose allocated since it began. Scopes of one purpose
  // nest and must end in reverse order (checked).
  class Scope {
   public:
    Scope(Scope&& other) noexcept;
    Scope& operator=(Scope&&) = delete;
    ~Scope();

   private:
    friend class Arena;
    Scope(Arena* arena, std::string purpose, int64_t mark);
    Arena* arena_;
    std::string purpose_;
    int64_t mark_;
  };

  // Memory of a GPU comes from plain device allocations, which happen only while pools grow: a
  // repeated step, or one within what was reserved, makes none. Throws as the constructor of Stream
  // does, unless only measuring.
  explicit Arena(Device device = {}, Mode mode = Mode::kReserve);
  ~Arena();
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;

  Device device() const { return device_; }
  bool measuring() const { return mode_ == Mode::kMeasure; }

  // Uninitialised, aligned as the device demands. Throws OutOfMemoryError naming purpose, bytes,
  // what the device has left and the largest owners.
  Tensor allocate(std::string_view purpose, DType dtype, const Shape& shape);
  // Gets room for `bytes` at once and no more, so that later allocations of the purpose are
  // contiguous.
  void reserve(std::string_view purpose, int64_t bytes);
  [[nodiscard]] Scope scope(std::string_view purpose);

  // Sorted by peak, largest first.
  std::vector<Usage> usage() const;
  int64_t peak_bytes() const;  // of all purposes together
  int64_t current_bytes() const;

 private:
  struct Pool;
  Pool& pool(std::string_view purpose);
  void release(const std::string& purpose, int64_t mark);
  OutOfMemoryError out_of_memory(std::string_view purpose, int64_t bytes) const;

  Device device_;
  Mode mode_;
  std::map<std::string, std::unique_ptr<Pool>, std::less<>> pools_;
  int64_t current_ = 0;
  int64_t peak_ = 0;
};

}  // namespace rankwise
