// SPDX-License-Identifier: Apache-2.0
#include "runtime/io/quantized_store.h"

#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>

#include "runtime/io/atomic_file.h"
#include "runtime/io/hdf5_file.h"
#include "tests/runtime/io/random_quantized.h"
#include "tests/support/error_of.h"
#include "tests/support/scratch_folder.h"

namespace rankwise {
namespace {

using testing::error_of;
using testing::make_quantized;

bool same_bytes(const Tensor& a, const Tensor& b) {
  return a.dtype() == b.dtype() && a.shape() == b.shape() &&
         std::memcmp(a.raw(), b.raw(), static_cast<size_t>(a.bytes())) == 0;
}

class QuantizedStore : public ::testing::Test {
 protected:
  void write_store() {
    QuantizedStoreWriter writer(path_);
    writer.add("plain.weight", make_quantized(arena_, false));
    writer.add("nested.weight", make_quantized(arena_, true));
    writer.add("norm.weight", Tensor(norm_.data(), DType::kBF16, Shape{3}));
    writer.add("odd.codes", Tensor(norm_.data(), DType::kBF16, Shape{1, 3}));  // dense all the same
    writer.add_file("config.json", "{}");
    writer.add_file("empty", "");
    writer.commit();
  }
  size_t files_in_folder() {
    return static_cast<size_t>(std::distance(std::filesystem::directory_iterator(folder_.path()),
                                             std::filesystem::directory_iterator()));
  }

