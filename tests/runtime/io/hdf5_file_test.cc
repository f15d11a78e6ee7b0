// SPDX-License-Identifier: Apache-2.0
#include "runtime/io/hdf5_file.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <limits>
#include <numeric>

#include "runtime/io/atomic_file.h"
#include "runtime/io/hdf5_handle.h"
#include "tests/support/error_of.h"
#include "tests/support/scratch_folder.h"

namespace rankwise {
namespace {

using testing::error_of;
using Mode = Hdf5File::Mode;

template <class T>
Tensor tensor_of(std::vector<T>& values, Shape shape) {
  return Tensor(values.data(), dtype_of<T>(), shape);
}

std::vector<float> counting(size_t count) {
  std::vector<float> values(count);
  std::iota(values.begin(), values.end(), 1.0f);
  return values;
}

class Hdf5FileTest : public ::testing::Test {
 protected:
  testing::ScratchFolder folder_;
  std::string path_ = folder_.file("a.h5");
};

TEST_F(Hdf5FileTest, KeepsTensorsOfEveryTypeAndShape) {
  std::vector<std::byte> bytes(64);
  for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<std::byte>(i * 7);
  const std::vector<DType> dtypes = {DType::kF32, DType::kF64, DType::kU8,  DType::kI8,
                                     DType::kU16, DType::kI16, DType::kU32, DType::kI32,
                                     DType::kU64, DType::kI64, DType::kF16, DType::kBF16};
  const std::vector<Shape> shapes = {{}, {4}, {2, 2}, {1, 2, 2, 1}, {0}, {2, 0}};
  Hdf5File writer(path_, Mode::kCreate);
  for (const DType dtype : dtypes) {
    for (size_t i = 0; i < shapes.size(); ++i) {
      writer.write(fmt::format("/{}/{}", name_of(dtype), i),
                   Tensor(bytes.data(), dtype, shapes[i]));
    }
  }
  writer.close();
  const Hdf5File reader(path_, Mode::kRead);
  EXPECT_EQ(reader.list("/").size(), dtypes.size());
  EXPECT_EQ(reader.list("/F32"), (std::vector<std::string>{"0", "1", "2", "3", "4", "5"}));
  for (const DType dtype : dtypes) {
    for (size_t i = 0; i < shapes.size(); ++i) {
      const std::string name = fmt::format("/{}/{}", name_of(dtype), i);
      EXPECT_EQ(reader.dtype(name), dtype);
      EXPECT_EQ(reader.shape(name), shapes[i]);
      std::vector<std::byte> out(64);
      const Tensor tensor(out.data(), dtype, shapes[i]);
      reader.read(name, tensor);
      EXPECT_TRUE(std::equal(out.begin(), out.begin() + tensor.bytes(), bytes.begin())) << name;
    }
  }
}

TEST_F(Hdf5FileTest, ReadsRowsAcrossChunks) {
  std::vector<float> values = counting(1500 * 1000);  // six chunks
  Hdf5File writer(path_, Mode::kCreate);
  writer.write("/wide", tensor_of(values, {1500, 1000}));
  writer.write("/long", tensor_of(values, {1500 * 1000}));
  writer.write("/row", tensor_of(values, {2, 750 * 1000}));  // a row is larger than a chunk
  writer.close();
  const Hdf5File reader(path_, Mode::kRead);
  std::vector<float> rows(3000);
  reader.read_rows("/wide", 260, 263, tensor_of(rows, {3, 1000}));
  EXPECT_EQ(rows.front(), 260'001.0f);
  EXPECT_EQ(rows.back(), 263'000.0f);
  reader.read_rows("/long", 261'000, 264'000, tensor_of(rows, {3000}));
  EXPECT_EQ(rows.back(), 264'000.0f);
  std::vector<float> half(750 * 1000);
  reader.read_rows("/row", 1, 2, tensor_of(half, {750 * 1000}));
  EXPECT_EQ(half.back(), 1'500'000.0f);
  reader.read_rows("/wide", 5, 5, tensor_of(rows, {0, 1000}));
  RW_EXPECT_HAS(error_of<FormatError>([&] {
                  reader.read_rows("/wide", 1499, 1501, tensor_of(rows, {2, 1000}));
                }),
                "'/wide': no rows [1499, 1501) in shape (1500, 1000)");
}

TEST_F(Hdf5FileTest, KeepsAttributesAndBytes) {
  std::vector<float> value = {1.0f};
  const std::string content("json\0\xff", 6);
  Hdf5File writer(path_, Mode::kCreate);
  writer.write("/g/x", tensor_of(value, {1}));
  writer.write_attribute("/", "version", std::numeric_limits<int64_t>::min());
  writer.write_attribute("/g/x", "offset", 0.1);
  writer.write_attribute("/g", "text", std::string("naïve"));
  writer.write_attribute("/g", "empty", std::string());
  writer.write_bytes("/files/a", content);
  writer.write_bytes("/files/none", "");
  writer.close();
  const Hdf5File reader(path_, Mode::kRead);
  EXPECT_EQ(reader.read_integer_attribute("/", "version"), std::numeric_limits<int64_t>::min());
  EXPECT_EQ(reader.read_real_attribute("/g/x", "offset"), 0.1);
  EXPECT_EQ(reader.read_text_attribute("/g", "text"), "naïve");
  EXPECT_EQ(reader.read_text_attribute("/g", "empty"), "");
  EXPECT_EQ(reader.read_bytes("/files/a"), content);
  EXPECT_EQ(reader.read_bytes("/files/none"), "");
  EXPECT_TRUE(reader.contains("/g/x"));
  EXPECT_FALSE(reader.contains("/g/y/z"));
  EXPECT_FALSE(reader.contains_attribute("/g", "offset"));
  RW_EXPECT_HAS(error_of<FormatError>([&] { reader.read_integer_attribute("/g", "text"); }),
                "'/g@text': has another type");
  RW_EXPECT_HAS(error_of<FormatError>([&] { reader.read_real_attribute("/g", "none"); }),
                "'/g@none': absent");
}

TEST_F(Hdf5FileTest, TheSameCallsGiveTheSameBytes) {
  const auto make = [&](const std::string& path) {
    std::vector<float> values = counting(1000);
    Hdf5File writer(path, Mode::kCreate);
    writer.write("/a/b", tensor_of(values, {1000}));
    writer.write_attribute("/a/b", "n", int64_t{1});
    writer.close();
    return read_file(path);
  };
  const std::string first = make(path_);
  std::filesystem::last_write_time(path_, std::filesystem::file_time_type::min());
  EXPECT_EQ(make(folder_.file("b.h5")), first);
}

TEST_F(Hdf5FileTest, MismatchedDestinationsAreRefused) {
  std::vector<float> values = counting(6);
  Hdf5File writer(path_, Mode::kCreate);
  writer.write("/x", tensor_of(values, {2, 3}));
  writer.close();
  const Hdf5File reader(path_, Mode::kRead);
  std::vector<double> doubles(6);
  RW_EXPECT_HAS(error_of<FormatError>([&] { reader.read("/x", tensor_of(doubles, {6})); }),
                path_ + ": '/x': 6 elements of F32 where F64 (6) is expected");
  error_of<FormatError>([&] { reader.read("/x", tensor_of(values, {5})); });
  RW_EXPECT_HAS(error_of<FormatError>([&] { reader.shape("/y"); }), "'/y': absent");
  reader.read("/x", Tensor(nullptr, DType::kF32, Shape{6}));
}

TEST_F(Hdf5FileTest, WhatIsNoHdf5FileIsRefused) {
  error_of<FormatError>([&] { Hdf5File(folder_.file("none"), Mode::kRead); });
  error_of<FormatError>([&] { Hdf5File(folder_.path(), Mode::kRead); });
  error_of<FormatError>([&] { Hdf5File(folder_.write("text", "hello"), Mode::kRead); });
  RW_EXPECT_HAS(error_of<DiskError>([&] { Hdf5File(folder_.file("no/a.h5"), Mode::kCreate); }),
                "No such file");
}

TEST_F(Hdf5FileTest, WritingTwiceUnderOneNameIsAnError) {
  std::vector<float> values = counting(6);
  Hdf5File writer(path_, Mode::kCreate);
  writer.write("/x", tensor_of(values, {6}));
  RW_EXPECT_HAS(error_of<DiskError>([&] { writer.write("/x", tensor_of(values, {6})); }), "'/x'");
  writer.close();
}

// On a full disk HDF5 may return success from writes: some call up to close() must fail, and the
// process must survive it and end normally.
TEST_F(Hdf5FileTest, FullDiskIsADiskError) {
  std::vector<float> values = counting(300'000);
  const testing::FileSizeLimit limit(2'000'000);
  const std::string message = error_of<DiskError>([&] {
    Hdf5File writer(path_, Mode::kCreate);
    for (int i = 0; i < 6; ++i) writer.write(fmt::format("/x{}", i), tensor_of(values, {300'000}));
    writer.close();
  });
  RW_EXPECT_HAS(message, path_);
  RW_EXPECT_HAS(message, "File too large");
}

TEST_F(Hdf5FileTest, EveryFlippedBitIsFoundOrHarmless) {
  std::vector<float> values = counting(64);
  Hdf5File writer(path_, Mode::kCreate);
  writer.write("/g/x", tensor_of(values, {8, 8}));
  writer.write("/g/scalar", tensor_of(values, {}));
  writer.write_attribute("/g/x", "n", int64_t{5});
  writer.close();
  const std::string good = read_file(path_);
  int found = 0;
  int tried = 0;
  for (size_t bit = 0; bit < good.size() * 8; bit += 37) {
    std::string bad = good;
    bad[bit / 8] = static_cast<char>(bad[bit / 8] ^ (1 << bit % 8));
    const std::string path = folder_.write(fmt::format("{}.h5", bit), bad);
    ++tried;
    try {
      const Hdf5File reader(path, Mode::kRead);
      std::vector<float> read(64, -1.0f);
      float scalar = -1.0f;
      reader.read("/g/x", tensor_of(read, {8, 8}));
      reader.read("/g/scalar", Tensor(&scalar, DType::kF32, Shape()));
      ASSERT_EQ(read, values) << "bit " << bit;
      ASSERT_EQ(scalar, 1.0f) << "bit " << bit;
      ASSERT_EQ(reader.read_integer_attribute("/g/x", "n"), 5) << "bit " << bit;
      ASSERT_EQ(reader.shape("/g/x"), (Shape{8, 8})) << "bit " << bit;
    } catch (const FormatError&) {
      ++found;
    }
  }
  EXPECT_GT(found, tried / 3);  // the rest is unused space
}

TEST_F(Hdf5FileTest, TruncatedFilesAreRefused) {
  std::vector<float> values = counting(64);
  Hdf5File writer(path_, Mode::kCreate);
  writer.write("/x", tensor_of(values, {64}));
  writer.close();
  const std::string good = read_file(path_);
  for (size_t length = 0; length < good.size(); length += 97) {
    const std::string path = folder_.write("bad.h5", good.substr(0, length));
    error_of<FormatError>([&] { Hdf5File(path, Mode::kRead).read("/x", tensor_of(values, {64})); });
  }
}

// Files no version of this program writes, made with the library itself.
class ForeignHdf5 : public Hdf5FileTest {
 protected:
  hid_t create() {
    const hdf5::Handle access(H5Pcreate(H5P_FILE_ACCESS), H5Pclose);
    H5Pset_libver_bounds(access, H5F_LIBVER_V110, H5F_LIBVER_V110);
    return H5Fcreate(path_.c_str(), H5F_ACC_TRUNC, H5P_DEFAULT, access);
  }
  // A dataset of 16 floats with these creation properties.
  void add(hid_t file, const char* name, hid_t properties, hid_t type) {
    const hsize_t count = 16;
    const hid_t space = H5Screate_simple(1, &count, nullptr);
    const hid_t dataset = H5Dcreate2(file, name, type, space, H5P_DEFAULT, properties, H5P_DEFAULT);
    ASSERT_GE(dataset, 0);
    H5Dclose(dataset);
    H5Sclose(space);
  }
  std::string refusal(const std::string& name) {
    std::vector<float> values(16);
    return error_of<FormatError>(
        [&] { Hdf5File(path_, Mode::kRead).read(name, tensor_of(values, {16})); });
  }
};

TEST_F(ForeignHdf5, LinksOutOfTheFileAreRefused) {
  std::vector<float> values = counting(16);
  const std::string other = folder_.file("other.h5");
  Hdf5File writer(other, Mode::kCreate);
  writer.write("/x", tensor_of(values, {16}));
  writer.close();
  const hid_t file = create();
  H5Lcreate_external(other.c_str(), "/x", file, "external", H5P_DEFAULT, H5P_DEFAULT);
  H5Lcreate_external(other.c_str(), "/", file, "group", H5P_DEFAULT, H5P_DEFAULT);
  H5Lcreate_soft("/loop", file, "loop", H5P_DEFAULT, H5P_DEFAULT);
  H5Fclose(file);
  for (const char* name : {"/external", "/group/x", "/loop"}) {
    RW_EXPECT_HAS(refusal(name), "is a link to elsewhere");
  }
}

TEST_F(ForeignHdf5, StorageWithoutChecksumOrOutsideTheFileIsRefused) {
  const hid_t file = create();
  add(file, "contiguous", H5P_DEFAULT, H5T_IEEE_F32LE);
  const hid_t external = H5Pcreate(H5P_DATASET_CREATE);
  H5Pset_external(external, "/etc/passwd", 0, 64);
  add(file, "outside", external, H5T_IEEE_F32LE);
  const hid_t deflate = H5Pcreate(H5P_DATASET_CREATE);
  const hsize_t chunk = 16;
  H5Pset_chunk(deflate, 1, &chunk);
  H5Pset_deflate(deflate, 1);
  add(file, "deflate", deflate, H5T_IEEE_F32LE);
  H5Pclose(external);
  H5Pclose(deflate);
  H5Fclose(file);
  for (const char* name : {"/contiguous", "/outside", "/deflate"}) {
    RW_EXPECT_HAS(refusal(name), "is not stored in chunks with fletcher32 only");
  }
}

TEST_F(ForeignHdf5, MissingDataAndOddTypesAreRefused) {
  const hid_t file = create();
  const hid_t checksummed = H5Pcreate(H5P_DATASET_CREATE);
  const hsize_t chunk = 16;
  H5Pset_chunk(checksummed, 1, &chunk);
  H5Pset_fletcher32(checksummed);
  add(file, "unwritten", checksummed, H5T_IEEE_F32LE);
  const hid_t compact = H5Pcreate(H5P_DATASET_CREATE);
  H5Pset_layout(compact, H5D_COMPACT);
  add(file, "big_endian", compact, H5T_IEEE_F32BE);
  H5Pclose(checksummed);
  H5Pclose(compact);
  H5Fclose(file);
  RW_EXPECT_HAS(refusal("/unwritten"), "0 bytes stored of 64");
  RW_EXPECT_HAS(refusal("/big_endian"), "unsupported element type");
}

}  // namespace
}  // namespace rankwise
