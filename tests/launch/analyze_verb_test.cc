// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <filesystem>

#include "launch/adapter_analysis.h"
#include "launch/adapter_folder.h"
#include "launch/verbs/quantize.h"
#include "launch/verbs/verb.h"
#include "runtime/io/atomic_file.h"
#include "tests/launch/tiny_model.h"
#include "tests/launch/verb_runner.h"
#include "tests/support/error_of.h"
#include "tests/support/golden.h"
#include "tests/support/scratch_folder.h"

namespace rankwise {
namespace {

using testing::error_of;
using testing::ScratchFolder;

std::string analyze(std::vector<std::string> arguments) {
  return testing::run_verb(*make_analyze_verb(), std::move(arguments));
}

struct StoredTensor {
  std::string name;
  Shape shape;
  std::vector<float> values;
};

// A PEFT folder with these keys in its config and these tensors.
std::string write_adapter(const ScratchFolder& scratch, const std::string& folder,
                          const std::string& keys, const std::vector<StoredTensor>& stored) {
  scratch.write(folder + "/adapter_config.json",
                R"({"target_modules": ["q_proj"], "lora_alpha": 8, )" + keys + "}");
  Arena arena;
  std::vector<NamedTensor> tensors;
  for (const auto& [name, shape, values] : stored) {
    const Tensor tensor = arena.allocate("test", DType::kF32, shape);
    std::ranges::copy(values, tensor.data<float>());
    tensors.push_back({"base_model.model." + name, tensor});
  }
  write_safetensors(scratch.file(folder + "/adapter_model.safetensors"), tensors);
  return scratch.file(folder);
}

constexpr const char* kAdaLoraKeys = R"("peft_type": "ADALORA", "init_r": 2, "total_step": 9)";

// Two triplets of these values; those not given are 0.
std::vector<StoredTensor> adalora_tensors(const std::string& module, std::vector<float> e) {
  e.resize(2, 0.0f);
  return {{module + ".lora_A", {2, 3}, std::vector<float>(6, 1.0f)},
          {module + ".lora_B", {4, 2}, std::vector<float>(8, 1.0f)},
          {module + ".lora_E", {2, 1}, e}};
}

std::string golden(const std::string& path) { return testing::shared_folder() + "/golden/" + path; }

// The golden folders are read only.
std::string picture(const ScratchFolder& scratch) { return scratch.file("picture.svg"); }

TEST(AdapterFolder, LoadsModulesByLayerAndCountsTripletsThatAreNotZero) {
  const ScratchFolder scratch;
  std::vector<StoredTensor> tensors = adalora_tensors("model.layers.10.attn.q_proj", {0.0f, -3.0f});
  tensors[0].values = {1, 2, 3, 4, 5, 6};
  for (const StoredTensor& tensor : adalora_tensors("model.layers.9.attn.q_proj", {1.0f, 2.0f})) {
    tensors.push_back(tensor);
  }
  const AdapterFolder folder(write_adapter(scratch, "adalora", kAdaLoraKeys, tensors));
  ASSERT_EQ(folder.modules().size(), 2u);
  EXPECT_EQ(folder.modules()[0].layer, "9");
  EXPECT_EQ(folder.modules()[0].rank, 2);
  const AdaptedModule& module = folder.modules()[1];
  EXPECT_EQ(module.kind, "attn.q_proj");
  EXPECT_EQ(module.rank, 1);
  EXPECT_EQ(module.in, 3);
  EXPECT_EQ(module.out, 4);
  Arena arena;
  const Tensor directions = input_directions(*module.adapter, arena);
  EXPECT_EQ(directions.data<float>()[2], 0.0f);
  EXPECT_EQ(directions.data<float>()[5], -18.0f);
}

TEST(AdapterFolder, RefusesTensorsThatDoNotBelongTogether) {
  const ScratchFolder scratch;
  const std::string lora = R"("peft_type": "LORA", "r": 1)";
  const StoredTensor a = {"q_proj.lora_A.weight", {1, 2}, {1, 2}};
  const StoredTensor b = {"q_proj.lora_B.weight", {2, 1}, {1, 2}};
  const std::pair<std::string, std::vector<StoredTensor>> vectors[] = {
      {lora, {a}},
      {lora, {a, {b.name, {2}, b.values}}},
      {lora, {a, {b.name, {1, 2}, b.values}}},
      {lora + R"(, "use_dora": true)", {a, b}},
      {lora, {{a.name, {0, 2}, {}}, {b.name, {2, 0}, {}}}},
      {lora, {a, b, {"q_proj.weight", {1}, {1}}}},
      {lora, {{a.name, {1, 2}, {1, NAN}}, b}},
      {kAdaLoraKeys, {a, b}},
      {lora, {{"q_proj.weight", {1}, {1}}}},
  };
  int number = 0;
  for (const auto& [keys, tensors] : vectors) {
    const std::string path =
        write_adapter(scratch, fmt::format("adapter{}", number++), keys, tensors);
    const auto message = error_of<FormatError>([&] { const AdapterFolder folder(path); });
    EXPECT_TRUE(message.starts_with(path + "/adapter_model.safetensors: ")) << message;
    RW_EXPECT_HAS(message, "q_proj");
  }
}

TEST(AnalyzeVerb, ShowsRanksByLayerAndKindAndDrawsThem) {
  const ScratchFolder scratch;
  std::vector<StoredTensor> tensors = adalora_tensors("layers.0.mlp.up", {0.5f});
  for (const auto& more :
       {adalora_tensors("layers.0.attn.q", {1.0f, 2.0f}), adalora_tensors("layers.1.attn.q", {})}) {
    tensors.insert(tensors.end(), more.begin(), more.end());
  }
  const std::string folder = write_adapter(scratch, "adapter", kAdaLoraKeys, tensors);
  EXPECT_EQ(analyze({folder}),
            "ranks by layer\n"
            "           q     up  total\n"
            "0          2      1      3\n"
            "1          0             0\n"
            "total      2      1      3\n"
            "\n"
            "heat maps in " +
                folder + "/analysis.svg\n");
  const std::string svg = read_file(folder + "/analysis.svg");
  RW_EXPECT_HAS(svg, "<title>rankwise analyze " + folder + "</title>");
  RW_EXPECT_HAS(svg, "<title>0, up: 1</title>");
  RW_EXPECT_HAS(svg, "<title>1, q: 0</title>");
}

TEST(AnalyzeVerb, KindsThatShareTheirLastPartKeepTheirWholeName) {
  const ScratchFolder scratch;
  std::vector<StoredTensor> tensors = adalora_tensors("h.0.mlp.c_proj", {1.0f});
  const auto more = adalora_tensors("h.0.attn.c_proj", {1.0f});
  tensors.insert(tensors.end(), more.begin(), more.end());
  RW_EXPECT_HAS(analyze({write_adapter(scratch, "adapter", kAdaLoraKeys, tensors)}),
                "attn.c_proj  mlp.c_proj");
}

TEST(AnalyzeVerb, AnAdapterIsSimilarToItself) {
  const ScratchFolder scratch;
  const std::string adapter = testing::write_tiny_adapter(scratch, "adapter");
  const std::string text = analyze({adapter, "--with", adapter});
  RW_EXPECT_HAS(text,
                "similarity phi(i, j) of the input subspaces, mean over layers\n"
                "             1,1    1,4    2,2    4,4\n"
                "down_proj  1.000  1.000  1.000  1.000\n"
                "  random   0.013  0.050  0.025  0.050\n"
                "q_proj     1.000  1.000  1.000  1.000\n"
                "  random   0.021  0.083  0.042  0.083\n");
  const std::string svg = read_file(adapter + "/analysis.svg");
  RW_EXPECT_HAS(svg, "q_proj: phi(i, j)");
  RW_EXPECT_HAS(svg, "<title>3, 4: 1.000</title>");
}

TEST(AnalyzeVerb, AmplificationIsThatOfFolderAndStore) {
  const ScratchFolder scratch;
  const std::string adapter = testing::write_tiny_adapter(scratch, "adapter");
  QuantizeOptions options;
  options.model = testing::write_tiny_model(scratch, "model");
  options.store = scratch.file("model.h5");
  quantize_model(options);
  const std::string of_folder = analyze({adapter, "--model", options.model});
  const std::string of_store = analyze({adapter, "--model", options.store});
  for (const std::string& text : {of_folder, of_store}) {
    RW_EXPECT_HAS(text, "|dW| by layer\n   down_proj  q_proj\n");
    RW_EXPECT_HAS(text, "|U'WV| by layer\n");
    RW_EXPECT_HAS(text, "amplification factor by layer\n   down_proj  q_proj\n");
  }
  EXPECT_NE(of_folder, of_store) << "4 bits change the weights a little";
}

TEST(AnalyzeVerb, ReplacesItsOwnPicturesOnly) {
  const ScratchFolder scratch;
  const std::string adapter = testing::write_tiny_adapter(scratch, "adapter");
  const std::string output = picture(scratch);
  analyze({adapter, "--output", output});
  analyze({adapter, "--output", output, "--with", adapter});
  RW_EXPECT_HAS(read_file(output), "phi(i, j)");
  EXPECT_FALSE(std::filesystem::exists(adapter + "/analysis.svg"));
  const std::string foreign = scratch.write("foreign.svg", "<svg>precious</svg>\n");
  for (const std::string& path : {foreign, adapter, adapter + "/adapter_config.json"}) {
    RW_EXPECT_HAS(error_of<ConfigError>([&] {
                    analyze({adapter, "--output", path});
                  }),
                  "--output: '" + path + "' exists and is no picture");
  }
  EXPECT_EQ(read_file(foreign), "<svg>precious</svg>\n");
}

TEST(AnalyzeVerb, WrongInputIsNamedInOneLine) {
  const ScratchFolder scratch;
  const std::string adapter = testing::write_tiny_adapter(scratch, "adapter");
  const auto config_error = [&](std::vector<std::string> arguments) {
    return error_of<ConfigError>([&] { analyze(std::move(arguments)); });
  };
  const auto format_error = [&](std::vector<std::string> arguments) {
    return error_of<FormatError>([&] { analyze(std::move(arguments)); });
  };
  const std::string absent = scratch.file("absent");
  EXPECT_EQ(config_error({absent}), "'" + absent + "' does not exist");
  EXPECT_EQ(config_error({adapter, "--with", absent}), "'" + absent + "' does not exist");
  EXPECT_EQ(config_error({adapter, "--model", absent}), "'" + absent + "' does not exist");
  const std::string other =
      write_adapter(scratch, "other", kAdaLoraKeys, adalora_tensors("layers.0.q_proj", {1.0f}));
  RW_EXPECT_HAS(format_error({adapter, "--with", other}), "no module of rank above 0 in common");
  const std::string narrow = write_adapter(
      scratch, "narrow", kAdaLoraKeys, adalora_tensors("model.layers.0.self_attn.q_proj", {1.0f}));
  RW_EXPECT_HAS(format_error({adapter, "--with", narrow}), "has 3 inputs");
  const std::string empty =
      write_adapter(scratch, "empty", kAdaLoraKeys, adalora_tensors("layers.0.q_proj", {0.0f}));
  RW_EXPECT_HAS(format_error({empty, "--with", empty}), "no module of rank above 0 in common");
  const std::string model = testing::write_tiny_model(scratch, "model");
  RW_EXPECT_HAS(format_error({narrow, "--model", model}),
                "self_attn.q_proj.weight has shape (48, 48), the adapter needs (4, 3)");
  RW_EXPECT_HAS(format_error({other, "--model", model}), "layers.0.q_proj.weight");
  const std::string fresh = testing::write_tiny_adapter(scratch, "fresh", 0.0f);
  RW_EXPECT_HAS(format_error({fresh, "--model", model}), "changes no weight");
  EXPECT_FALSE(std::filesystem::exists(fresh + "/analysis.svg"));
}

TEST(AnalyzeVerb, GoldenAdaLoraRanksAreThoseOfTheRankPattern) {
  RW_REQUIRE_SHARED();
  const ScratchFolder scratch;
  const std::string folder = golden("stories260k/adalora_final");
  const std::string text = analyze({folder, "--output", picture(scratch)});
  RW_EXPECT_HAS(text, "down_proj  gate_proj  up_proj  k_proj  o_proj  q_proj  v_proj  total\n");
  const Json pattern = read_json_file(folder + "/adapter_config.json").at("rank_pattern");
  const AdapterFolder adapter(folder);
  int64_t total = 0;
  ASSERT_EQ(adapter.modules().size(), pattern.size());
  for (const AdaptedModule& module : adapter.modules()) {
    const Json& kept = pattern.at(module.name + ".lora_E");
    const int64_t expected = std::count(kept.begin(), kept.end(), true);
    EXPECT_EQ(module.rank, expected) << module.name;
    total += expected;
  }
  RW_EXPECT_HAS(text, fmt::format("  {}\n\nheat maps in ", total));
}

TEST(AnalyzeVerb, GoldenAdaptersOfEveryMethodAreAnalysed) {
  RW_REQUIRE_SHARED();
  const ScratchFolder scratch;
  const std::string lora = golden("tiny/llama/lora/adapter_final");
  for (const char* method : {"lora", "dora", "adalora"}) {
    const std::string folder = golden(fmt::format("tiny/llama/{}/adapter_final", method));
    const std::string text = analyze(
        {folder, "--with", lora, "--model", golden("tiny/llama"), "--output", picture(scratch)});
    RW_EXPECT_HAS(text, "amplification factor by layer\n");
    EXPECT_EQ(text.find("nan"), std::string::npos) << text;
    EXPECT_EQ(text.find("inf"), std::string::npos) << text;
  }
  // Training moves A away from its start, which it still resembles.
  const std::string text = analyze(
      {lora, "--with", golden("tiny/llama/lora/adapter_init"), "--output", picture(scratch)});
  const size_t row = text.find("q_proj", text.find("similarity"));
  EXPECT_GT(std::stod(text.substr(text.find('\n', row) - 5, 5)), 0.5) << text;
}

}  // namespace
}  // namespace rankwise
