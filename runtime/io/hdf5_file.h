// SPDX-License-Identifier: Apache-2.0
// Hdf5File: the one wrapper of the serial HDF5 C library. Chunked, fletcher32, V110 bounds.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "runtime/tensor.h"

namespace rankwise {

// Every call is checked; a message names file and dataset. Names are paths ("/a/b"); groups are made
// as needed. Files written here are write-once: create, add, close, never reopen for writing.
class Hdf5File {
 public:
  enum class Mode { kCreate, kRead };
  Hdf5File(const std::string& path, Mode mode);
  ~Hdf5File();  // closes without reporting; call close() to learn of errors
  Hdf5File(const Hdf5File&) = delete;
  Hdf5File& operator=(const Hdf5File&) = delete;

  // F32, F64, U8, I32, I64 as they are; F16 and BF16 as u2 with attribute "dtype".
  void write(const std::string& name, const Tensor& tensor);
  void write_bytes(const std::string& name, std::string_view bytes);
  void write_attribute(const std::string& name, const std::string& attribute, int64_t value);
  void write_attribute(const std::string& name, const std::string& attribute, double value);
  void write_attribute(const std::string& name, const std::string& attribute,
                       const std::string& value);

  bool contains(const std::string& name) const;
  std::vector<std::string> list(const std::string& group) const;  // names of direct members
  Shape shape(const std::string& name) const;
  DType dtype(const std::string& name) const;
  void read(const std::string& name, const Tensor& out) const;  // dtype and numel must agree
  void read_rows(const std::string& name, int64_t begin, int64_t end, const Tensor& out) const;
  std::string read_bytes(const std::string& name) const;
  int64_t read_integer_attribute(const std::string& name, const std::string& attribute) const;
  double read_real_attribute(const std::string& name, const std::string& attribute) const;
  std::string read_text_attribute(const std::string& name, const std::string& attribute) const;

  void close();  // DiskError when HDF5 reports anything

 private:
  std::string path_;
  int64_t file_ = -1;
};

}  // namespace rankwise
