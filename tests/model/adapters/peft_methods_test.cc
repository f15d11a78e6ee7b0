// SPDX-License-Identifier: Apache-2.0
// What folders of AdaLoRA and DoRA have beyond those of LoRA.
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <string>
#include <vector>

#include "runtime/errors.h"
#include "runtime/io/atomic_file.h"
#include "runtime/io/safetensors.h"
#include "tests/model/adapters/adapter_set.h"
#include "tests/support/error_of.h"
#include "tests/support/scratch_folder.h"

namespace rankwise {
namespace {

using testing::AdapterSet;
using testing::error_of;

constexpr const char* kQuery = "model.layers.0.self_attn.q_proj";
constexpr const char* kValue = "model.layers.0.self_attn.v_proj";
constexpr const char* kPrefix = "base_model.model.";

PeftConfig config_of(const std::string& type) {
  PeftConfig config;
  config.target_modules = {"q_proj", "v_proj"};
  config.peft_type = type;
  if (type == "ADALORA")
    config.adalora = AdaLoraSettings{.init_r = 3, .total_step = 10, .kept = {}};
  return config;
}

PeftConfig dora_config() {
  PeftConfig config = config_of("LORA");
  config.r = 3;
  config.use_dora = true;
  return config;
}

PeftConfig pruned_config() {
  PeftConfig config = config_of("ADALORA");
  config.adalora->kept = {{kQuery, {true, false, true}}, {kValue, {false, false, false}}};
  return config;
}

std::vector<float> values_of(const Tensor& tensor) {
  return {tensor.data<float>(), tensor.data<float>() + tensor.numel()};
}

std::vector<float> values_in(const SafetensorsFile& file, const std::string& name) {
  const SafetensorsEntry& entry = file.at(kPrefix + name);
  std::vector<float> values(static_cast<size_t>(entry.shape.numel()));
  file.read(entry, Tensor(values.data(), DType::kF32, entry.shape));
  return values;
}

// 0, 1, 2, ... in every parameter.
void count_up(AdapterSet& adapters) {
  for (Parameter* parameter : adapters.parameters()) {
    for (int64_t i = 0; i < parameter->dense().numel(); ++i) {
      parameter->dense().data<float>()[i] = static_cast<float>(i);
    }
  }
}

// A folder of one method with values 0, 1, 2, ... and one layer of modules.
class MethodFolder {
 public:
  explicit MethodFolder(const PeftConfig& config) : adapters(config, 1), config_(config) {
    count_up(adapters);
    write_peft_folder(folder(), config, adapters.list, {}, adapters.stream);
  }
  std::string folder() const { return scratch_.file("adapter"); }
  std::string tensors() const { return folder() + "/adapter_model.safetensors"; }
  SafetensorsFile file() const { return SafetensorsFile(tensors()); }

  void change_config(const std::string& pointer, const Json& value) const {
    Json json = read_json_file(folder() + "/adapter_config.json");
    json[Json::json_pointer(pointer)] = value;
    scratch_.write("adapter/adapter_config.json", json.dump());
  }
  // Writes the adapters' tensors anew, with the changes that `change` makes to their list.
  template <class Change>
  void rewrite(const Change& change) {
    std::vector<NamedTensor> list;
    for (const Parameter* parameter : adapters.parameters()) {
      list.push_back({kPrefix + parameter->name, parameter->dense()});
    }
    for (NamedTensor& tensor : list) change(tensor);
    write_safetensors(tensors(), list);
  }
  std::string loading_error(const PeftConfig& config) {
    AdapterSet other(config, 1);
    return error_of<FormatError>([&] { load_peft_weights(folder(), other.list, other.stream); });
  }
  std::string loading_error() { return loading_error(config_); }

  AdapterSet adapters;

