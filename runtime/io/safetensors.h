// SPDX-License-Identifier: Apache-2.0
// safetensors files: a reader with every rule of the format, and an atomic writer.
#pragma once

#include <cstddef>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/io/regular_file.h"
#include "runtime/named_tensor.h"

namespace rankwise {

struct SafetensorsEntry {
  std::string name;
  DType dtype = DType::kF32;
  Shape shape;
  uint64_t begin = 0;  // bytes, relative to the data buffer
  uint64_t end = 0;
};

// Validates the header completely before anything else: length, UTF-8, JSON, duplicate names, no
// hole, no overlap, sizes, nothing behind the last tensor. Of the data only what is asked for is
// read, through small buffers. All errors are FormatError naming the file and, where there is one,
// the tensor. May be read from several threads.
class SafetensorsFile {
 public:
  explicit SafetensorsFile(const std::string& path);

  const std::string& path() const { return path_; }
  std::span<const SafetensorsEntry> entries() const { return entries_; }  // in file order
  const std::map<std::string, std::string>& metadata() const { return metadata_; }
  const SafetensorsEntry* find(std::string_view name) const;  // null when absent
  const SafetensorsEntry& at(std::string_view name) const;    // FormatError when absent

  // A copy of the little-endian bytes.
  std::vector<std::byte> read_bytes(const SafetensorsEntry& entry) const;
  // Copies into out, converting F16, BF16, F64 and integers to out's dtype (F32, or I32/I64 for
  // integers). out.numel() must equal the entry's (FormatError). With a null address (measuring
  // mode) only the checks are done.
  void read(const SafetensorsEntry& entry, const Tensor& out) const;
  // The same for elements [first, first + out.numel()) of the flattened tensor.
  void read_elements(const SafetensorsEntry& entry, int64_t first, const Tensor& out) const;

 private:
  std::string path_;
  RegularFile file_;
  size_t data_begin_ = 0;
  std::vector<SafetensorsEntry> entries_;
  std::map<std::string, size_t, std::less<>> index_;
  std::map<std::string, std::string> metadata_;
};

// Tensors must be contiguous, on the CPU and differ in name. Writes in the reference order (dtype
// descending, then name), with {"format": "pt"} unless other metadata is given; temporary file,
// fsync, rename. Byte-identical to the reference writer.
void write_safetensors(const std::string& path, std::vector<NamedTensor> tensors,
                       const std::map<std::string, std::string>& metadata = {{"format", "pt"}});

}  // namespace rankwise
