// SPDX-License-Identifier: Apache-2.0
#include "runtime/io/hdf5_file.h"

#include <algorithm>
#include <array>
#include <span>
#include <string_view>

#include "runtime/io/hdf5_handle.h"
#include "runtime/io/regular_file.h"

namespace rankwise {
namespace {

using hdf5::Handle;
using hdf5::Place;
using hdf5::require_read;
using hdf5::require_written;

hid_t create_file(const std::string& path) {
  const Handle access(H5Pcreate(H5P_FILE_ACCESS), H5Pclose);
  // Metadata with checksums; closing with open objects is an error instead of a delay.
  const bool set = H5Pset_libver_bounds(access, H5F_LIBVER_V110, H5F_LIBVER_V110) >= 0 &&
                   H5Pset_fclose_degree(access, H5F_CLOSE_SEMI) >= 0;
  require_written(set, {path, "/"});
  const Handle creation = hdf5::untimed_properties(H5P_FILE_CREATE);
  const hid_t file = H5Fcreate(path.c_str(), H5F_ACC_TRUNC, creation, access);
  require_written(file >= 0, {path, "/"});
  return file;
}

hid_t open_file(const std::string& path) {
  RegularFile regular(path);  // refuses what HDF5 would hang on
  // Older formats, and those behind a user block, have metadata without checksums.
  constexpr std::string_view kStart = "\x89HDF\r\n\x1a\n\x03";
  std::array<char, kStart.size()> start{};
  const bool is_long = regular.size() >= static_cast<int64_t>(start.size());
  if (is_long) regular.read_at(0, std::as_writable_bytes(std::span(start)));
  if (!is_long || std::string_view(start.data(), start.size()) != kStart) {
    throw hdf5::unreadable({path, "/"}, "is no HDF5 file of format 1.10");
  }
  const Handle access(H5Pcreate(H5P_FILE_ACCESS), H5Pclose);
  bool set = H5Pset_fclose_degree(access, H5F_CLOSE_SEMI) >= 0;
#if H5_VERSION_GE(1, 10, 7)
  // Files are complete when they get their name and never change: locks, which many parallel file
  // systems lack, would only add failures.
  set = set && H5Pset_file_locking(access, false, true) >= 0;
#endif
  require_read(set, {path, "/"});
  const hid_t file = H5Fopen(path.c_str(), H5F_ACC_RDONLY, access);
  require_read(file >= 0, {path, "/"});
  return file;
}

void check_destination(const Tensor& out, DType stored, int64_t elements, const Place& place) {
  RW_ASSERT(out.is_contiguous() && !out.device().is_cuda(), "{}", place.name);
  if (out.dtype() == stored && out.numel() == elements) return;
  throw hdf5::unreadable(
      place, fmt::format("{} elements of {} where {} {} is expected", elements, name_of(stored),
                         name_of(out.dtype()), to_string(out.shape())));
}

// Reads the selected box of the dataset into all of `out`. The memory gets the shape of the box:
// with another one HDF5 goes through the elements one by one.
void read_selection(hid_t dataset, hid_t selection, const std::vector<hsize_t>& box,
                    const Tensor& out, const Place& place) {
  if (out.raw() == nullptr || out.numel() == 0) return;
  const Handle memory(box.empty()
                          ? H5Screate(H5S_SCALAR)
                          : H5Screate_simple(static_cast<int>(box.size()), box.data(), nullptr),
                      H5Sclose);
  const hid_t type = hdf5::type_info(out.dtype(), place).type;
  require_read(H5Dread(dataset, type, memory, selection, H5P_DEFAULT, out.raw()) >= 0, place);
}

template <class T>
T read_number(hid_t file, const Place& place, const std::string& attribute, H5T_class_t kind) {
  hdf5::prepare_library();
  const Handle object = hdf5::open_object(file, place);
  const Handle opened = hdf5::open_attribute(object, place, attribute, kind);
  T value{};
  require_read(H5Aread(opened, hdf5::type_info(dtype_of<T>(), place).type, &value) >= 0, place);
  return value;
}

}  // namespace

Hdf5File::Hdf5File(const std::string& path, Mode mode) : path_(path) {
  hdf5::prepare_library();
  file_ = mode == Mode::kCreate ? create_file(path) : open_file(path);
}

Hdf5File::~Hdf5File() {
  if (file_ < 0) return;
  hdf5::prepare_library();
  H5Fclose(file_);
}

bool Hdf5File::contains(const std::string& name) const {
  hdf5::prepare_library();
  return std::ranges::all_of(hdf5::prefixes_of(name), [&](const std::string& prefix) {
    const htri_t exists = H5Lexists(file_, prefix.c_str(), H5P_DEFAULT);
    require_read(exists >= 0, {path_, name});
    return exists > 0;
  });
}

bool Hdf5File::contains_attribute(const std::string& name, const std::string& attribute) const {
  hdf5::prepare_library();
  const Place place{path_, name};
  const htri_t exists = H5Aexists(hdf5::open_object(file_, place), attribute.c_str());
  require_read(exists >= 0, place);
  return exists > 0;
}

std::vector<std::string> Hdf5File::list(const std::string& group) const {
  hdf5::prepare_library();
  const Place place{path_, group};
  const Handle opened = hdf5::open_object(file_, place);
  std::vector<std::string> names;
  const auto collect = [](hid_t, const char* name, const H5L_info_t*, void* result) -> herr_t {
    static_cast<std::vector<std::string>*>(result)->emplace_back(name);
    return 0;
  };
  require_read(H5Literate(opened, H5_INDEX_NAME, H5_ITER_INC, nullptr, collect, &names) >= 0,
               place);
  return names;
}

Shape Hdf5File::shape(const std::string& name) const {
  hdf5::prepare_library();
  const Place place{path_, name};
  return hdf5::shape_of_dataset(hdf5::open_dataset(file_, place), place);
}

DType Hdf5File::dtype(const std::string& name) const {
  hdf5::prepare_library();
  const Place place{path_, name};
  return hdf5::dtype_of_dataset(hdf5::open_dataset(file_, place), place);
}

void Hdf5File::read(const std::string& name, const Tensor& out) const {
  hdf5::prepare_library();
  const Place place{path_, name};
  const Handle dataset = hdf5::open_dataset(file_, place);
  const Shape shape = hdf5::shape_of_dataset(dataset, place);
  check_destination(out, hdf5::dtype_of_dataset(dataset, place), shape.numel(), place);
  if (out.raw() != nullptr && shape.rank() > 0)
    hdf5::check_chunks(dataset, 0, static_cast<hsize_t>(shape.dim(0)), place);
  const Handle everything(H5Dget_space(dataset), H5Sclose);
  require_read(everything.valid(), place);
  read_selection(dataset, everything, {shape.dims().begin(), shape.dims().end()}, out, place);
}

void Hdf5File::read_rows(const std::string& name, int64_t begin, int64_t end,
                         const Tensor& out) const {
  hdf5::prepare_library();
  const Place place{path_, name};
  const Handle dataset = hdf5::open_dataset(file_, place);
  const Shape shape = hdf5::shape_of_dataset(dataset, place);
  const int64_t rows = shape.rank() == 0 ? 0 : shape.dim(0);
  if (begin < 0 || end < begin || end > rows) {
    throw hdf5::unreadable(
        place, fmt::format("no rows [{}, {}) in shape {}", begin, end, to_string(shape)));
  }
  const int64_t row_elements = rows == 0 ? 0 : shape.numel() / rows;
  check_destination(out, hdf5::dtype_of_dataset(dataset, place), (end - begin) * row_elements,
                    place);
  if (out.raw() == nullptr || out.numel() == 0) return;
  hdf5::check_chunks(dataset, static_cast<hsize_t>(begin), static_cast<hsize_t>(end), place);
  const Handle selection(H5Dget_space(dataset), H5Sclose);
  std::vector<hsize_t> start(static_cast<size_t>(shape.rank()), 0);
  std::vector<hsize_t> count(shape.dims().begin(), shape.dims().end());
  start[0] = static_cast<hsize_t>(begin);
  count[0] = static_cast<hsize_t>(end - begin);
  require_read(selection.valid() && H5Sselect_hyperslab(selection, H5S_SELECT_SET, start.data(),
                                                        nullptr, count.data(), nullptr) >= 0,
               place);
  read_selection(dataset, selection, count, out, place);
}

std::string Hdf5File::read_bytes(const std::string& name) const {
  const Shape stored = shape(name);  // bounded by the size of the file
  std::string bytes(static_cast<size_t>(stored.numel()), '\0');
  read(name, Tensor(bytes.data(), DType::kU8, Shape{stored.numel()}));
  return bytes;
}

int64_t Hdf5File::read_integer_attribute(const std::string& name,
                                         const std::string& attribute) const {
  return read_number<int64_t>(file_, {path_, name}, attribute, H5T_INTEGER);
}

double Hdf5File::read_real_attribute(const std::string& name, const std::string& attribute) const {
  return read_number<double>(file_, {path_, name}, attribute, H5T_FLOAT);
}

std::string Hdf5File::read_text_attribute(const std::string& name,
                                          const std::string& attribute) const {
  hdf5::prepare_library();
  const Place place{path_, name};
  return hdf5::text_of_attribute(hdf5::open_object(file_, place), place, attribute);
}

void Hdf5File::close() {
  RW_ASSERT(file_ >= 0, "{} is closed", path_);
  hdf5::prepare_library();
  const bool flushed = H5Fflush(file_, H5F_SCOPE_GLOBAL) >= 0;
  require_written(flushed, {path_, "/"});
  const bool closed = H5Fclose(file_) >= 0;
  file_ = -1;
  require_written(closed, {path_, "/"});
}

}  // namespace rankwise
