// SPDX-License-Identifier: Apache-2.0
// The writing half of Hdf5File.
#include <algorithm>

#include "runtime/io/hdf5_file.h"
#include "runtime/io/hdf5_handle.h"

namespace rankwise {
namespace {

using hdf5::Handle;
using hdf5::Place;
using hdf5::require_written;

constexpr hsize_t kChunkBytes = hsize_t{1} << 20;

// Rows of whole inner dimensions while they fit, so that reading some rows touches few chunks.
std::vector<hsize_t> chunk_shape(const Shape& shape, hsize_t element_bytes) {
  std::vector<hsize_t> chunk(static_cast<size_t>(shape.rank()), 1);
  hsize_t room = std::max<hsize_t>(1, kChunkBytes / element_bytes);
  for (int i = shape.rank() - 1; i >= 0; --i) {
    const hsize_t length = std::min(static_cast<hsize_t>(shape.dim(i)), room);
    chunk[static_cast<size_t>(i)] = length;
    room /= length;
    if (room == 0) break;
  }
  return chunk;
}

Handle make_space(const Shape& shape) {
  const std::vector<hsize_t> dims(shape.dims().begin(), shape.dims().end());
  if (dims.empty()) return {H5Screate(H5S_SCALAR), H5Sclose};
  return {H5Screate_simple(shape.rank(), dims.data(), nullptr), H5Sclose};
}

// Data that is not chunked must be compact: its checksum is that of the object header.
Handle creation_properties(const Shape& shape, hsize_t element_bytes, const Place& place) {
  Handle properties(H5Pcreate(H5P_DATASET_CREATE), H5Pclose);
  bool done = H5Pset_obj_track_times(properties, false) >= 0;
  if (shape.rank() == 0 || shape.numel() == 0) {
    done = done && H5Pset_layout(properties, H5D_COMPACT) >= 0;
  } else {
    const std::vector<hsize_t> chunk = chunk_shape(shape, element_bytes);
    done = done && H5Pset_chunk(properties, shape.rank(), chunk.data()) >= 0 &&
           H5Pset_fletcher32(properties) >= 0 &&
           H5Pset_fill_time(properties, H5D_FILL_TIME_NEVER) >= 0;
  }
  require_written(done, place);
  return properties;
}

void create_groups(hid_t file, const Place& place) {
  std::vector<std::string> groups = hdf5::prefixes_of(place.name);
  groups.pop_back();  // the dataset itself
  for (const std::string& name : groups) {
    if (H5Lexists(file, name.c_str(), H5P_DEFAULT) > 0) continue;
    const Handle properties = hdf5::untimed_properties(H5P_GROUP_CREATE);
    Handle group(H5Gcreate2(file, name.c_str(), H5P_DEFAULT, properties, H5P_DEFAULT), H5Gclose);
    require_written(group.valid() && group.close() >= 0, place);
  }
}

void put_attribute(hid_t object, const Place& place, const std::string& attribute, hid_t type,
                   const void* value) {
  const Handle space(H5Screate(H5S_SCALAR), H5Sclose);
  Handle created(H5Acreate2(object, attribute.c_str(), type, space, H5P_DEFAULT, H5P_DEFAULT),
                 H5Aclose);
  require_written(created.valid() && H5Awrite(created, type, value) >= 0 && created.close() >= 0,
                  {place.path, place.name + "@" + attribute});
}

void put_text_attribute(hid_t object, const Place& place, const std::string& attribute,
                        std::string_view text) {
  RW_ASSERT(text.size() <= hdf5::kLongestText && text.find('\0') == text.npos, "{}", attribute);
  const Handle type(H5Tcopy(H5T_C_S1), H5Tclose);
  const std::string stored = text.empty() ? std::string(1, '\0') : std::string(text);
  const bool made = type.valid() && H5Tset_size(type, stored.size()) >= 0 &&
                    H5Tset_strpad(type, H5T_STR_NULLPAD) >= 0 &&
                    H5Tset_cset(type, H5T_CSET_UTF8) >= 0;
  require_written(made, place);
  put_attribute(object, place, attribute, type, stored.data());
}

// Opens an object for an attribute; it was written before.
Handle open_written(hid_t file, const Place& place) {
  hdf5::prepare_library();
  Handle object(H5Oopen(file, place.name.c_str(), H5P_DEFAULT), H5Oclose);
  require_written(object.valid(), place);
  return object;
}

}  // namespace

void Hdf5File::write(const std::string& name, const Tensor& tensor) {
  hdf5::prepare_library();
  RW_ASSERT(tensor.defined() && tensor.is_contiguous() && !tensor.device().is_cuda(), "{}", name);
  const Place place{path_, name};
  const hdf5::TypeInfo info = hdf5::type_info(tensor.dtype(), place);
  create_groups(file_, place);
  const Handle space = make_space(tensor.shape());
  const Handle properties =
      creation_properties(tensor.shape(), static_cast<hsize_t>(bits_of(tensor.dtype()) / 8), place);
  Handle dataset(
      H5Dcreate2(file_, name.c_str(), info.type, space, H5P_DEFAULT, properties, H5P_DEFAULT),
      H5Dclose);
  require_written(dataset.valid(), place);
  if (tensor.numel() > 0) {
    require_written(H5Dwrite(dataset, info.type, H5S_ALL, H5S_ALL, H5P_DEFAULT, tensor.raw()) >= 0,
                    place);
  }
  if (info.has_marker) {
    put_text_attribute(dataset, place, hdf5::kDTypeAttribute, name_of(tensor.dtype()));
  }
  require_written(dataset.close() >= 0, place);
}

void Hdf5File::write_bytes(const std::string& name, std::string_view bytes) {
  write(name, Tensor(const_cast<char*>(bytes.data()), DType::kU8,
                     Shape{static_cast<int64_t>(bytes.size())}));
}

void Hdf5File::write_attribute(const std::string& name, const std::string& attribute,
                               int64_t value) {
  const Place place{path_, name};
  put_attribute(open_written(file_, place), place, attribute, H5T_STD_I64LE, &value);
}

void Hdf5File::write_attribute(const std::string& name, const std::string& attribute,
                               double value) {
  const Place place{path_, name};
  put_attribute(open_written(file_, place), place, attribute, H5T_IEEE_F64LE, &value);
}

void Hdf5File::write_attribute(const std::string& name, const std::string& attribute,
                               const std::string& value) {
  const Place place{path_, name};
  put_text_attribute(open_written(file_, place), place, attribute, value);
}

}  // namespace rankwise
