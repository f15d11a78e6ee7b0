// SPDX-License-Identifier: Apache-2.0
// The program against damaged models and adapters, and against disks that cannot be written:
// one line that names the culprit, the documented exit code, and nothing half-written.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <functional>

#include "runtime/io/atomic_file.h"
#include "tests/end_to_end/small_run.h"
#include "tests/launch/tiny_model.h"
#include "tests/support/program.h"

namespace rankwise::testing {
namespace {

namespace fs = std::filesystem;

const char* const kModelFile = "model/model.safetensors";
const char* const kAdapterFile = "adapter/adapter_model.safetensors";
const char* const kDownProj = "model.layers.1.mlp.down_proj.weight";
const char* const kLoraB = "base_model.model.model.layers.1.self_attn.q_proj.lora_B.weight";

// Takes a safetensors file apart and writes it back with another header and data.
using Damage = std::function<void(Json& header, std::string& data)>;

void rewrite(const ScratchFolder& scratch, const std::string& name, const Damage& damage) {
  const std::string content = read_file(scratch.file(name));
  uint64_t length = 0;
  std::memcpy(&length, content.data(), sizeof(length));
  Json header = parse_json(content.substr(sizeof(length), length), name);
  std::string data = content.substr(sizeof(length) + length);
  damage(header, data);
  const std::string text = header.dump();
  length = text.size();
  std::string out(sizeof(length), '\0');
  std::memcpy(out.data(), &length, sizeof(length));
  scratch.write(name, out + text + data);
}

void rename_tensor(Json& header, const std::string& from, const std::string& to) {
  header[to] = header.at(from);
  header.erase(from);
}

void swap_dimensions(Json& header, const std::string& tensor) {
  std::swap(header[tensor]["shape"][0], header[tensor]["shape"][1]);
}

// Removes the tensor and its bytes, so that the file itself stays valid.
void remove_tensor(Json& header, std::string& data, const std::string& tensor) {
  const auto begin = header.at(tensor)["data_offsets"][0].get<size_t>();
  const auto bytes = header.at(tensor)["data_offsets"][1].get<size_t>() - begin;
  data.erase(begin, bytes);
  header.erase(tensor);
  for (auto& [name, entry] : header.items()) {
    if (!entry.contains("data_offsets") || entry["data_offsets"][0].get<size_t>() < begin) continue;
    for (Json& offset : entry["data_offsets"]) offset = offset.get<size_t>() - bytes;
  }
}

void edit_json(const ScratchFolder& scratch, const std::string& name, const std::string& pointer,
               const Json& value) {
  Json json = read_json_file(scratch.file(name));
  json[Json::json_pointer(pointer)] = value;
  scratch.write(name, json.dump());
}

void cut_short(const ScratchFolder& scratch, const std::string& name) {
  fs::resize_file(scratch.file(name), fs::file_size(scratch.file(name)) - 8);
}

struct BadFolder {
  const char* name;
  std::function<void(const ScratchFolder&)> damage;
  std::vector<std::string> mentions;  // file, and tensor or key
};

auto tensors(const char* file, const Damage& damage) {
  return [=](const ScratchFolder& scratch) { rewrite(scratch, file, damage); };
}

auto config(const std::string& pointer, const Json& value) {
  return [=](const ScratchFolder& scratch) {
    edit_json(scratch, "model/config.json", pointer, value);
  };
}

auto peft(const std::string& pointer, const Json& value) {
  return [=](const ScratchFolder& scratch) {
    edit_json(scratch, "adapter/adapter_config.json", pointer, value);
  };
}

std::vector<BadFolder> bad_weights() {
  return {
      {"TruncatedWeights", [](const ScratchFolder& s) { cut_short(s, kModelFile); }, {kModelFile}},
      {"EmptyWeights", [](const ScratchFolder& s) { s.write(kModelFile, ""); }, {kModelFile}},
      {"HeaderLargerThanTheFile",
       [](const ScratchFolder& s) { s.write(kModelFile, std::string(7, '\xff') + '\x0f'); },
       {kModelFile}},
      {"OverlappingTensors",
       tensors(kModelFile,
               [](Json& header, std::string&) {
                 const char* other = "model.layers.0.mlp.down_proj.weight";
                 header[kDownProj]["data_offsets"] = header[other]["data_offsets"];
               }),
       {kModelFile, "down_proj"}},
      {"TensorBeyondTheFile",
       tensors(kModelFile,
               [](Json& header, std::string& data) {
                 header[kDownProj]["data_offsets"] = {data.size(), data.size() + 4 * 48 * 80};
               }),
       {kModelFile}},
      {"UnknownElementType",
       tensors(kModelFile, [](Json& header, std::string&) { header[kDownProj]["dtype"] = "Q9"; }),
       {kModelFile, kDownProj}},
      {"ShapeOtherThanTheConfigSays",
       tensors(kModelFile, [](Json& header, std::string&) { swap_dimensions(header, kDownProj); }),
       {"model", kDownProj, "(80, 48)", "(48, 80)"}},
      {"MissingTensor",
       tensors(kModelFile,
               [](Json& header, std::string&) {
                 rename_tensor(header, "model.norm.weight", "model.other.weight");
               }),
       {"model", "model.norm.weight"}},
      {"IndexThatLeavesTheFolder",
       [](const ScratchFolder& s) {
         fs::rename(s.file(kModelFile), s.file("outside.safetensors"));
         s.write("model/model.safetensors.index.json",
                 R"({"weight_map": {"model.norm.weight": "../outside.safetensors"}})");
       },
       {"model.safetensors.index.json", "../outside.safetensors"}},
  };
}

std::vector<BadFolder> bad_configs() {
  return {
      {"DuplicateConfigKey",
       [](const ScratchFolder& s) {
         s.write("model/config.json", R"({"model_type": "llama", "model_type": "llama"})");
       },
       {"config.json", "model_type"}},
      {"ConfigCutShort",
       [](const ScratchFolder& s) { cut_short(s, "model/config.json"); },
       {"config.json"}},
      {"UnknownRopeType",
       config("/rope_parameters/rope_type", "spiral"),
       {"config.json", "rope_parameters.rope_type", "spiral"}},
      {"UnknownActivation", config("/hidden_act", "gelu"), {"config.json", "hidden_act", "gelu"}},
      {"UnknownFamily", config("/model_type", "gpt9"), {"config.json", "model_type", "gpt9"}},
      {"FewerEmbeddingsThanTokens", config("/vocab_size", 100), {"model", "100"}},
  };
}

std::vector<BadFolder> bad_adapters() {
  return {
      {"TruncatedAdapter",
       [](const ScratchFolder& s) { cut_short(s, kAdapterFile); },
       {kAdapterFile}},
      {"AdapterWithoutWeights",
       [](const ScratchFolder& s) { fs::remove(s.file(kAdapterFile)); },
       {kAdapterFile}},
      {"AdapterOfAnotherShape",
       tensors(kAdapterFile, [](Json& header, std::string&) { swap_dimensions(header, kLoraB); }),
       {kAdapterFile, kLoraB}},
      {"AdapterOfAnotherRank", peft("/r", 8), {kAdapterFile, "lora_"}},
      {"AdapterWithAMissingTensor",
       tensors(kAdapterFile,
               [](Json& header, std::string& data) { remove_tensor(header, data, kLoraB); }),
       {kAdapterFile, kLoraB}},
      {"AdapterOfAnotherModel",
       tensors(kAdapterFile,
               [](Json& header, std::string&) {
                 rename_tensor(header, kLoraB, "base_model.model.h.0.attn.lora_B.weight");
               }),
       {kAdapterFile, "base_model.model.h.0.attn.lora_B.weight"}},
      {"AdapterThatTargetsNothingHere",
       peft("/target_modules", {"c_attn"}),
       {kAdapterFile, "lora_"}},
      {"AdapterOfAnotherMethod",
       peft("/peft_type", "IA3"),
       {"adapter_config.json", "peft_type", "IA3"}},
      {"AdapterOfAnotherVariant", peft("/use_qalora", true), {"adapter_config.json", "use_qalora"}},
      {"DoraWithoutMagnitudes",
       peft("/use_dora", true),
       {"adapter_model.safetensors", "lora_magnitude_vector"}},
  };
}

void PrintTo(const BadFolder& bad, std::ostream* out) { *out << bad.name; }

class BadModel : public ::testing::TestWithParam<BadFolder> {};

TEST_P(BadModel, EndsWithCodeFourAndOneLineThatNamesTheCulprit) {
  const ScratchFolder scratch;
  const std::string model = write_tiny_model(scratch, "model");
  const std::string adapter = write_tiny_adapter(scratch, "adapter");
  GetParam().damage(scratch);
  const ProgramResult result = run_rankwise({"generate", model, "--device", "cpu", "--adapter",
                                             adapter, "--prompt", "ab", "--max-new-tokens", "2"});
  EXPECT_EQ(result.exit_code, 4);
  EXPECT_EQ(result.output, "");
  EXPECT_EQ(std::ranges::count(result.errors, '\n'), 1) << result.errors;
  for (const std::string& part : GetParam().mentions) RW_EXPECT_HAS(result.errors, part);
}

std::string name_of_case(const ::testing::TestParamInfo<BadFolder>& test) {
  return test.param.name;
}

INSTANTIATE_TEST_SUITE_P(Weights, BadModel, ::testing::ValuesIn(bad_weights()), name_of_case);
INSTANTIATE_TEST_SUITE_P(Configs, BadModel, ::testing::ValuesIn(bad_configs()), name_of_case);
INSTANTIATE_TEST_SUITE_P(Adapters, BadModel, ::testing::ValuesIn(bad_adapters()), name_of_case);

// Proof that the cases above fail for their damage alone.
TEST(BadModel, TheUndamagedFoldersWork) {
  const ScratchFolder scratch;
  const std::string model = write_tiny_model(scratch, "model");
  const std::string adapter = write_tiny_adapter(scratch, "adapter");
  const ProgramResult result = run_rankwise({"generate", model, "--device", "cpu", "--adapter",
                                             adapter, "--prompt", "ab", "--max-new-tokens", "2"});
  EXPECT_EQ(result.exit_code, 0) << result.errors;
}

// What cannot be saved is known before the first step: a checkpoint of about 700 kB does not fit
// the limit. A shell sets it: there the signal of the limit has its default action, which ends the
// process.
TEST(FullDisk, EndsTheRunBeforeItsFirstStepAndLeavesNoCheckpoint) {
  const SmallRun run;
  const std::string yaml = run.folder().write(
      "run.yaml", print_config(run.config({"adapt.0.rank=64", "train.steps=2"})));
  const ProgramResult result = run_program({"sh", "-c", "ulimit -f 128 && exec \"$@\"", "sh",
                                            std::getenv("RANKWISE_BINARY"), "train", yaml});
  EXPECT_EQ(result.exit_code, 74);
  EXPECT_EQ(std::ranges::count(result.errors, '\n'), 1) << result.errors;
  const std::string folder = run.folder().file("run");
  RW_EXPECT_HAS(result.errors, "cannot save step 0");
  RW_EXPECT_HAS(result.errors, folder + "/step-00000000");
  for (const std::string& name : names_in(folder)) {
    EXPECT_FALSE(name.starts_with("adapter") || name.starts_with("summary") ||
                 name.starts_with("step-"))
        << name;
  }
}

// Rank 1 is in the first collective of training when rank 0 finds that it cannot write.
TEST(UnwritableRunFolder, EndsTheRanksThatWaitForRankZero) {
  const SmallRun run;
  run.folder().write("file", "");
  const std::string dir = run.folder().file("file/below");
  const std::string yaml =
      run.folder().write("run.yaml", print_config(run.config({"checkpoint.dir=" + dir})));
  const ProgramResult result = run_rankwise({"train", yaml}, 2);
  EXPECT_EQ(result.exit_code, 74);
  RW_EXPECT_HAS(result.errors, "rank 0 on");
  RW_EXPECT_HAS(result.errors, dir);
}

}  // namespace
}  // namespace rankwise::testing
