// SPDX-License-Identifier: Apache-2.0
#include "runtime/io/hdf5_handle.h"

#include <algorithm>
#include <array>

namespace rankwise::hdf5 {
namespace {

constexpr size_t kChunkCacheBytes = size_t{4} << 20;  // holds a chunk between row-wise reads
constexpr size_t kTypes = 13;

// H5T_* are expressions that need an open library: a function, not a constant.
std::array<TypeInfo, kTypes> type_table() {
  return {{{DType::kF32, H5T_IEEE_F32LE, false},
           {DType::kF64, H5T_IEEE_F64LE, false},
           {DType::kU8, H5T_STD_U8LE, false},
           {DType::kI8, H5T_STD_I8LE, false},
           {DType::kU16, H5T_STD_U16LE, false},
           {DType::kI16, H5T_STD_I16LE, false},
           {DType::kU32, H5T_STD_U32LE, false},
           {DType::kI32, H5T_STD_I32LE, false},
           {DType::kU64, H5T_STD_U64LE, false},
           {DType::kI64, H5T_STD_I64LE, false},
           {DType::kBool, H5T_STD_U8LE, true},
           {DType::kF16, H5T_STD_U16LE, true},
           {DType::kBF16, H5T_STD_U16LE, true}}};
}

// What HDF5 says about the last failure, innermost first, on one line.
std::string library_message() {
  const auto collect = [](unsigned depth, const H5E_error2_t* error, void* text) -> herr_t {
    if (depth == 0 && error->desc != nullptr) *static_cast<std::string*>(text) = error->desc;
    return 0;
  };
  std::string text;
  H5Ewalk2(H5E_DEFAULT, H5E_WALK_UPWARD, collect, &text);
  std::ranges::replace(text, '\n', ' ');
  return text.empty() ? "failed" : text;
}

// Of what H5Lexists or H5Aexists says: a failed read is not an absence.
void require_present(htri_t exists, const Place& place) {
  require_read(exists >= 0, place);
  if (exists == 0) throw unreadable(place, "absent");
}

// Every name on the way must be a plain member of its group, not a link to elsewhere.
void check_links(hid_t file, const Place& place) {
  for (const std::string& prefix : prefixes_of(place.name)) {
    require_present(H5Lexists(file, prefix.c_str(), H5P_DEFAULT), place);
    H5L_info_t info;
    require_read(H5Lget_info(file, prefix.c_str(), &info, H5P_DEFAULT) >= 0, place);
    if (info.type != H5L_TYPE_HARD) throw unreadable(place, "is a link to elsewhere");
  }
}

// Refuses whatever could read outside the file, run foreign code, allocate more than the file
// holds, or return damaged data silently.
void check_storage(hid_t dataset, const Place& place) {
  const Handle properties(H5Dget_create_plist(dataset), H5Pclose);
  require_read(properties.valid(), place);
  const H5D_layout_t layout = H5Pget_layout(properties);
  const int filters = H5Pget_nfilters(properties);
  const bool compact = layout == H5D_COMPACT && filters == 0;
  unsigned flags = 0;
  unsigned configuration = 0;
  size_t values = 0;
  const bool checksummed =
      layout == H5D_CHUNKED && filters == 1 && H5Pget_external_count(properties) == 0 &&
      H5Pget_filter2(properties, 0, &flags, &values, nullptr, 0, nullptr, &configuration) ==
          H5Z_FILTER_FLETCHER32;
  if (!compact && !checksummed) {
    throw unreadable(place, "is not stored in chunks with fletcher32 only");
  }
  const Handle type(H5Dget_type(dataset), H5Tclose);
  require_read(type.valid(), place);
  const hsize_t needed = static_cast<hsize_t>(shape_of_dataset(dataset, place).numel()) *
                         static_cast<hsize_t>(H5Tget_size(type));
  const hsize_t stored = H5Dget_storage_size(dataset);
  require_read(stored > 0 || H5Eget_num(H5E_DEFAULT) <= 0, place);
  if (stored < needed) {
    throw unreadable(place, fmt::format("{} bytes stored of {}", stored, needed));
  }
}

}  // namespace

void prepare_library() {
  static const bool prepared = [] {
    H5dont_atexit();
    hbool_t is_thread_safe = 0;
    RW_ASSERT(H5is_library_threadsafe(&is_thread_safe) >= 0 && is_thread_safe,
              "HDF5 was built without thread safety");
    H5PLset_loading_state(0);  // no code named by a file
    return true;
  }();
  thread_local const bool silent = H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr) >= 0;
  static_cast<void>(prepared);
  static_cast<void>(silent);
}

