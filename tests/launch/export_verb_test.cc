// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>

#include "launch/model_files.h"
#include "launch/verbs/export.h"
#include "runtime/io/atomic_file.h"
#include "runtime/io/safetensors.h"
#include "tests/launch/tiny_model.h"
#include "tests/launch/verb_runner.h"
#include "tests/support/error_of.h"
#include "tests/support/golden.h"
#include "tests/support/program.h"
#include "tests/support/scratch_folder.h"

namespace rankwise {
namespace {

namespace fs = std::filesystem;

using testing::error_of;

ExportOptions options_for(const std::string& source, const std::string& output) {
  ExportOptions options;
  options.source = source;
  options.output = output;
  return options;
}

TEST(ExportVerb, PeftAdapterComesOutAsItWentIn) {
  RW_REQUIRE_SHARED();
  const std::string golden = testing::shared_folder() + "/golden/tiny/llama/lora/adapter_final";
  const testing::ScratchFolder scratch;
  const std::string output = scratch.file("adapter");
  const ExportReport report = export_result(options_for(golden, output));
  EXPECT_TRUE(report.is_adapter);
  EXPECT_FALSE(report.changes_nothing);

  const SafetensorsFile before(golden + "/adapter_model.safetensors");
  const SafetensorsFile after(output + "/adapter_model.safetensors");
  ASSERT_EQ(after.entries().size(), before.entries().size());
  EXPECT_EQ(report.tensors, static_cast<int64_t>(before.entries().size()));
  for (const SafetensorsEntry& entry : before.entries()) {
    const SafetensorsEntry& written = after.at(entry.name);
    EXPECT_EQ(written.shape, entry.shape) << entry.name;
    EXPECT_EQ(written.dtype, entry.dtype) << entry.name;
    const auto expected = before.read_bytes(entry);
    const auto actual = after.read_bytes(written);
    ASSERT_EQ(actual.size(), expected.size());
    EXPECT_EQ(std::memcmp(actual.data(), expected.data(), expected.size()), 0) << entry.name;
  }
  EXPECT_EQ(read_file(output + "/adapter_model.safetensors"),
            read_file(golden + "/adapter_model.safetensors"));

  const Json config_before = read_json_file(golden + "/adapter_config.json");
  const Json config_after = read_json_file(output + "/adapter_config.json");
  for (const auto& [key, value] : config_before.items()) {
    ASSERT_TRUE(config_after.contains(key)) << key;
    EXPECT_EQ(config_after[key], value) << key;
  }
  EXPECT_EQ(config_after.size(), config_before.size());
}

TEST(ExportVerb, RunFolderGivesItsAdapterWithTheTokenizer) {
  const testing::ScratchFolder scratch;
  const std::string adapter = testing::write_tiny_adapter(scratch, "run/adapter");
  scratch.write("run/run.json", "{}");
  const auto verb = make_export_verb();
  const std::string output = scratch.file("out");
  const std::string text = testing::run_verb(*verb, {scratch.file("run"), "-o", output});
  EXPECT_NE(text.find("PEFT adapter from"), std::string::npos) << text;
  EXPECT_EQ(text.find("warning"), std::string::npos) << text;
  EXPECT_EQ(testing::names_in(output),
            (std::vector<std::string>{"adapter_config.json", "adapter_model.safetensors",
                                      "tokenizer_config.json"}));
  for (const std::string& name : testing::names_in(output)) {
    EXPECT_EQ(read_file(output + "/" + name), read_file(adapter + "/" + name)) << name;
  }
}

TEST(ExportVerb, FullRunGivesItsModelInItsOwnElementType) {
  const testing::ScratchFolder scratch;
  const std::string model = testing::write_tiny_model(scratch, "run/model", DType::kBF16);
  const std::string output = scratch.file("out");
  const ExportReport report = export_result(options_for(scratch.file("run"), output));
  EXPECT_FALSE(report.is_adapter);
  EXPECT_EQ(report.tensors, 21);
  EXPECT_EQ(testing::names_in(output), testing::names_in(model));
  for (const std::string& name : testing::names_in(output)) {
    EXPECT_EQ(read_file(output + "/" + name), read_file(model + "/" + name)) << name;
  }
}

TEST(ExportVerb, RunThatTrainedBothNeedsAChoice) {
  const testing::ScratchFolder scratch;
  testing::write_tiny_adapter(scratch, "run/adapter");
  testing::write_tiny_model(scratch, "run/model");
  ExportOptions options = options_for(scratch.file("run"), scratch.file("out"));
  EXPECT_NE(error_of<ConfigError>([&] { export_result(options); }).find("--part"),
            std::string::npos);
  options.part = ExportPart::kModel;
  EXPECT_FALSE(export_result(options).is_adapter);
  options.part = ExportPart::kAdapter;
  options.output = scratch.file("out-2");
  EXPECT_TRUE(export_result(options).is_adapter);
}

TEST(ExportVerb, UntrainedAdapterIsWarnedAbout) {
  const testing::ScratchFolder scratch;
  const std::string adapter = testing::write_tiny_adapter(scratch, "adapter", 0.0f);
  const auto verb = make_export_verb();
  const std::string text = testing::run_verb(*verb, {adapter, "-o", scratch.file("out")});
  EXPECT_NE(text.find("warning: every lora_B is zero"), std::string::npos) << text;
}

TEST(ExportVerb, RefusesFoldersWithoutResult) {
  const testing::ScratchFolder scratch;
  scratch.write("run/run.json", "{}");
  EXPECT_NE(error_of<ConfigError>([&] {
              export_result(options_for(scratch.file("run"), scratch.file("out")));
            }).find("holds no finished adapter or model"),
            std::string::npos);
  EXPECT_THROW(export_result(options_for(scratch.file("none"), scratch.file("out"))), ConfigError);
}

TEST(ExportVerb, ReplacesAFolderOnlyWhenAskedAndNeverItsSource) {
  const testing::ScratchFolder scratch;
  const std::string adapter = testing::write_tiny_adapter(scratch, "adapter");
  const std::string old = testing::write_tiny_adapter(scratch, "out", 0.0f);
  ExportOptions options = options_for(adapter, old);
  EXPECT_THROW(export_result(options), ConfigError);
  options.overwrite = true;
  export_result(options);
  EXPECT_EQ(read_file(old + "/adapter_model.safetensors"),
            read_file(adapter + "/adapter_model.safetensors"));
  options.output = adapter;
  EXPECT_THROW(export_result(options), ConfigError);
}

TEST(ExportVerb, TensorsThatFitNoAdapterAreNamed) {
  const testing::ScratchFolder scratch;
  const std::string adapter = testing::write_tiny_adapter(scratch, "adapter");
  std::vector<float> values(12);
  const auto write = [&](const std::vector<std::pair<std::string, Shape>>& tensors) {
    std::vector<NamedTensor> named;
    for (const auto& [name, shape] : tensors) {
      named.push_back({"base_model.model.m." + name, Tensor(values.data(), DType::kF32, shape)});
    }
    write_safetensors(adapter + "/adapter_model.safetensors", named);
    return error_of<FormatError>([&] { export_result(options_for(adapter, scratch.file("out"))); });
  };
  EXPECT_NE(write({{"q_proj.lora_A.weight", {4, 3}}}).find("m.q_proj.lora_B.weight"),
            std::string::npos);
  EXPECT_NE(
      write({{"q_proj.lora_A.weight", {4, 3}}, {"q_proj.lora_B.weight", {3, 2}}}).find("lora_B"),
      std::string::npos);
  EXPECT_NE(
      write({{"q_proj.lora_A.weight", {12}}, {"q_proj.lora_B.weight", {3, 4}}}).find("matrices"),
      std::string::npos);
  EXPECT_NE(write({{"q_proj.weight", {3, 4}}}).find("lora_A"), std::string::npos);
  EXPECT_FALSE(fs::exists(scratch.file("out")));
}

// Through the program: everything is linked into it, unlike into this test.
TEST(ExportVerb, AdapterOfAnotherMethodIsRefusedByName) {
  const testing::ScratchFolder scratch;
  const std::string adapter = testing::write_tiny_adapter(scratch, "adapter");
  Json config = read_json_file(adapter + "/adapter_config.json");
  config["peft_type"] = "IA3";
  scratch.write("adapter/adapter_config.json", config.dump());
  const testing::ProgramResult result =
      testing::run_rankwise({"export", adapter, "-o", scratch.file("out")});
  EXPECT_EQ(result.exit_code, static_cast<int>(ExitCode::kFormat));
  EXPECT_NE(result.errors.find("peft_type: \"IA3\""), std::string::npos) << result.errors;
}

TEST(ExportVerb, FullDiskLeavesNothingUnderTheName) {
  const testing::ScratchFolder scratch;
  testing::write_tiny_adapter(scratch, "run/adapter");
  testing::write_tiny_model(scratch, "run/model");
  ExportOptions options = options_for(scratch.file("run"), scratch.file("out"));
  {
    const testing::FileSizeLimit limit(3'000);
    options.part = ExportPart::kAdapter;
    EXPECT_THROW(export_result(options), DiskError);
    options.part = ExportPart::kModel;
    EXPECT_THROW(export_result(options), DiskError);
  }
  EXPECT_EQ(testing::names_in(scratch.path()), std::vector<std::string>{"run"});
}

}  // namespace
}  // namespace rankwise
