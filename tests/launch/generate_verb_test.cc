// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include "launch/model_files.h"
#include "launch/verbs/generate.h"
#include "launch/verbs/quantize.h"
#include "runtime/io/json.h"
#include "runtime/io/safetensors.h"
#include "tests/launch/tiny_model.h"
#include "tests/launch/verb_runner.h"
#include "tests/support/error_of.h"
#include "tests/support/scratch_folder.h"

namespace rankwise {
namespace {

using testing::error_of;
using testing::run_verb;

std::vector<std::string> texts_of(const GenerateTextOptions& options) {
  std::vector<std::string> texts(options.prompts.size());
  generate_text(options, [&](size_t index, const std::string& text) { texts[index] = text; });
  return texts;
}

GenerateTextOptions options_for(const std::string& model, std::vector<std::string> prompts) {
  GenerateTextOptions options;
  options.model = model;
  options.prompts = std::move(prompts);
  options.device = DeviceChoice::kCpu;
  options.sampling.max_new_tokens = 12;
  return options;
}

// A model whose most likely next token is always `token`: the last norm has one entry far above the
// others, and the head reads that entry for the token alone.
std::string write_stubborn_model(const testing::ScratchFolder& scratch, int32_t token) {
  const std::string folder = testing::write_tiny_model(scratch, fmt::format("stubborn-{}", token));
  const ModelConfig config = testing::tiny_config();
  const auto source = make_random_weights(config, 5);
  Arena arena;
  std::vector<NamedTensor> tensors;
  for (const auto& [name, shape] : weight_shapes(config)) {
    const Tensor values = arena.allocate("w", DType::kF32, shape);
    source->read(name, values);
    const bool block = name.find("_proj") != std::string::npos;
    float* data = values.data<float>();
    if (block) std::fill_n(data, values.numel(), 0.0f);
    if (name == "model.embed_tokens.weight") std::fill_n(data, values.numel(), 1.0f);
    if (name == "lm_head.weight") {
      std::fill_n(data, values.numel(), 0.0f);
      std::fill_n(data + token * shape.dim(1), shape.dim(1), 1.0f);
    }
    tensors.push_back({name, values});
  }
  write_safetensors(folder + "/model.safetensors", tensors);
  return folder;
}

TEST(GenerateVerb, PrintsTheContinuation) {
  const testing::ScratchFolder scratch;
  const std::string model = write_stubborn_model(scratch, 'x' + 3);  // byte tokens begin at 3
  const auto verb = make_generate_verb();
  EXPECT_EQ(run_verb(*verb, {model, "--prompt", "hello", "--max-new-tokens", "5"}), "xxxxx\n");
}

TEST(GenerateVerb, StopsAtTheEndOfSequence) {
  const testing::ScratchFolder scratch;
  const std::string model = write_stubborn_model(scratch, 2);
  EXPECT_EQ(texts_of(options_for(model, {"hello"})), std::vector<std::string>{""});
}

TEST(GenerateVerb, SamplingDependsOnTheSeedOnly) {
  const testing::ScratchFolder scratch;
  const std::string model = testing::write_tiny_model(scratch, "model");
  GenerateTextOptions options = options_for(model, {"one", "two", "one"});
  options.sampling.temperature = 1.0;
  const std::vector<std::string> texts = texts_of(options);
  EXPECT_EQ(texts[0], texts[2]);
  EXPECT_EQ(texts, texts_of(options));
  options.sampling.seed = 43;
  EXPECT_NE(texts, texts_of(options));
}

TEST(GenerateVerb, TinyNucleusIsGreedy) {
  const testing::ScratchFolder scratch;
  const std::string model = testing::write_tiny_model(scratch, "model");
  GenerateTextOptions options = options_for(model, {"abc"});
  const std::vector<std::string> greedy = texts_of(options);
  options.sampling.temperature = 2.0;
  options.sampling.top_p = 1e-9;
  EXPECT_EQ(texts_of(options), greedy);
}

TEST(GenerateVerb, AdapterAndQuantisationChangeWhatIsComputed) {
  const testing::ScratchFolder scratch;
  const std::string model = testing::write_tiny_model(scratch, "model");
  const GenerateTextOptions base = options_for(model, {"abcdef", "ghi"});
  const std::vector<std::string> plain = texts_of(base);

  GenerateTextOptions adapted = base;
  adapted.adapter = testing::write_tiny_adapter(scratch, "adapter", 1.0f);
  EXPECT_NE(texts_of(adapted), plain);
  adapted.adapter = testing::write_tiny_adapter(scratch, "untrained", 0.0f);
  EXPECT_EQ(texts_of(adapted), plain);

  // Quantising while loading and loading a store are the same model.
  GenerateTextOptions quantized = base;
  quantized.quantize_nf4 = true;
  QuantizeOptions store;
  store.model = model;
  store.store = scratch.file("store.h5");
  quantize_model(store);
  GenerateTextOptions from_store = base;
  from_store.model = store.store;
  EXPECT_EQ(texts_of(quantized), texts_of(from_store));
}

TEST(GenerateVerb, PromptFilesGiveOneJsonRowPerPrompt) {
  const testing::ScratchFolder scratch;
  const std::string model = write_stubborn_model(scratch, 'x' + 3);
  const std::string lines = scratch.write("prompts.txt", "first\r\n\nsecond");
  const std::string rows = scratch.write(
      "prompts.jsonl", "{\"prompt\": \"two\\nlines\", \"id\": 1}\n{\"prompt\": \"b\"}\n");
  EXPECT_EQ(read_prompts(lines), (std::vector<std::string>{"first", "second"}));
  EXPECT_EQ(read_prompts(rows), (std::vector<std::string>{"two\nlines", "b"}));
  const auto verb = make_generate_verb();
  EXPECT_EQ(run_verb(*verb, {model, "--prompts", rows, "--max-new-tokens", "2"}),
            "{\"prompt\":\"two\\nlines\",\"completion\":\"xx\"}\n"
            "{\"prompt\":\"b\",\"completion\":\"xx\"}\n");
}

TEST(GenerateVerb, BadPromptFilesNameTheRow) {
  const testing::ScratchFolder scratch;
  EXPECT_THROW(read_prompts(scratch.file("none.txt")), ConfigError);
  EXPECT_THROW(read_prompts(scratch.write("empty.txt", "\n\n")), DataError);
  const std::string bytes = scratch.write("bytes.txt", "one\n\ntw\xff\n");
  RW_EXPECT_HAS(error_of<DataError>([&] { read_prompts(bytes); }), "bytes.txt:3: invalid UTF-8");
  const std::string rows = scratch.write("p.jsonl", "{\"prompt\": \"a\"}\n{\"text\": \"b\"}\n");
  EXPECT_NE(error_of<DataError>([&] { read_prompts(rows); }).find("p.jsonl:2"), std::string::npos);
}

TEST(GenerateVerb, RefusesOptionsOutOfRange) {
  const testing::ScratchFolder scratch;
  const std::string model = testing::write_tiny_model(scratch, "model");
  const auto refused = [&](const auto& change) {
    GenerateTextOptions options = options_for(model, {"abc"});
    change(options);
    return error_of<ConfigError>([&] { texts_of(options); });
  };
  EXPECT_NE(refused([](auto& o) { o.sampling.max_new_tokens = 0; }).find("--max-new-tokens"),
            std::string::npos);
  EXPECT_NE(refused([](auto& o) { o.sampling.temperature = -1.0; }).find("--temperature"),
            std::string::npos);
  EXPECT_NE(refused([](auto& o) { o.sampling.top_p = 0.0; }).find("--top-p"), std::string::npos);
  EXPECT_NE(refused([](auto& o) { o.sampling.top_p = 1.5; }).find("--top-p"), std::string::npos);
  EXPECT_NE(refused([](auto& o) { o.sampling.max_new_tokens = 64; }).find("64 positions"),
            std::string::npos);
  const auto verb = make_generate_verb();
  EXPECT_THROW(run_verb(*verb, {model}), ConfigError);
}

TEST(GenerateVerb, AdapterOfAnotherModelIsRefused) {
  const testing::ScratchFolder scratch;
  const std::string model = testing::write_tiny_model(scratch, "model");
  const std::string adapter = testing::write_tiny_adapter(scratch, "adapter");
  std::vector<float> values(48 * 4);
  write_safetensors(adapter + "/adapter_model.safetensors",
                    {{"base_model.model.model.layers.7.self_attn.q_proj.lora_A.weight",
                      Tensor(values.data(), DType::kF32, {4, 48})}});
  GenerateTextOptions options = options_for(model, {"abc"});
  options.adapter = adapter;
  EXPECT_NE(error_of<FormatError>([&] { texts_of(options); }).find("layers.7"), std::string::npos);
}

}  // namespace
}  // namespace rankwise
