// SPDX-License-Identifier: Apache-2.0
#include "runtime/io/weight_source.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <cstring>
#include <filesystem>

#include "runtime/io/safetensors.h"
#include "tests/runtime/io/safetensors_bytes.h"
#include "tests/support/error_of.h"
#include "tests/support/golden.h"
#include "tests/support/scratch_folder.h"

namespace rankwise {
namespace {

using testing::error_of;

class FolderWeights : public ::testing::Test {
 protected:
  // A shard with one-byte tensors of these names, values counting up from `first`.
  void add_shard(const std::string& file, const std::vector<std::string>& names, uint8_t first) {
    std::vector<uint8_t> values(names.size());
    std::vector<NamedTensor> tensors;
    for (size_t i = 0; i < names.size(); ++i) {
      values[i] = static_cast<uint8_t>(first + i);
      tensors.push_back({names[i], Tensor(&values[i], DType::kU8, Shape{1})});
    }
    write_safetensors(folder_.file(file), tensors);
  }
  void add_index(const std::string& weight_map, const std::string& metadata = "{}") {
    folder_.write("model.safetensors.index.json",
                  R"({"metadata":)" + metadata + R"(,"weight_map":)" + weight_map + "}");
  }
  std::string refusal() {
    return error_of<FormatError>([&] { open_weights(folder_.path()); });
  }
  float value(const WeightSource& source, const std::string& name) {
    float result = 0.0f;
    source.read(name, Tensor(&result, DType::kF32, Shape{1}));
    return result;
  }
  testing::ScratchFolder folder_;
};

TEST_F(FolderWeights, ReadsRows) {
  std::vector<uint8_t> bytes = {'a', 'b', 'c', 'd', 'e', 'f'};
  write_safetensors(folder_.file("model.safetensors"),
                    {{"t", Tensor(bytes.data(), DType::kU8, Shape{3, 2})}});
  const auto source = open_weights(folder_.path());
  std::vector<float> rows(4);
  source->read_rows("t", 1, 3, Tensor(rows.data(), DType::kF32, Shape{2, 2}));
  EXPECT_EQ(rows, (std::vector<float>{'c', 'd', 'e', 'f'}));
  source->read_rows("t", 3, 3, Tensor(rows.data(), DType::kF32, Shape{0}));
  const auto refuse = [&](int64_t begin, int64_t end) {
    return error_of<FormatError>([&] {
      source->read_rows("t", begin, end, Tensor(rows.data(), DType::kF32, Shape{2, 2}));
    });
  };
  RW_EXPECT_HAS(refuse(2, 4), "tensor 't': no rows [2, 4) in shape (3, 2)");
  RW_EXPECT_HAS(refuse(-1, 1), "no rows");
  RW_EXPECT_HAS(refuse(0, 1), "rows [0, 1) of shape (3, 2)");
}

TEST_F(FolderWeights, ReadsASingleFile) {
  add_shard("model.safetensors", {"a", "b"}, 5);
  const auto source = open_weights(folder_.path());
  EXPECT_EQ(source->names(), (std::vector<std::string>{"a", "b"}));
  EXPECT_EQ(value(*source, "b"), 6.0f);
  EXPECT_EQ(source->shape("a"), Shape{1});
  EXPECT_EQ(source->dtype("a"), DType::kU8);
  EXPECT_EQ(source->description(), folder_.path());
  Arena arena;
  EXPECT_FALSE(source->read_quantized("a", arena, "weights").has_value());
  EXPECT_FALSE(source->read_quantized("a", MatrixSlice::all({1, 1}), arena, "weights").has_value());
  EXPECT_EQ(arena.peak_bytes(), 0);
}

TEST_F(FolderWeights, FollowsTheIndexNotTheFolder) {
  add_shard("one.safetensors", {"a", "unlisted"}, 1);
  add_shard("two.safetensors", {"b"}, 9);
  add_shard("consolidated.safetensors", {"a", "b"}, 100);  // not in the index
  add_index(R"({"b":"two.safetensors","a":"one.safetensors"})", R"({"total_size":2.0e0})");
  const auto source = open_weights(folder_.path());
  EXPECT_EQ(source->names(), (std::vector<std::string>{"a", "b"}));
  EXPECT_EQ(value(*source, "a"), 1.0f);
  EXPECT_EQ(value(*source, "b"), 9.0f);
  EXPECT_FALSE(source->contains("unlisted"));
}

TEST_F(FolderWeights, IgnoresSavedRotaryFrequencies) {
  add_shard("one.safetensors", {"model.layers.0.self_attn.rotary_emb.inv_freq", "a"}, 1);
  add_index(
      R"({"a":"one.safetensors","model.layers.0.self_attn.rotary_emb.inv_freq":"one.safetensors"})");
  EXPECT_EQ(open_weights(folder_.path())->names(), std::vector<std::string>{"a"});
  std::filesystem::rename(folder_.file("one.safetensors"), folder_.file("model.safetensors"));
  EXPECT_EQ(open_weights(folder_.path())->names(), std::vector<std::string>{"a"});
}

TEST_F(FolderWeights, MessagesNameFolderTensorAndShapes) {
  add_shard("model.safetensors", {"a"}, 1);
  const auto source = open_weights(folder_.path());
  RW_EXPECT_HAS(error_of<FormatError>([&] { source->shape("x"); }),
                folder_.path() + ": no tensor 'x'");
  Arena arena;
  error_of<FormatError>([&] {
    source->read_quantized("x", MatrixSlice::all({1, 1}), arena, "weights");
  });
  error_of<FormatError>([&] { source->read_quantized("x", arena, "weights"); });
  RW_EXPECT_HAS(error_of<FormatError>([&] {
                  source->read("a", Tensor(nullptr, DType::kF32, Shape{1, 1}));
                }),
                "tensor 'a': shape (1) where (1, 1) is expected");
}

TEST_F(FolderWeights, EmptyFolderSaysWhatWasLookedFor) {
  RW_EXPECT_HAS(
      refusal(),
      folder_.path() + ": holds neither model.safetensors nor model.safetensors.index.json");
  RW_EXPECT_HAS(error_of<FormatError>([&] { open_weights(folder_.file("none")); }), "no such");
  RW_EXPECT_HAS(error_of<FormatError>([&] { open_weights(folder_.write("text", "hello")); }),
                "neither a model folder nor a quantised store");
}

TEST_F(FolderWeights, BrokenIndexesAreRefused) {
  const std::string index = "model.safetensors.index.json";
  add_shard("one.safetensors", {"a"}, 1);
  add_index(R"(["one.safetensors"])");
  RW_EXPECT_HAS(refusal(), "no object weight_map");
  folder_.write(index, "[]");
  RW_EXPECT_HAS(refusal(), "no object weight_map");
  folder_.write(index, "{\"weight_map\":{\"a\":");
  RW_EXPECT_HAS(refusal(), index + ": byte ");
  add_index(R"({"a":1})");
  RW_EXPECT_HAS(refusal(), "weight_map entry 'a' is not a string");
  add_index(R"({"a":"one.safetensors","a":"two.safetensors"})");
  RW_EXPECT_HAS(refusal(), "duplicate key 'a'");
  add_index(R"({"a":"two.safetensors"})");
  RW_EXPECT_HAS(refusal(), "two.safetensors: cannot be opened");
  add_index(R"({"a":"one.safetensors","b":"one.safetensors"})");
  RW_EXPECT_HAS(refusal(), "tensor 'b' is not in 'one.safetensors'");
  add_shard("two.safetensors", {"a", "b"}, 1);
  add_index(R"({"a":"one.safetensors","b":"two.safetensors"})");
  RW_EXPECT_HAS(refusal(), "tensor 'a' is in 'one.safetensors' and in 'two.safetensors'");
}

TEST_F(FolderWeights, ShardNamesThatLeaveTheFolderAreRefused) {
  testing::ScratchFolder outside;
  const std::string secret = outside.write("x.safetensors", testing::safetensors_bytes("{}"));
  std::filesystem::create_symlink(secret, folder_.file("link.safetensors"));
  for (const std::string& name :
       {std::string("../x.safetensors"), secret, std::string("sub/../../x.safetensors"),
        std::string("link.safetensors"), std::string("a\\\\..\\\\x"), std::string("a\\u0000"),
        std::string("")}) {
    add_index(R"({"a":")" + name + "\"}");
    RW_EXPECT_HAS(refusal(), "model.safetensors.index.json: file name '");
  }
  mkfifo(folder_.file("pipe.safetensors").c_str(), 0600);
  add_index(R"({"a":"pipe.safetensors"})");
  RW_EXPECT_HAS(refusal(), "not a regular file");
}

TEST(GoldenWeights, EveryTensorOfATinyModelReads) {
  RW_REQUIRE_SHARED();
  const auto source = open_weights(testing::shared_folder() + "/models/stories260k");
  Arena arena;
  for (const std::string& name : source->names()) {
    const Tensor whole = arena.allocate("a", DType::kF32, source->shape(name));
    source->read(name, whole);
    if (whole.rank() != 2 || whole.dim(0) < 4) continue;
    const Tensor part = arena.allocate("a", DType::kF32, Shape{2, whole.dim(1)});
    source->read_rows(name, 1, 3, part);
    EXPECT_EQ(testing::max_abs_difference(part, whole.rows(1, 3)), 0.0) << name;
    const int64_t first = whole.dim(1) / 2;  // runs across the ends of rows
    source->read_elements(name, first, part);
    EXPECT_EQ(
        std::memcmp(part.raw(), whole.data<float>() + first, static_cast<size_t>(part.bytes())), 0)
        << name;
  }
}

}  // namespace
}  // namespace rankwise