 private:
  testing::ScratchFolder scratch_;
  PeftConfig config_;
};

std::string writing_error(const PeftConfig& config, AdapterSet& adapters) {
  const testing::ScratchFolder scratch;
  const std::string message = error_of<FormatError>(
      [&] { write_peft_folder(scratch.file("out"), config, adapters.list, {}, adapters.stream); });
  EXPECT_TRUE(std::filesystem::is_empty(scratch.path()));
  return message;
}

TEST(AdaLoraFolder, HoldsOnlyTheTripletsThatThePatternKeeps) {
  const MethodFolder written(pruned_config());
  const SafetensorsFile file = written.file();
  EXPECT_EQ(file.entries().size(), 6u);
  const std::string query(kQuery);
  EXPECT_EQ(file.at(kPrefix + query + ".lora_A").shape, (Shape{2, 6}));
  EXPECT_EQ(values_in(file, query + ".lora_A"),
            (std::vector<float>{0, 1, 2, 3, 4, 5, 12, 13, 14, 15, 16, 17}));
  EXPECT_EQ(file.at(kPrefix + query + ".lora_E").shape, (Shape{2, 1}));
  EXPECT_EQ(values_in(file, query + ".lora_E"), (std::vector<float>{0, 2}));
  EXPECT_EQ(file.at(kPrefix + query + ".lora_B").shape, (Shape{4, 2}));
  EXPECT_EQ(values_in(file, query + ".lora_B"), (std::vector<float>{0, 2, 3, 5, 6, 8, 9, 11}));
  const std::string value(kValue);
  EXPECT_EQ(file.at(kPrefix + value + ".lora_A").shape, (Shape{0, 6}));
  EXPECT_EQ(file.at(kPrefix + value + ".lora_E").shape, (Shape{0, 1}));
  EXPECT_EQ(file.at(kPrefix + value + ".lora_B").shape, (Shape{4, 0}));
}

// With zeros in all its factors a triplet would never get a gradient.
TEST(AdaLoraFolder, LoadsKeptTripletsToTheirPlacesAndLeavesTheOthersAsTheyBegan) {
  const MethodFolder written(pruned_config());
  AdapterSet loaded(pruned_config(), 1);
  for (Parameter* parameter : loaded.parameters()) {
    std::fill_n(parameter->dense().data<float>(), parameter->dense().numel(), -7.0f);
  }
  load_peft_weights(written.folder(), loaded.list, loaded.stream);
  const std::vector<std::vector<float>> expected = {
      {0, -7, 2, 3, -7, 5, 6, -7, 8, 9, -7, 11},
      {0, 0, 2},
      {0, 1, 2, 3, 4, 5, -7, -7, -7, -7, -7, -7, 12, 13, 14, 15, 16, 17}};
  const std::vector<Parameter*> parameters = loaded.parameters();  // B, E, A of q, then of v
  ASSERT_EQ(parameters.size(), 6u);
  for (size_t i = 0; i < 3; ++i) {
    EXPECT_EQ(values_of(parameters[i]->dense()), expected[i]) << parameters[i]->name;
    const float untouched = i == 1 ? 0.0f : -7.0f;
    EXPECT_EQ(values_of(parameters[i + 3]->dense()),
              std::vector<float>(expected[i].size(), untouched))
        << parameters[i + 3]->name;
  }
}

TEST(AdaLoraFolder, AModuleOutsideThePatternIsWhole) {
  PeftConfig config = pruned_config();
  config.adalora->kept.erase(kValue);
  const MethodFolder written(config);
  EXPECT_EQ(written.file().at(std::string(kPrefix) + kQuery + ".lora_A").shape, (Shape{2, 6}));
  EXPECT_EQ(written.file().at(std::string(kPrefix) + kValue + ".lora_A").shape, (Shape{3, 6}));
}

TEST(AdaLoraFolder, LoadingNamesWhereThePatternDoesNotFit) {
  MethodFolder written(pruned_config());
  const std::string pattern = std::string("/rank_pattern/") + kQuery + ".lora_E";
  written.change_config(pattern, {true, true, true});
  std::string message = written.loading_error();
  RW_EXPECT_HAS(message, written.tensors());
  RW_EXPECT_HAS(message, "q_proj.lora_B has shape (4, 2), rank_pattern keeps 3 triplets and needs");
  written.change_config(pattern, {true, true});
  message = written.loading_error();
  RW_EXPECT_HAS(message,
                "adapter_config.json: rank_pattern.model.layers.0.self_attn.q_proj.lora_E");
  RW_EXPECT_HAS(message, "2 values, init_r is 3");
  written.change_config(pattern, {true, false, true});

  PeftConfig wider = config_of("ADALORA");
  wider.adalora->init_r = 4;
  RW_EXPECT_HAS(written.loading_error(wider), "pruned from 3 triplets, the adapter needs (4, 4)");
  PeftConfig lora = config_of("LORA");
  lora.r = 3;
  RW_EXPECT_HAS(written.loading_error(lora),
                "peft_type ADALORA with use_dora false does not fit "
                "lora of model.layers.0.self_attn.q_proj");
  written.change_config("/rank_pattern/h.0.lora_E", {true, true, true});
  RW_EXPECT_HAS(written.loading_error(), "rank_pattern: h.0 has no adapter");
  written.change_config("/rank_pattern", nullptr);
  RW_EXPECT_HAS(written.loading_error(), "has shape (4, 2), the adapter needs (4, 3)");
}

TEST(AdaLoraFolder, IsNotWrittenWithAConfigOfOtherAdapters) {
  AdapterSet adapters(config_of("ADALORA"), 1);
  PeftConfig config = pruned_config();
  config.adalora->init_r = 4;
  RW_EXPECT_HAS(writing_error(config, adapters), "3 values, init_r is 4");
  config.adalora->kept.clear();
  RW_EXPECT_HAS(writing_error(config, adapters),
                "init_r gives model.layers.0.self_attn.q_proj "
                "rank 4, its adapter has 3");
  config = config_of("LORA");
  config.r = 3;
  RW_EXPECT_HAS(writing_error(config, adapters), "peft_type LORA with use_dora false does not fit");
  config = pruned_config();
  config.adalora->kept["h.0"] = {true, true, true};
  RW_EXPECT_HAS(writing_error(config, adapters), "rank_pattern: h.0 has no adapter");
}

TEST(DoraFolder, HoldsTheMagnitudeUnderPeftsName) {
  const MethodFolder written(dora_config());
  const SafetensorsFile file = written.file();
  EXPECT_EQ(file.entries().size(), 6u);
  const std::string name = std::string(kQuery) + ".lora_magnitude_vector";
  EXPECT_EQ(file.at(kPrefix + name).shape, Shape{4});
  EXPECT_EQ(values_in(file, name), (std::vector<float>{0, 1, 2, 3}));
  EXPECT_TRUE(read_peft_config(written.folder()).use_dora);
}

TEST(DoraFolder, LoadsEverySpellingAndShapeOfTheMagnitude) {
  MethodFolder written(dora_config());
  for (const char* suffix : {"", ".weight"}) {
    for (const Shape& shape : {Shape{4}, Shape{4, 1}, Shape{1, 4}}) {
      written.rewrite([&](NamedTensor& tensor) {
        if (!tensor.name.ends_with("vector")) return;
        tensor = {tensor.name + suffix, tensor.tensor.reshaped(shape)};
      });
      AdapterSet loaded(dora_config(), 1);
      loaded.randomise(1);
      load_peft_weights(written.folder(), loaded.list, loaded.stream);
      for (size_t i = 0; i < loaded.parameters().size(); ++i) {
        EXPECT_EQ(values_of(loaded.parameters()[i]->dense()),
                  values_of(written.adapters.parameters()[i]->dense()))
            << suffix << to_string(shape);
      }
    }
  }
  written.rewrite([&](NamedTensor& tensor) {
    if (tensor.name.ends_with("vector")) tensor.tensor = tensor.tensor.reshaped({2, 2});
  });
  RW_EXPECT_HAS(written.loading_error(),
                "q_proj.lora_magnitude_vector has shape (2, 2), the adapter needs (4)");
  written.rewrite([&](NamedTensor& tensor) {
    if (tensor.name.ends_with("vector")) tensor.name += ".bias";
  });
  RW_EXPECT_HAS(written.loading_error(), "q_proj.lora_magnitude_vector");
}

TEST(DoraFolder, IsNotWrittenWithAConfigThatForgetsOrInventsTheMagnitude) {
  PeftConfig lora = dora_config();
  lora.use_dora = false;
  AdapterSet with(dora_config(), 1);
  RW_EXPECT_HAS(writing_error(lora, with), "use_dora false does not fit dora of");
  AdapterSet without(lora, 1);
  RW_EXPECT_HAS(writing_error(dora_config(), without), "use_dora true does not fit lora of");
}

}  // namespace
}  // namespace rankwise