FormatError unreadable(const Place& place, std::string_view reason) {
  return FormatError(fmt::format("{}: {}: {}", place.path, quote(place.name), reason));
}

void require_read(bool done, const Place& place) {
  if (done) return;
  const FormatError error = unreadable(place, library_message());
  // So the library tells what the system said.
  if (std::string_view(error.what()).find("errno = ") == std::string_view::npos) throw error;
  throw DiskError(error.what());
}

void require_written(bool done, const Place& place) {
  if (!done) {
    throw DiskError(
        fmt::format("{}: writing {}: {}", place.path, quote(place.name), library_message()));
  }
}

TypeInfo type_info(DType dtype, const Place& place) {
  for (const TypeInfo& info : type_table()) {
    if (info.dtype == dtype) return info;
  }
  throw unreadable(place, fmt::format("{} cannot be kept in HDF5", name_of(dtype)));
}

Handle untimed_properties(hid_t property_class) {
  Handle properties(H5Pcreate(property_class), H5Pclose);
  H5Pset_obj_track_times(properties, false);
  return properties;
}

std::vector<std::string> prefixes_of(const std::string& name) {
  RW_ASSERT(name.starts_with('/'), "{}", name);
  std::vector<std::string> prefixes;
  for (size_t end = 1; end < name.size(); ++end) {
    end = std::min(name.find('/', end), name.size());
    prefixes.push_back(name.substr(0, end));
  }
  return prefixes;
}

Handle open_object(hid_t file, const Place& place) {
  check_links(file, place);
  Handle object(H5Oopen(file, place.name.c_str(), H5P_DEFAULT), H5Oclose);
  require_read(object.valid(), place);
  return object;
}

Shape shape_of_dataset(hid_t dataset, const Place& place) {
  const Handle space(H5Dget_space(dataset), H5Sclose);
  require_read(space.valid(), place);
  const int rank = H5Sget_simple_extent_ndims(space);
  const bool simple = H5Sget_simple_extent_type(space) != H5S_NULL;
  if (!simple || rank < 0 || rank > Shape::kMaxRank) {
    throw unreadable(place, fmt::format("data space of rank {} is not supported", rank));
  }
  std::array<hsize_t, Shape::kMaxRank> extents{};
  require_read(H5Sget_simple_extent_dims(space, extents.data(), nullptr) >= 0, place);
  std::vector<int64_t> dims;
  constexpr auto kMostElements = hsize_t{1} << 56;  // products stay in 64 bits
  hsize_t elements = 1;
  for (int i = 0; i < rank; ++i) {
    const hsize_t extent = extents[static_cast<size_t>(i)];
    if (extent > kMostElements / elements) throw unreadable(place, "shape overflows");
    elements *= std::max<hsize_t>(1, extent);
    dims.push_back(static_cast<int64_t>(extent));
  }
  return Shape(std::span<const int64_t>(dims));
}

Handle open_dataset(hid_t file, const Place& place) {
  check_links(file, place);
  const Handle access(H5Pcreate(H5P_DATASET_ACCESS), H5Pclose);
  H5Pset_chunk_cache(access, H5D_CHUNK_CACHE_NSLOTS_DEFAULT, kChunkCacheBytes,
                     H5D_CHUNK_CACHE_W0_DEFAULT);
  Handle dataset(H5Dopen2(file, place.name.c_str(), access), H5Dclose);
  require_read(dataset.valid(), place);
  check_storage(dataset, place);
  return dataset;
}

