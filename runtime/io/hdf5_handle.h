// SPDX-License-Identifier: Apache-2.0
// Identifiers of the HDF5 C library that close themselves, and openings that trust no file.
#pragma once

#include <hdf5.h>

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "runtime/dtype.h"
#include "runtime/errors.h"
#include "runtime/shape.h"

namespace rankwise::hdf5 {

inline constexpr size_t kLongestText = 60'000;  // attributes live in headers of at most 64 KiB
inline constexpr const char* kDTypeAttribute = "dtype";

// Closes an HDF5 identifier of any kind.
class Handle {
 public:
  using Close = herr_t (*)(hid_t);
  Handle(hid_t id, Close closer) : id_(id), close_(closer) {}
  Handle(Handle&& other) noexcept : id_(std::exchange(other.id_, -1)), close_(other.close_) {}
  Handle& operator=(Handle&&) = delete;
  ~Handle() {
    if (id_ >= 0) close_(id_);
  }
  operator hid_t() const { return id_; }
  bool valid() const { return id_ >= 0; }
  // Data still in HDF5's caches is written now: the result says whether that worked.
  herr_t close() { return close_(std::exchange(id_, -1)); }

 private:
  hid_t id_;
  Close close_;
};

// A file and a place in it, for messages: a dataset "/a/b" or an attribute "/a/b@c".
struct Place {
  std::string path;
  std::string name;
};

// Silences the library and switches its exit handler and plugins off. To be called first in every
// operation: the first two settings are per process, the last per thread. The library must be
// thread-safe: checkpoints are written on a thread of their own.
void prepare_library();

FormatError unreadable(const Place& place, std::string_view reason);
// Errors with what the library says about its last failure, unless `done`: FormatError, but
// DiskError for a call of the system that failed; DiskError.
void require_read(bool done, const Place& place);
void require_written(bool done, const Place& place);

struct TypeInfo {
  DType dtype;
  hid_t type;       // in the file and, all machines here being little-endian, in memory
  bool has_marker;  // HDF5 knows only the bits: the attribute says the rest
};

// FormatError when HDF5 files here cannot hold the type.
TypeInfo type_info(DType dtype, const Place& place);

// New properties of a class of objects that shall not record when they were made.
Handle untimed_properties(hid_t property_class);

// "/a/b/c" -> "/a", "/a/b", "/a/b/c"; nothing for "/".
std::vector<std::string> prefixes_of(const std::string& name);

// All openings: FormatError when absent, or reached through a link that leaves the file.
Handle open_object(hid_t file, const Place& place);
// Only with storage that carries a checksum and lies inside the file, all of it present.
Handle open_dataset(hid_t file, const Place& place);
// Before rows [begin, end) are read (all: 0, 1 for rank 0): HDF5 reads past its buffer when a chunk
// is shorter than the shape says, and a chunk may claim to have skipped its checksum. FormatError.
void check_chunks(hid_t dataset, hsize_t begin, hsize_t end, const Place& place);
// Only with exactly one element of the class.
Handle open_attribute(hid_t object, const Place& object_place, const std::string& attribute,
                      H5T_class_t type_class);

Shape shape_of_dataset(hid_t dataset, const Place& place);
DType dtype_of_dataset(hid_t dataset, const Place& place);
std::string text_of_attribute(hid_t object, const Place& object_place,
                              const std::string& attribute);

}  // namespace rankwise::hdf5
