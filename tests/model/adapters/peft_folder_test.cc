// SPDX-License-Identifier: Apache-2.0
#include "model/adapters/peft_folder.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "model/adapters/lora_adapter.h"
#include "runtime/errors.h"
#include "runtime/io/atomic_file.h"
#include "runtime/io/safetensors.h"
#include "runtime/rng.h"
#include "tests/support/golden.h"
#include "tests/support/program.h"

namespace rankwise {
namespace {

namespace fs = std::filesystem;

// Adapters that belong to no model; modules "model.layers.<i>.self_attn.{q,v}_proj".
class AdapterSet {
 public:
  AdapterSet() = default;
  explicit AdapterSet(int64_t rank, int layers = 2) {
    for (int layer = 0; layer < layers; ++layer) {
      for (const char* name : {"q_proj", "v_proj"}) {
        add(fmt::format("model.layers.{}.self_attn.{}", layer, name), 6, 4, rank);
      }
    }
  }
  void add(const std::string& module, int64_t in, int64_t out, int64_t rank) {
    owned_.push_back(std::make_unique<LoraAdapter>(LinearSite{module, in, out, {}},
                                                   LoraOptions{.rank = rank}, 42, arena_, stream_));
    list.emplace_back(module, owned_.back().get());
  }
  void randomise(uint64_t seed) {
    for (Parameter* parameter : parameters()) {
      const Tensor tensor = parameter->dense();
      Rng(seed, parameter->name)
          .fill_normal({tensor.data<float>(), static_cast<size_t>(tensor.numel())}, 0.0f, 1.0f);
    }
  }
  std::vector<Parameter*> parameters() {
    std::vector<Parameter*> out;
    for (auto& [module, adapter] : list) {
      for (Parameter* parameter : adapter->parameters()) out.push_back(parameter);
    }
    return out;
  }

  std::vector<std::pair<std::string, Adapter*>> list;