void check_chunks(hid_t dataset, hsize_t begin, hsize_t end, const Place& place) {
  const Handle properties(H5Dget_create_plist(dataset), H5Pclose);
  const Handle type(H5Dget_type(dataset), H5Tclose);
  require_read(properties.valid() && type.valid(), place);
  const Shape shape = shape_of_dataset(dataset, place);
  if (H5Pget_layout(properties) != H5D_CHUNKED || shape.numel() == 0 || begin == end) return;
  std::array<hsize_t, Shape::kMaxRank> chunk{};
  require_read(H5Pget_chunk(properties, shape.rank(), chunk.data()) == shape.rank(), place);
  constexpr hsize_t kChecksumBytes = 4;
  hsize_t expected = H5Tget_size(type);
  for (int i = 0; i < shape.rank(); ++i) expected *= chunk[static_cast<size_t>(i)];
  expected += kChecksumBytes;
  std::array<hsize_t, Shape::kMaxRank> at{begin / chunk[0] * chunk[0]};
  for (int i = 0; i >= 0;) {
    unsigned skipped = 0;
    haddr_t address = 0;
    hsize_t stored = 0;
    require_read(H5Dget_chunk_info_by_coord(dataset, at.data(), &skipped, &address, &stored) >= 0,
                 place);
    if (skipped != 0 || stored != expected) {
      throw unreadable(place,
                       fmt::format("a chunk of {} bytes{} where {} with a checksum belong", stored,
                                   skipped != 0 ? " without checksum" : "", expected));
    }
    // The next chunk, the last dimension first.
    for (i = shape.rank() - 1; i >= 0; --i) {
      const auto k = static_cast<size_t>(i);
      at[k] += chunk[k];
      if (at[k] < (i == 0 ? end : static_cast<hsize_t>(shape.dim(i)))) break;
      if (i > 0) at[k] = 0;
    }
  }
}

Handle open_attribute(hid_t object, const Place& object_place, const std::string& attribute,
                      H5T_class_t type_class) {
  const Place place{object_place.path, object_place.name + "@" + attribute};
  require_present(H5Aexists(object, attribute.c_str()), place);
  Handle opened(H5Aopen(object, attribute.c_str(), H5P_DEFAULT), H5Aclose);
  require_read(opened.valid(), place);
  const Handle type(H5Aget_type(opened), H5Tclose);
  const Handle space(H5Aget_space(opened), H5Sclose);
  require_read(type.valid() && space.valid(), place);
  const bool fits = H5Tget_class(type) == type_class && H5Tis_variable_str(type) <= 0 &&
                    H5Sget_simple_extent_npoints(space) == 1;
  if (!fits) throw unreadable(place, "has another type than expected");
  return opened;
}

std::string text_of_attribute(hid_t object, const Place& object_place,
                              const std::string& attribute) {
  const Place place{object_place.path, object_place.name + "@" + attribute};
  const Handle opened = open_attribute(object, object_place, attribute, H5T_STRING);
  const Handle type(H5Aget_type(opened), H5Tclose);
  const size_t length = H5Tget_size(type);
  if (length > kLongestText) throw unreadable(place, "is too long");
  std::string text(length, '\0');
  require_read(H5Aread(opened, type, text.data()) >= 0, place);
  text.resize(std::min(text.find('\0'), text.size()));
  return text;
}

DType dtype_of_dataset(hid_t dataset, const Place& place) {
  const Handle type(H5Dget_type(dataset), H5Tclose);
  require_read(type.valid(), place);
  std::string marker;
  const htri_t is_marked = H5Aexists(dataset, kDTypeAttribute);
  require_read(is_marked >= 0, place);
  if (is_marked > 0) {
    marker = text_of_attribute(dataset, place, kDTypeAttribute);
  }
  for (const TypeInfo& info : type_table()) {
    const bool marked = info.has_marker ? marker == name_of(info.dtype) : marker.empty();
    if (marked && H5Tequal(type, info.type) > 0) return info.dtype;
  }
  throw unreadable(place, "has an unsupported element type");
}

}  // namespace rankwise::hdf5