  testing::ScratchFolder folder_;
  std::string path_ = folder_.file("model.h5");
  Arena arena_;
  std::vector<uint16_t> norm_ = {0x3f80, 0x4000, 0xc040};  // 1, 2, -3
};

TEST_F(QuantizedStore, GivesBackCodesScalesAndScheme) {
  write_store();
  const auto source = open_weights(path_);
  EXPECT_EQ(source->names(), (std::vector<std::string>{"nested.weight", "norm.weight", "odd.codes",
                                                       "plain.weight"}));
  for (const bool nested : {false, true}) {
    const QuantizedTensor expected = make_quantized(arena_, nested);
    const std::string name = nested ? "nested.weight" : "plain.weight";
    EXPECT_EQ(source->shape(name), (Shape{333, 67}));
    EXPECT_EQ(source->dtype(name), DType::kBF16);
    const auto read = source->read_quantized(name, arena_, "weights");
    ASSERT_TRUE(read.has_value());
    EXPECT_EQ(read->shape, expected.shape);
    EXPECT_EQ(read->block_size, 64);
    EXPECT_EQ(read->source_dtype, DType::kBF16);
    EXPECT_EQ(read->nested(), nested);
    EXPECT_EQ(read->nested_offset, expected.nested_offset);
    EXPECT_TRUE(same_bytes(read->codes, expected.codes));
    EXPECT_TRUE(same_bytes(read->absmax, expected.absmax));
    if (!nested) continue;
    EXPECT_TRUE(same_bytes(read->nested_absmax, expected.nested_absmax));
    EXPECT_TRUE(same_bytes(read->nested_map, expected.nested_map));
  }
}

TEST_F(QuantizedStore, ConvertsDenseTensors) {
  write_store();
  const auto source = open_quantized_store(path_);
  std::vector<float> values(3);
  source->read("norm.weight", Tensor(values.data(), DType::kF32, Shape{3}));
  EXPECT_EQ(values, (std::vector<float>{1.0f, 2.0f, -3.0f}));
  source->read_rows("norm.weight", 1, 3, Tensor(values.data(), DType::kF32, Shape{2}));
  EXPECT_EQ(values, (std::vector<float>{2.0f, -3.0f, -3.0f}));
  std::vector<uint16_t> raw(3);
  source->read("norm.weight", Tensor(raw.data(), DType::kBF16, Shape{3}));
  EXPECT_EQ(raw, norm_);
  EXPECT_FALSE(source->read_quantized("norm.weight", arena_, "weights").has_value());
}

TEST_F(QuantizedStore, MeasuringAllocatesTheSameBytes) {
  write_store();
  const auto source = open_quantized_store(path_);
  Arena real;
  Arena measured({}, Arena::Mode::kMeasure);
  source->read_quantized("nested.weight", real, "weights");
  source->read_quantized("nested.weight", measured, "weights");
  source->read("norm.weight", measured.allocate("weights", DType::kF32, Shape{3}));
  EXPECT_EQ(real.peak_bytes() + 64, measured.peak_bytes());
}

TEST_F(QuantizedStore, MessagesNameStoreAndTensor) {
  write_store();
  const auto source = open_quantized_store(path_);
  RW_EXPECT_HAS(error_of<FormatError>([&] { source->shape("x"); }),
                path_ + ": tensor 'x': not in the store");
  const Tensor out(nullptr, DType::kF32, Shape{333, 67});
  RW_EXPECT_HAS(error_of<FormatError>([&] { source->read("plain.weight", out); }),
                "is quantised, where a dense tensor is expected; codes take no updates");
  RW_EXPECT_HAS(error_of<FormatError>([&] { source->read("norm.weight", out); }),
                "shape (3) where (333, 67) is expected");
}

TEST_F(QuantizedStore, HoldsFiles) {
  write_store();
  EXPECT_EQ(store_files(path_), (std::vector<std::string>{"config.json", "empty"}));
  EXPECT_EQ(read_store_file(path_, "config.json"), "{}");
  EXPECT_EQ(read_store_file(path_, "empty"), "");
  RW_EXPECT_HAS(error_of<FormatError>([&] { read_store_file(path_, "tokenizer.json"); }),
                "'/files/tokenizer.json': absent");
  error_of<FormatError>([&] { read_store_file(path_, "../tensors/norm.weight"); });
}

TEST_F(QuantizedStore, IsRecognised) {
  write_store();
  EXPECT_TRUE(is_quantized_store(path_));
  EXPECT_FALSE(is_quantized_store(folder_.path()));
  EXPECT_FALSE(is_quantized_store(folder_.file("none")));
  EXPECT_FALSE(is_quantized_store(folder_.write("text", "\x89HDF")));
  const std::string other = folder_.file("other.h5");
  Hdf5File file(other, Hdf5File::Mode::kCreate);
  file.close();
  EXPECT_FALSE(is_quantized_store(other));
  RW_EXPECT_HAS(error_of<FormatError>([&] { open_weights(other); }), "neither a model folder");
  RW_EXPECT_HAS(error_of<FormatError>([&] { store_files(other); }), "not a quantised store");
}

TEST_F(QuantizedStore, UnknownVersionsAreRefused) {
  Hdf5File file(path_, Hdf5File::Mode::kCreate);
  file.write_attribute("/", "format", std::string("rankwise-quantized-store"));
  file.write_attribute("/", "version", int64_t{2});
  file.close();
  RW_EXPECT_HAS(error_of<FormatError>([&] { open_weights(path_); }),
                "store of version 2; this program reads version 1");
}

TEST_F(QuantizedStore, ShapesAndBlocksThatDoNotFitTheCodesAreRefused) {
  const auto refusal = [&](int64_t rows, int64_t columns, int64_t block_size) {
    Hdf5File file(path_, Hdf5File::Mode::kCreate);
    file.write_attribute("/", "format", std::string("rankwise-quantized-store"));
    file.write_attribute("/", "version", int64_t{1});
    file.write_bytes("/tensors/w.codes", "abcd");
    file.write_attribute("/tensors/w.codes", "scheme", std::string("nf4"));
    file.write_attribute("/tensors/w.codes", "source_dtype", std::string("F32"));
    file.write_attribute("/tensors/w.codes", "nested_offset", 0.0);
    file.write_attribute("/tensors/w.codes", "rows", rows);
    file.write_attribute("/tensors/w.codes", "columns", columns);
    file.write_attribute("/tensors/w.codes", "block_size", block_size);
    file.close();
    return error_of<FormatError>([&] { open_weights(path_); });
  };
  RW_EXPECT_HAS(refusal(int64_t{1} << 40, int64_t{1} << 40, 64),
                "tensor 'w': shape (1099511627776, 1099511627776) in blocks of 64 does not fit");
  RW_EXPECT_HAS(refusal(1, 9, 64), "shape (1, 9) in blocks of 64 does not fit 4 bytes of codes");
  RW_EXPECT_HAS(refusal(1, INT64_MAX, 64), "does not fit");
  RW_EXPECT_HAS(refusal(-2, -4, 64), "does not fit");
  for (const int64_t block_size :
       {int64_t{-64}, int64_t{0}, int64_t{7}, int64_t{8192}, INT64_MAX}) {
    RW_EXPECT_HAS(refusal(2, 4, block_size), fmt::format("in blocks of {} does not", block_size));
  }
}

TEST_F(QuantizedStore, WithoutCommitNothingIsLeft) {
  {
    QuantizedStoreWriter writer(path_);
    writer.add("norm.weight", Tensor(norm_.data(), DType::kBF16, Shape{3}));
    EXPECT_EQ(files_in_folder(), 1u);
  }
  EXPECT_EQ(files_in_folder(), 0u);
}

TEST_F(QuantizedStore, FullDiskLeavesTheOldStore) {
  write_store();
  const std::string before = read_file(path_);
  std::vector<float> large(400'000);
  {
    const testing::FileSizeLimit limit(1'000'000);
    RW_EXPECT_HAS(error_of<DiskError>([&] {
                    QuantizedStoreWriter writer(path_);
                    writer.add("a", Tensor(large.data(), DType::kF32, Shape{400'000}));
                    writer.commit();
                  }),
                  "model.h5");
  }
  EXPECT_EQ(read_file(path_), before);
  EXPECT_EQ(files_in_folder(), 1u);
}

TEST_F(QuantizedStore, FlippedBitsOfDataAreFormatErrors) {
  write_store();
  const std::string good = read_file(path_);
  const QuantizedTensor expected = make_quantized(arena_, false);
  const std::string codes(static_cast<const char*>(expected.codes.raw()), 100);
  const size_t place = good.find(codes);
  ASSERT_NE(place, std::string::npos);
  for (const size_t bit : {0, 77, 799}) {
    std::string bad = good;
    bad[place + bit / 8] = static_cast<char>(bad[place + bit / 8] ^ (1 << bit % 8));
    const auto source = open_weights(folder_.write("bad.h5", bad));
    RW_EXPECT_HAS(error_of<FormatError>([&] {
                    for (const char* name : {"plain.weight", "nested.weight"}) {
                      source->read_quantized(name, arena_, "weights");
                    }
                  }),
                  ".weight.codes': data error detected by Fletcher32 checksum");
  }
}

TEST_F(QuantizedStore, NamesThatArePathsAreRefused) {
  QuantizedStoreWriter writer(path_);
  const Tensor tensor(norm_.data(), DType::kBF16, Shape{3});
  for (const char* name : {"", ".", "a/b", "/a"}) {
    RW_EXPECT_HAS(error_of<FormatError>([&] { writer.add(name, tensor); }), "cannot be a name");
    error_of<FormatError>([&] { writer.add_file(name, "x"); });
  }
}

}  // namespace
}  // namespace rankwise