 private:
  Arena arena_;
  Stream stream_;
  std::vector<std::unique_ptr<LoraAdapter>> owned_;
};

PeftConfig config_of_rank(int64_t rank) {
  PeftConfig config;
  config.r = rank;
  config.target_modules = {"q_proj", "v_proj"};
  return config;
}

Json minimal(const Json& changes = Json::object()) {
  Json json{{"peft_type", "LORA"}, {"target_modules", {"q_proj"}}};
  for (const auto& [key, value] : changes.items()) json[key] = value;
  return json;
}

template <class Body>
std::string error_of(const Body& body) {
  try {
    body();
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

void expect_refusal(const Json& changes, const std::string& key) {
  const std::string message = error_of([&] { parse_peft_config(minimal(changes), "here"); });
  EXPECT_TRUE(message.starts_with("here: " + key + ": ")) << key << ": " << message;
}

TEST(PeftConfig, MinimalFileHasPeftsDefaults) {
  const PeftConfig config = parse_peft_config(minimal(), "here");
  EXPECT_EQ(config.r, 8);
  EXPECT_EQ(config.lora_alpha, 8.0);
  EXPECT_EQ(config.lora_dropout, 0.0);
  EXPECT_FALSE(config.use_rslora);
  EXPECT_TRUE(config.targets("model.layers.3.self_attn.q_proj"));
  EXPECT_TRUE(config.targets("q_proj"));
  EXPECT_FALSE(config.targets("model.layers.3.self_attn.xq_proj"));
  EXPECT_FALSE(config.targets("model.layers.3.self_attn.q_proj.sub"));
}

TEST(PeftConfig, ATextTargetIsARegularExpressionOverTheWholePath) {
  const PeftConfig config =
      parse_peft_config(minimal({{"target_modules", R"(.*\.layers\.[01]\..*(q|v)_proj)"}}), "here");
  EXPECT_TRUE(config.targets("model.layers.1.self_attn.v_proj"));
  EXPECT_FALSE(config.targets("model.layers.2.self_attn.v_proj"));
  EXPECT_FALSE(config.targets("model.layers.1.self_attn.v_proj_extra"));
  const PeftConfig all = parse_peft_config(minimal({{"target_modules", "all-linear"}}), "here");
  EXPECT_TRUE(all.targets("model.layers.1.mlp.up_proj"));
}

TEST(PeftConfig, ExclusionWins) {
  const PeftConfig config =
      parse_peft_config(minimal({{"exclude_modules", {"layers.0.self_attn.q_proj"}}}), "here");
  EXPECT_FALSE(config.targets("model.layers.0.self_attn.q_proj"));
  EXPECT_TRUE(config.targets("model.layers.1.self_attn.q_proj"));
}

TEST(PeftConfig, TheFirstMatchingPatternOfTheFileDecides) {
  const PeftConfig config = parse_peft_config(
      minimal(
          {{"rank_pattern", {{"self_attn.q_proj", 2}, {"q_proj", 3}, {"^model.layers.1.mlp.*", 5}}},
           {"alpha_pattern", {{"layers.1.self_attn.q_proj", 32.5}}}}),
      "here");
  EXPECT_EQ(config.rank_of("model.layers.0.self_attn.q_proj"), 2);
  EXPECT_EQ(config.rank_of("model.layers.0.other.q_proj"), 3);
  EXPECT_EQ(config.rank_of("model.layers.0.other.xq_proj"), 8);  // whole path components only
  EXPECT_EQ(config.rank_of("model.layers.1.mlp.up_proj"), 5);
  EXPECT_EQ(config.alpha_of("model.layers.1.self_attn.q_proj"), 32.5);
  EXPECT_EQ(config.alpha_of("model.layers.11.self_attn.q_proj"), 8.0);
}

TEST(PeftConfig, RefusesByNameWhatItWouldComputeWrongly) {
  expect_refusal({{"peft_type", "IA3"}}, "peft_type");
  for (const char* key : {"use_dora", "use_qalora", "lora_bias", "fan_in_fan_out"}) {
    expect_refusal({{key, true}}, key);
  }
  expect_refusal({{"bias", "all"}}, "bias");
  expect_refusal({{"modules_to_save", {"lm_head"}}}, "modules_to_save");
  expect_refusal({{"layers_to_transform", {0, 1}}}, "layers_to_transform");
  expect_refusal({{"trainable_token_indices", {1}}}, "trainable_token_indices");
  expect_refusal({{"init_lora_weights", "pissa"}}, "init_lora_weights");
  expect_refusal({{"target_modules", "(q_proj"}}, "target_modules");
  expect_refusal({{"target_modules", nullptr}}, "target_modules");
  expect_refusal({{"target_modules", {1}}}, "target_modules");
  expect_refusal({{"rank_pattern", {{"(q", 4}}}}, "rank_pattern");
  expect_refusal({{"rank_pattern", {{"q_proj", 0}}}}, "rank_pattern.q_proj");
  expect_refusal({{"r", 0}}, "r");
  expect_refusal({{"lora_dropout", 1.0}}, "lora_dropout");
  EXPECT_NO_THROW(parse_peft_config(minimal({{"init_lora_weights", "gaussian"},
                                             {"modules_to_save", Json::array()},
                                             {"bias", "none"}}),
                                    "here"));
}

TEST(PeftConfig, WrittenTextHoldsEverySettingSorted) {
  PeftConfig config = config_of_rank(4);
  config.lora_alpha = 24.5;
  config.use_rslora = true;
  config.base_model_name_or_path = "models/caf\xc3\xa9";
  config.rank_pattern["layers.1.self_attn.q_proj"] = 2;
  const std::string text = peft_config_text(config);
  const Json json = Json::parse(text);
  EXPECT_EQ(json["r"], 4);
  EXPECT_EQ(json["lora_alpha"], 24.5);
  EXPECT_EQ(json["use_rslora"], true);
  EXPECT_EQ(json["inference_mode"], true);
  EXPECT_EQ(json["rank_pattern"].dump(), R"({"layers.1.self_attn.q_proj":2})");
  EXPECT_NE(text.find(R"("base_model_name_or_path": "models/caf\u00e9")"), std::string::npos);
  std::string last;
  for (const auto& [key, value] : json.items()) {
    EXPECT_LT(last, key);
    last = key;
  }
  const PeftConfig back = parse_peft_config(json, "back");
  EXPECT_EQ(back.target_modules, config.target_modules);
  EXPECT_EQ(back.rank_of("model.layers.1.self_attn.q_proj"), 2);
}

TEST(PeftFolder, RoundTripKeepsEveryTensorAndExtraFile) {
  const testing::ScratchFolder scratch;
  AdapterSet written(4);
  written.randomise(1);
  write_peft_folder(scratch.file("adapter"), config_of_rank(4), written.list,
                    {{"tokenizer.json", "{}"}});
  AdapterSet loaded(4);
  load_peft_weights(scratch.file("adapter"), loaded.list);
  for (size_t i = 0; i < written.parameters().size(); ++i) {
    EXPECT_EQ(testing::max_abs_difference(written.parameters()[i]->dense(),
                                          loaded.parameters()[i]->dense()),
              0.0);
  }
  EXPECT_EQ(read_file(scratch.file("adapter/tokenizer.json")), "{}");
  const SafetensorsFile file(scratch.file("adapter/adapter_model.safetensors"));
  EXPECT_NE(file.find("base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"), nullptr);
  EXPECT_EQ(read_peft_config(scratch.file("adapter")).r, 4);
}

TEST(PeftFolder, ReplacesAnAdapterButNothingElse) {
  const testing::ScratchFolder scratch;
  AdapterSet adapters(4);
  const std::string folder = scratch.file("adapter");
  write_peft_folder(folder, config_of_rank(4), adapters.list, {{"old.txt", "old"}});
  adapters.randomise(2);
  write_peft_folder(folder + "/", config_of_rank(4), adapters.list, {});
  EXPECT_FALSE(fs::exists(folder + "/old.txt"));
  AdapterSet loaded(4);
  load_peft_weights(folder, loaded.list);
  EXPECT_EQ(testing::max_abs_difference(adapters.parameters()[0]->dense(),
                                        loaded.parameters()[0]->dense()),
            0.0);

  scratch.write("work/notes.txt", "keep me");
  const std::string message = error_of(
      [&] { write_peft_folder(scratch.file("work"), config_of_rank(4), adapters.list, {}); });
  EXPECT_NE(message.find("no adapter folder"), std::string::npos) << message;
  EXPECT_EQ(read_file(scratch.file("work/notes.txt")), "keep me");
}

TEST(PeftFolder, AFailedWriteLeavesTheFormerFolderAndNoRest) {
  const testing::ScratchFolder scratch;
  AdapterSet adapters(4);
  const std::string folder = scratch.file("adapter");
  write_peft_folder(folder, config_of_rank(4), adapters.list, {});
  const std::string before = read_file(folder + "/adapter_model.safetensors");
  adapters.randomise(3);
  // The config claims another rank than the tensors have; PEFT would refuse such a folder.
  const std::string message =
      error_of([&] { write_peft_folder(folder, config_of_rank(5), adapters.list, {}); });
  EXPECT_NE(message.find("rank 5, its adapter has 4"), std::string::npos) << message;
  PeftConfig elsewhere = config_of_rank(4);
  elsewhere.target_modules = {"q_proj"};
  EXPECT_NE(error_of([&] {
              write_peft_folder(folder, elsewhere, adapters.list, {});
            }).find("target_modules leaves out model.layers.0.self_attn.v_proj"),
            std::string::npos);
  EXPECT_THROW(write_peft_folder(folder, config_of_rank(4), adapters.list, {{"../x", ""}}), Error);
  EXPECT_EQ(read_file(folder + "/adapter_model.safetensors"), before);
  EXPECT_EQ(std::distance(fs::directory_iterator(scratch.path()), fs::directory_iterator()), 1);
}

TEST(PeftFolder, LoadingNamesWhatDoesNotFitAndChangesNothing) {
  const testing::ScratchFolder scratch;
  const std::string folder = scratch.file("adapter");
  AdapterSet written(4);
  written.randomise(1);
  write_peft_folder(folder, config_of_rank(4), written.list, {});

  AdapterSet fewer(4, 1);
  EXPECT_NE(error_of([&] {
              load_peft_weights(folder, fewer.list);
            }).find("model.layers.1.self_attn.q_proj.lora_A.weight belongs to no adapter"),
            std::string::npos);
  AdapterSet more(4, 3);
  EXPECT_NE(error_of([&] { load_peft_weights(folder, more.list); }).find("model.layers.2"),
            std::string::npos);
  AdapterSet wider(5);
  EXPECT_NE(error_of([&] {
              load_peft_weights(folder, wider.list);
            }).find("has shape (4, 4), the adapter needs (4, 5)"),
            std::string::npos);
  const Tensor untouched = more.parameters()[0]->dense();  // a B matrix
  EXPECT_EQ(untouched.data<float>()[0], 0.0f);
  EXPECT_THROW(load_peft_weights(scratch.file("absent"), written.list), FormatError);
  EXPECT_THROW(read_peft_config(scratch.file("absent")), FormatError);
}

TEST(PeftFolder, WritesAnAdapterOfPeftByteForByte) {
  RW_REQUIRE_SHARED();
  const testing::ScratchFolder scratch;
  for (const std::string model : {"llama", "llama3_rope", "mistral"}) {
    const std::string source =
        testing::shared_folder() + "/golden/tiny/" + model + "/lora/adapter_final";
    const SafetensorsFile file(source + "/adapter_model.safetensors");
    AdapterSet adapters;
    const std::string prefix = "base_model.model.";
    const std::string suffix = ".lora_A.weight";
    for (const SafetensorsEntry& entry : file.entries()) {
      if (!entry.name.ends_with(suffix)) continue;
      const std::string module =
          entry.name.substr(prefix.size(), entry.name.size() - prefix.size() - suffix.size());
      const Shape b = file.at(prefix + module + ".lora_B.weight").shape;
      adapters.add(module, entry.shape.dim(1), b.dim(0), entry.shape.dim(0));
    }
    ASSERT_EQ(adapters.list.size(), 14u);
    load_peft_weights(source, adapters.list);
    const std::string copy = scratch.file(model);
    write_peft_folder(copy, read_peft_config(source), adapters.list, {});
    for (const char* name : {"/adapter_model.safetensors", "/adapter_config.json"}) {
      EXPECT_EQ(read_file(copy + name), read_file(source + name)) << model << name;
    }
  }
}

TEST(PeftFolder, ConfigFromSettingsEqualsPeftsByteForByte) {
  RW_REQUIRE_SHARED();
  const std::string golden =
      testing::shared_folder() + "/golden/tiny/llama/lora/adapter_final/adapter_config.json";
  PeftConfig config;
  config.r = 4;
  config.lora_alpha = 16.0;
  config.target_modules = read_json_file(golden)["target_modules"].get<std::vector<std::string>>();
  EXPECT_EQ(peft_config_text(config), read_file(golden));
}

}  // namespace
}  // namespace rankwise
