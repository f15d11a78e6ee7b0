// SPDX-License-Identifier: Apache-2.0
#include "runtime/io/safetensors.h"

#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>

#include "runtime/arena.h"
#include "runtime/io/atomic_file.h"
#include "tests/runtime/io/safetensors_bytes.h"
#include "tests/support/error_of.h"
#include "tests/support/golden.h"
#include "tests/support/scratch_folder.h"

namespace rankwise {
namespace {

using testing::entry;
using testing::error_of;
using testing::object_of;
using testing::safetensors_bytes;
using testing::ScratchFolder;

template <class T>
Tensor tensor_of(std::vector<T>& values, Shape shape) {
  return Tensor(values.data(), dtype_of<T>(), shape);
}

class SafetensorsWriter : public ::testing::Test {
 protected:
  std::string written(std::vector<NamedTensor> tensors,
                      const std::map<std::string, std::string>& metadata = {}) {
    write_safetensors(path_, std::move(tensors), metadata);
    return read_file(path_);
  }
  ScratchFolder folder_;
  std::string path_ = folder_.file("out.safetensors");
};

// The three vectors of the reference implementation's own tests.
TEST_F(SafetensorsWriter, BytesEqualTheReference) {
  EXPECT_EQ(written({}), std::string("\x08\0\0\0\0\0\0\0{}      ", 16));
  EXPECT_EQ(written({}, {{"framework", "pt"}}),
            std::string("\x28\0\0\0\0\0\0\0", 8) + R"({"__metadata__":{"framework":"pt"}}     )");
  std::vector<float> values = {0, 1, 2, 3, 4, 5};
  EXPECT_EQ(written({{"attn.0", tensor_of(values, {1, 2, 3})}}),
            std::string("\x40\0\0\0\0\0\0\0", 8) +
                R"({"attn.0":{"dtype":"F32","shape":[1,2,3],"data_offsets":[0,24]}})" +
                std::string("\0\0\0\0\0\0\x80?\0\0\0@\0\0@@\0\0\x80@\0\0\xa0@", 24));
  const std::string padded = written({{"attn0", tensor_of(values, {1, 1, 2, 3})}});
  EXPECT_EQ(padded.substr(8, 72),
            R"({"attn0":{"dtype":"F32","shape":[1,1,2,3],"data_offsets":[0,24]}}       )");
  EXPECT_EQ(padded[0], 72);
}

TEST_F(SafetensorsWriter, OrdersByDTypeDescendingThenName) {
  std::vector<uint8_t> bytes = {1, 2, 3};
  std::vector<float> floats = {1.0f};
  std::vector<int64_t> integers = {-1};
  std::vector<uint16_t> halves = {0x3c00};
  written({{"b", tensor_of(bytes, {3})},
           {"z", tensor_of(floats, {1})},
           {"a", tensor_of(floats, {})},
           {"h", Tensor(halves.data(), DType::kBF16, {1})},
           {"i", tensor_of(integers, {1, 1})}});
  const SafetensorsFile file(path_);
  std::string order;
  for (const SafetensorsEntry& tensor : file.entries()) order += tensor.name;
  EXPECT_EQ(order, "iazhb");
  EXPECT_EQ(file.at("a").shape, Shape());
  EXPECT_EQ(file.at("b").begin, 18u);
}

TEST_F(SafetensorsWriter, EscapesNamesAndReadsThemBack) {
  std::vector<float> values = {1.0f};
  const std::string name = "a\"\\\n\x01é\x7f";
  const std::string bytes = written({{name, tensor_of(values, {1})}}, {{"k\n", "v\""}});
  RW_EXPECT_HAS(bytes, "{\"__metadata__\":{\"k\\n\":\"v\\\"\"},\"a\\\"\\\\\\n\\u0001é\x7f\":{");
  const SafetensorsFile file(path_);
  EXPECT_NE(file.find(name), nullptr);
  EXPECT_EQ(file.metadata().at("k\n"), "v\"");
}

TEST_F(SafetensorsWriter, DefaultMetadataIsThatOfTheHub) {
  write_safetensors(path_, {});
  EXPECT_EQ(SafetensorsFile(path_).metadata(),
            (std::map<std::string, std::string>{{"format", "pt"}}));
}

TEST_F(SafetensorsWriter, FullDiskLeavesTheOldFile) {
  std::vector<float> values(50'000, 1.0f);
  const std::string before = written({});
  {
    const testing::FileSizeLimit limit(100'000);
    RW_EXPECT_HAS(error_of<DiskError>([&] {
                    write_safetensors(path_, {{"a", tensor_of(values, {50'000})}});
                  }),
                  path_);
  }
  EXPECT_EQ(read_file(path_), before);
}

TEST_F(SafetensorsWriter, WritingOverTheFileBeingReadKeepsTheReader) {
  std::vector<float> values(10'000, 3.0f);
  written({{"a", tensor_of(values, {10'000})}});
  const SafetensorsFile reader(path_);
  written({});
  std::vector<float> read(10'000);
  reader.read(reader.at("a"), tensor_of(read, {10'000}));
  EXPECT_EQ(read, values);
}

TEST_F(SafetensorsWriter, MisuseAborts) {
  std::vector<float> values(4);
  const Tensor tensor = tensor_of(values, {2, 2});
  EXPECT_DEATH(write_safetensors(path_, {{"a", tensor.columns(0, 1)}}), "is_contiguous");
  EXPECT_DEATH(write_safetensors(path_, {{"a", tensor}, {"a", tensor}}), "a twice");
  EXPECT_DEATH(write_safetensors(path_, {{"__metadata__", tensor}}), "twice");
}

class SafetensorsReader : public ::testing::Test {
 protected:
  std::unique_ptr<SafetensorsFile> open(const std::string& bytes) {
    return std::make_unique<SafetensorsFile>(folder_.write("in.safetensors", bytes));
  }
  // One tensor "t" over all data.
  std::unique_ptr<SafetensorsFile> open_tensor(const std::string& dtype, const std::string& shape,
                                               const std::string& data) {
    const std::string offsets = fmt::format("[0,{}]", data.size());
    return open(safetensors_bytes(object_of({entry("t", dtype, shape, offsets)})) + data);
  }
  template <class T>
  std::vector<T> read(const SafetensorsFile& file, int64_t count) {
    std::vector<T> values(static_cast<size_t>(count));
    file.read(file.at("t"), tensor_of(values, {count}));
    return values;
  }
  ScratchFolder folder_;
};

TEST_F(SafetensorsReader, AcceptsWhatTheReferenceAccepts) {
  EXPECT_TRUE(open(safetensors_bytes("{}"))->entries().empty());
  EXPECT_TRUE(open(safetensors_bytes(" \t\r\n{ } "))->entries().empty());  // padding, any length
  const auto file = open(safetensors_bytes(
      object_of({entry("b", "U8", "[2]", "[4,6]"), entry("a", "F32", "[]", "[0,4]"),
                 entry("none", "F32", "[3,0]", "[6,6]"), entry("nothing", "I8", "[0]", "[0,0]"),
                 R"("extra":{"dtype":"F4","shape":[2],"data_offsets":[6,7],"new_key":{"x":[]}})"}),
      7));
  EXPECT_EQ(file->entries().size(), 5u);
  EXPECT_EQ(file->read_bytes(file->at("b"))[1], std::byte{5});
  EXPECT_EQ(file->at("none").shape, (Shape{3, 0}));
}

TEST_F(SafetensorsReader, ConvertsToTheTypeOfTheDestination) {
  const std::string halves("\x00\x3c\x01\x00\x00\xfc", 6);
  EXPECT_EQ(read<float>(*open_tensor("F16", "[3]", halves), 3),
            (std::vector<float>{1.0f, 0x1p-24f, -INFINITY}));
  EXPECT_EQ(read<float>(*open_tensor("BF16", "[2]", std::string("\x80\x3f\xc0\xc0", 4)), 2),
            (std::vector<float>{1.0f, -6.0f}));
  EXPECT_EQ(read<float>(*open_tensor("F64", "[1]", std::string("\0\0\0\0\0\0\xf8\x3f", 8)), 1),
            (std::vector<float>{1.5f}));
  EXPECT_EQ(read<float>(*open_tensor("I8", "[2]", "\xff\x02"), 2), (std::vector<float>{-1, 2}));
  EXPECT_EQ(read<double>(*open_tensor("BOOL", "[2]", std::string("\0\x01", 2)), 2),
            (std::vector<double>{0.0, 1.0}));
  EXPECT_EQ(read<int64_t>(*open_tensor("I32", "[1]", "\xfe\xff\xff\xff"), 1),
            (std::vector<int64_t>{-2}));
  EXPECT_EQ(read<int32_t>(*open_tensor("U16", "[1]", "\xff\xff"), 1),
            (std::vector<int32_t>{65535}));
  EXPECT_EQ(read<uint8_t>(*open_tensor("U8", "[2]", "ab"), 2), (std::vector<uint8_t>{97, 98}));
}

TEST_F(SafetensorsReader, RefusesConversionsThatLose) {
  const std::string large("\0\0\0\0\x01\0\0\0", 8);
  RW_EXPECT_HAS(error_of<FormatError>([&] { read<int32_t>(*open_tensor("I64", "[1]", large), 1); }),
                "tensor 't': element 0 is 4294967296, out of range for I32");
  RW_EXPECT_HAS(error_of<FormatError>([&] {
                  read<int64_t>(*open_tensor("U64", "[1]", "\xff\xff\xff\xff\xff\xff\xff\xff"), 1);
                }),
                "out of range");
  RW_EXPECT_HAS(
      error_of<FormatError>([&] { read<int32_t>(*open_tensor("F32", "[1]", "abcd"), 1); }),
      "F32 cannot be read as I32");
  RW_EXPECT_HAS(error_of<FormatError>([&] { read<float>(*open_tensor("F8_E4M3", "[1]", "a"), 1); }),
                "F8_E4M3 cannot be read as F32");
  RW_EXPECT_HAS(error_of<FormatError>([&] { read<float>(*open_tensor("F32", "[1]", "abcd"), 2); }),
                "shape (1) where (2) is expected");
}

TEST_F(SafetensorsReader, ReadsElements) {
  const auto file = open_tensor("U8", "[3,2]", "abcdef");
  std::vector<float> values(3);
  file->read_elements(file->at("t"), 1, tensor_of(values, {3}));
  EXPECT_EQ(values, (std::vector<float>{'b', 'c', 'd'}));
  file->read_elements(file->at("t"), 6, tensor_of(values, {3}).rows(0, 0));
  const auto refuse = [&](int64_t first) {
    return error_of<FormatError>(
        [&] { file->read_elements(file->at("t"), first, tensor_of(values, {3})); });
  };
  RW_EXPECT_HAS(refuse(4), "no elements [4, 7) in shape (3, 2)");
  RW_EXPECT_HAS(refuse(-1), "no elements [-1, 2)");
}

TEST_F(SafetensorsReader, ConvertsLargeTensorsInPieces) {
  std::vector<int32_t> values(600'000);
  for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<int32_t>(i);
  std::string data(reinterpret_cast<const char*>(values.data()), values.size() * 4);
  std::vector<double> read(599'999);
  const auto file = open_tensor("I32", "[600000]", data);
  file->read_elements(file->at("t"), 1, tensor_of(read, {599'999}));
  for (size_t i = 0; i < read.size(); ++i) ASSERT_EQ(read[i], static_cast<double>(i + 1));
}

TEST_F(SafetensorsReader, FileThatShrinksIsAnError) {
  std::string data(100'000, 'x');
  const auto file = open_tensor("U8", "[100000]", data);
  std::filesystem::resize_file(folder_.file("in.safetensors"), 50'000);
  std::vector<uint8_t> values(60'000);
  RW_EXPECT_HAS(error_of<FormatError>(
                    [&] { file->read_elements(file->at("t"), 0, tensor_of(values, {60'000})); }),
                "in.safetensors: ends at byte 50000, it had 1000");
  EXPECT_EQ(values[40'000], 'x');
}

TEST_F(SafetensorsReader, MeasuringReadsOnlyCheck) {
  const auto file = open_tensor("U8", "[2]", "ab");
  file->read(file->at("t"), Tensor(nullptr, DType::kF32, Shape{2}));
  error_of<FormatError>([&] { file->read(file->at("t"), Tensor(nullptr, DType::kF32, Shape{3})); });
}

TEST_F(SafetensorsReader, NamesWhatIsAbsent) {
  RW_EXPECT_HAS(error_of<FormatError>([&] { open(safetensors_bytes("{}"))->at("x"); }),
                "in.safetensors: tensor 'x': not in the file");
  error_of<FormatError>([&] { SafetensorsFile file(folder_.path()); });
}

TEST(SafetensorsGolden, RewritingAModelGivesTheSameBytes) {
  RW_REQUIRE_SHARED();
  const std::string path = testing::shared_folder() + "/models/stories260k/model.safetensors";
  const SafetensorsFile file(path);
  ASSERT_FALSE(file.entries().empty());
  std::vector<std::vector<std::byte>> bytes;
  std::vector<NamedTensor> tensors;
  for (const SafetensorsEntry& tensor : file.entries()) {
    bytes.push_back(file.read_bytes(tensor));
    tensors.push_back({tensor.name, Tensor(bytes.back().data(), tensor.dtype, tensor.shape)});
  }
  const ScratchFolder folder;
  write_safetensors(folder.file("copy"), std::move(tensors), file.metadata());
  EXPECT_EQ(read_file(folder.file("copy")), read_file(path));
}

}  // namespace
}  // namespace rankwise
