// SPDX-License-Identifier: Apache-2.0
#include "model/hf_folder.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <set>
#include <string>
#include <vector>

#include "runtime/errors.h"
#include "runtime/io/atomic_file.h"
#include "tests/model/tiny_config.h"
#include "tests/support/golden.h"
#include "tests/support/scratch_folder.h"

namespace rankwise {
namespace {

namespace fs = std::filesystem;
using testing::tiny_config;

// All tensors of a random model.
std::vector<NamedTensor> read_all(const WeightSource& source, Arena& arena) {
  std::vector<NamedTensor> tensors;
  for (const std::string& name : source.names()) {
    tensors.push_back({name, arena.allocate("test", DType::kF32, source.shape(name))});
    source.read(name, tensors.back().tensor);
  }
  return tensors;
}

void expect_same_weights(const std::string& folder, const std::vector<NamedTensor>& tensors,
                         Arena& arena) {
  const auto source = open_weights(folder);
  EXPECT_EQ(source->names().size(), tensors.size());
  for (const NamedTensor& named : tensors) {
    const Tensor back = arena.allocate("test", DType::kF32, named.tensor.shape());
    source->read(named.name, back);
    EXPECT_EQ(testing::max_abs_difference(back, named.tensor), 0.0) << named.name;
  }
}

TEST(HfFolder, KeepsTheKeysOfTheSourceConfig) {
  const testing::ScratchFolder scratch;
  Arena arena;
  const ModelConfig config = tiny_config({{"pretraining_tp", 1}, {"my_key", {{"a", "b"}}}});
  const auto tensors = read_all(*make_random_weights(config, 1), arena);
  write_hf_folder(scratch.file("model"), config, tensors, {{"tokenizer.json", "[]"}});
  const Json json = read_json_file(scratch.file("model/config.json"));
  EXPECT_EQ(json, config.source);
  EXPECT_EQ(json.dump(), config.source.dump());  // in its order
  EXPECT_EQ(read_file(scratch.file("model/tokenizer.json")), "[]");
  EXPECT_EQ(load_model_config(scratch.file("model")).head_dim, 6);
  EXPECT_FALSE(fs::exists(scratch.file("model/model.safetensors.index.json")));
  expect_same_weights(scratch.file("model"), tensors, arena);
}

TEST(HfFolder, SplitsIntoShardsWithAnIndex) {
  const testing::ScratchFolder scratch;
  Arena arena;
  const ModelConfig config = tiny_config();
  const auto tensors = read_all(*make_random_weights(config, 1), arena);
  write_hf_folder(scratch.file("model"), config, tensors, {}, false, 4000);
  const Json index = read_json_file(scratch.file("model/model.safetensors.index.json"));
  int64_t bytes = 0;
  std::set<std::string> files;
  for (const NamedTensor& named : tensors) {
    bytes += named.tensor.bytes();
    files.insert(index["weight_map"].at(named.name).get<std::string>());
  }
  EXPECT_EQ(index["metadata"]["total_size"], bytes);
  EXPECT_EQ(index["weight_map"].size(), tensors.size());
  EXPECT_GT(files.size(), 5u);
  EXPECT_EQ(*files.begin(), fmt::format("model-00001-of-{:05}.safetensors", files.size()));
  for (const std::string& file : files) {
    EXPECT_LT(fs::file_size(scratch.file("model/" + file)), 4000u + 2000u);  // and a header
  }
  EXPECT_FALSE(fs::exists(scratch.file("model/model.safetensors")));
  expect_same_weights(scratch.file("model"), tensors, arena);
}

TEST(HfFolder, ShardsFillGreedilyInOrder) {
  const std::vector<int64_t> sizes{3, 3, 4, 11, 1, 9};
  EXPECT_EQ(split_into_shards(sizes, 10),
            (std::vector<std::vector<size_t>>{{0, 1, 2}, {3}, {4, 5}}));
  EXPECT_TRUE(split_into_shards({}, 10).empty());
}

TEST(HfFolder, ReplacesOnlyEmptyFoldersUnlessTold) {
  const testing::ScratchFolder scratch;
  Arena arena;
  const ModelConfig config = tiny_config();
  const auto tensors = read_all(*make_random_weights(config, 1), arena);
  const std::string folder = scratch.write("model/notes.txt", "mine");
  EXPECT_THROW(write_hf_folder(scratch.file("model"), config, tensors, {}), DiskError);
  EXPECT_EQ(read_file(folder), "mine");
  fs::create_directory(scratch.file("empty"));
  write_hf_folder(scratch.file("empty"), config, tensors, {});
  EXPECT_TRUE(fs::exists(scratch.file("empty/config.json")));
  write_hf_folder(scratch.file("model"), config, tensors, {}, true);
  EXPECT_FALSE(fs::exists(folder));
  EXPECT_TRUE(fs::exists(scratch.file("model/model.safetensors")));
}

TEST(HfFolder, AFailedWriteLeavesNothing) {
  const testing::ScratchFolder scratch;
  Arena arena;
  const ModelConfig config = tiny_config();
  const auto tensors = read_all(*make_random_weights(config, 1), arena);
  EXPECT_THROW(write_hf_folder(scratch.file("model"), config, tensors, {{"a/b", ""}}), Error);
  EXPECT_TRUE(fs::is_empty(scratch.path()));
  scratch.write("file", "");
  EXPECT_THROW(write_hf_folder(scratch.file("file/model"), config, tensors, {}), DiskError);
}

TEST(WeightShapes, FollowTheConfig) {
  const auto shapes = weight_shapes(tiny_config({{"attention_bias", true}}));
  EXPECT_EQ(shapes.front().first, "model.embed_tokens.weight");
  EXPECT_EQ(shapes.back().first, "lm_head.weight");
  EXPECT_EQ(shapes[1].first, "model.layers.0.self_attn.q_proj.weight");
  EXPECT_EQ(shapes[1].second, (Shape{24, 16}));
  EXPECT_EQ(shapes[2].first, "model.layers.0.self_attn.q_proj.bias");
  EXPECT_EQ(shapes[2].second, Shape{24});
  EXPECT_EQ(shapes.size(), 1u + 2u * (9u + 4u) + 2u);
  EXPECT_EQ(weight_shapes(tiny_config({{"tie_word_embeddings", true}})).back().first,
            "model.norm.weight");
}

TEST(WeightShapes, BlockLinearsAreTheMatricesInsideBlocks) {
  const ModelConfig config = tiny_config();
  EXPECT_TRUE(is_block_linear(config, "model.layers.1.mlp.up_proj", {24, 16}));
  EXPECT_TRUE(is_block_linear(config, "model.layers.0.self_attn.q_proj.weight", {16, 16}));
  EXPECT_FALSE(is_block_linear(config, "model.layers.0.input_layernorm.weight", {16}));
  EXPECT_FALSE(is_block_linear(config, "model.embed_tokens.weight", {64, 16}));
  EXPECT_FALSE(is_block_linear(config, "lm_head.weight", {64, 16}));
}

TEST(HfFolder, ConfigNamesTheTypeOfTheWrittenWeights) {
  const testing::ScratchFolder scratch;
  Arena arena;
  const Tensor weight = arena.allocate("test", DType::kF32, {2, 2});
  std::fill_n(weight.data<float>(), weight.numel(), 0.0f);
  const ModelConfig config = tiny_config({{"torch_dtype", "bfloat16"}});
  write_hf_folder(scratch.file("out"), config, {{"w", weight}}, {});
  const Json written = read_json_file(scratch.file("out") + "/config.json");
  EXPECT_EQ(written.at("torch_dtype"), "float32");
  EXPECT_FALSE(written.contains("dtype"));
}

TEST(RandomWeights, AreAFunctionOfSeedAndName) {
  Arena arena;
  const ModelConfig config = tiny_config({{"attention_bias", true}, {"hidden_size", 64}});
  const auto source = make_random_weights(config, 1);
  const std::string name = "model.layers.1.mlp.up_proj.weight";
  const Tensor whole = arena.allocate("test", DType::kF32, source->shape(name));
  const Tensor again = arena.allocate("test", DType::kF32, source->shape(name));
  source->read(name, whole);
  make_random_weights(config, 1)->read(name, again);
  EXPECT_EQ(testing::max_abs_difference(whole, again), 0.0);
  make_random_weights(config, 2)->read(name, again);
  EXPECT_GT(testing::max_abs_difference(whole, again), 0.1);
  source->read("model.layers.0.mlp.up_proj.weight", again);
  EXPECT_GT(testing::max_abs_difference(whole, again), 0.1);

  double square = 0.0;
  for (int64_t i = 0; i < whole.numel(); ++i) square += std::pow(whole.data<float>()[i], 2.0);
  EXPECT_NEAR(std::sqrt(square / static_cast<double>(whole.numel())), 0.3, 0.02);

  const Tensor rows = arena.allocate("test", DType::kF32, {3, 64});
  source->read_rows(name, 5, 8, rows);
  EXPECT_EQ(testing::max_abs_difference(rows, whole.rows(5, 8)), 0.0);
}

TEST(RandomWeights, NormsAreOneAndBiasesZero) {
  Arena arena;
  const auto source = make_random_weights(tiny_config({{"attention_bias", true}}), 1);
  const auto expect_all = [&](const std::string& name, float value) {
    const Tensor tensor = arena.allocate("test", DType::kF32, source->shape(name));
    source->read(name, tensor);
    EXPECT_TRUE(std::all_of(tensor.data<float>(), tensor.data<float>() + tensor.numel(),
                            [value](float x) { return x == value; }))
        << name;
  };
  expect_all("model.norm.weight", 1.0f);
  expect_all("model.layers.0.input_layernorm.weight", 1.0f);
  expect_all("model.layers.0.self_attn.q_proj.bias", 0.0f);
  EXPECT_THROW(source->shape("model.layers.9.input_layernorm.weight"), FormatError);
}

}  // namespace
}  // namespace rankwise
