// SPDX-License-Identifier: Apache-2.0
// Hdf5File: the one wrapper of the serial HDF5 C library. Chunked, fletcher32, V110 bounds.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/tensor.h"

namespace rankwise {

// Every call is checked; a message names file and dataset: DiskError while writing, FormatError
// while reading. Names are paths ("/a/b"); groups are made as needed. Files written here are
// write-once: create, add, close, never reopen for writing. The same calls give the same bytes.
// close() does not sync: see publish_file(). Read are only datasets whose data carries a checksum
// (chunked with fletcher32, or compact inside a checksummed header); links that leave the file,
// external storage, virtual datasets, other filters and variable-length types are refused. After a
// failed write HDF5 cannot be relied on for this file: remove it. HDF5's own cleanup at process
// exit, which then crashes, is switched off.
class Hdf5File {
 public:
  enum class Mode { kCreate, kRead };
  Hdf5File(const std::string& path, Mode mode);
  ~Hdf5File();  // closes without reporting; call close() to learn of errors
  Hdf5File(const Hdf5File&) = delete;
  Hdf5File& operator=(const Hdf5File&) = delete;

  // Integer types, F32 and F64 as they are; F16 and BF16 as u2, BOOL as u1 with attribute "dtype".
  void write(const std::string& name, const Tensor& tensor);
  void write_bytes(const std::string& name, std::string_view bytes);
  void write_attribute(const std::string& name, const std::string& attribute, int64_t value);
  void write_attribute(const std::string& name, const std::string& attribute, double value);
  void write_attribute(const std::string& name, const std::string& attribute,
                       const std::string& value);

  bool contains(const std::string& name) const;
  bool contains_attribute(const std::string& name, const std::string& attribute) const;
  std::vector<std::string> list(const std::string& group) const;  // names of direct members
  Shape shape(const std::string& name) const;
  DType dtype(const std::string& name) const;
  // dtype and numel must agree. With a null address (measuring mode) only the checks are done.
  void read(const std::string& name, const Tensor& out) const;
  // Items [begin, end) of dimension 0.
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
