// SPDX-License-Identifier: Apache-2.0
#include "model/adapters/peft_folder.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <string>

#include "runtime/errors.h"
#include "runtime/io/atomic_file.h"
#include "runtime/io/safetensors.h"
#include "tests/model/adapters/adapter_set.h"
#include "tests/support/error_of.h"
#include "tests/support/golden.h"
#include "tests/support/scratch_folder.h"

namespace rankwise {
namespace {

namespace fs = std::filesystem;

using testing::AdapterSet;

PeftConfig config_of_rank(int64_t rank) {
  PeftConfig config;
  config.r = rank;
  config.target_modules = {"q_proj", "v_proj"};
  return config;
}

TEST(PeftFolder, RoundTripKeepsEveryTensorAndExtraFile) {
  const testing::ScratchFolder scratch;
  AdapterSet written(config_of_rank(4));
  written.randomise(1);
  write_peft_folder(scratch.file("adapter"), config_of_rank(4), written.list,
                    {{"tokenizer.json", "{}"}}, written.stream);
  AdapterSet loaded(config_of_rank(4));
  load_peft_weights(scratch.file("adapter"), loaded.list, loaded.stream);
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
  AdapterSet adapters(config_of_rank(4));
  const std::string folder = scratch.file("adapter");
  write_peft_folder(folder, config_of_rank(4), adapters.list, {{"old.txt", "old"}},
                    adapters.stream);
  adapters.randomise(2);
  write_peft_folder(folder + "/", config_of_rank(4), adapters.list, {}, adapters.stream);
  EXPECT_FALSE(fs::exists(folder + "/old.txt"));
  AdapterSet loaded(config_of_rank(4));
  load_peft_weights(folder, loaded.list, loaded.stream);
  EXPECT_EQ(testing::max_abs_difference(adapters.parameters()[0]->dense(),
                                        loaded.parameters()[0]->dense()),
            0.0);

  scratch.write("work/notes.txt", "keep me");
  const std::string message = testing::error_of<Error>([&] {
    write_peft_folder(scratch.file("work"), config_of_rank(4), adapters.list, {}, adapters.stream);
  });
  EXPECT_NE(message.find("no adapter folder"), std::string::npos) << message;
  EXPECT_EQ(read_file(scratch.file("work/notes.txt")), "keep me");
}

TEST(PeftFolder, AFailedWriteLeavesTheFormerFolderAndNoRest) {
  const testing::ScratchFolder scratch;
  AdapterSet adapters(config_of_rank(4));
  const std::string folder = scratch.file("adapter");
  write_peft_folder(folder, config_of_rank(4), adapters.list, {}, adapters.stream);
  const std::string before = read_file(folder + "/adapter_model.safetensors");
  adapters.randomise(3);
  // The config claims another rank than the tensors have; PEFT would refuse such a folder.
  const std::string message = testing::error_of<Error>(
      [&] { write_peft_folder(folder, config_of_rank(5), adapters.list, {}, adapters.stream); });
  EXPECT_NE(message.find("rank 5, its adapter has 4"), std::string::npos) << message;
  PeftConfig elsewhere = config_of_rank(4);
  elsewhere.target_modules = {"q_proj"};
  EXPECT_NE(testing::error_of<Error>([&] {
              write_peft_folder(folder, elsewhere, adapters.list, {}, adapters.stream);
            }).find("target_modules leaves out model.layers.0.self_attn.v_proj"),
            std::string::npos);
  EXPECT_THROW(
      write_peft_folder(folder, config_of_rank(4), adapters.list, {{"../x", ""}}, adapters.stream),
      Error);
  EXPECT_EQ(read_file(folder + "/adapter_model.safetensors"), before);
  EXPECT_EQ(std::distance(fs::directory_iterator(scratch.path()), fs::directory_iterator()), 1);
}

TEST(PeftFolder, LoadingNamesWhatDoesNotFitAndChangesNothing) {
  const testing::ScratchFolder scratch;
  const std::string folder = scratch.file("adapter");
  AdapterSet written(config_of_rank(4));
  written.randomise(1);
  write_peft_folder(folder, config_of_rank(4), written.list, {}, written.stream);

  AdapterSet fewer(config_of_rank(4), 1);
  EXPECT_NE(testing::error_of<Error>([&] {
              load_peft_weights(folder, fewer.list, fewer.stream);
            }).find("model.layers.1.self_attn.q_proj.lora_A.weight belongs to no adapter"),
            std::string::npos);
  AdapterSet more(config_of_rank(4), 3);
  EXPECT_NE(testing::error_of<Error>([&] {
              load_peft_weights(folder, more.list, more.stream);
            }).find("model.layers.2"),
            std::string::npos);
  AdapterSet wider(config_of_rank(5));
  EXPECT_NE(testing::error_of<Error>([&] {
              load_peft_weights(folder, wider.list, wider.stream);
            }).find("has shape (4, 4), the adapter needs (4, 5)"),
            std::string::npos);
  const Tensor untouched = more.parameters()[0]->dense();  // a B matrix
  EXPECT_EQ(untouched.data<float>()[0], 0.0f);
  EXPECT_THROW(load_peft_weights(scratch.file("absent"), written.list, written.stream),
               FormatError);
  EXPECT_THROW(read_peft_config(scratch.file("absent")), FormatError);
}

TEST(PeftFolder, WritesAdaptersOfPeftByteForByte) {
  RW_REQUIRE_SHARED();
  const testing::ScratchFolder scratch;
  for (const std::string path :
       {"tiny/llama/lora/adapter_final", "tiny/llama3_rope/lora/adapter_final",
        "tiny/mistral/lora/adapter_final", "tiny/llama/dora/adapter_init",
        "tiny/llama/dora/adapter_final", "tiny/llama/adalora/adapter_init",
        "tiny/llama/adalora/adapter_final", "stories260k/adalora_init",
        "stories260k/adalora_final"}) {
    const std::string source = testing::shared_folder() + "/golden/" + path;
    const PeftConfig config = read_peft_config(source);
    const SafetensorsFile file(source + "/adapter_model.safetensors");
    AdapterSet adapters;
    const std::string prefix = "base_model.model.";
    const std::string suffix = config.adalora ? "" : ".weight";
    for (const SafetensorsEntry& entry : file.entries()) {
      if (!entry.name.ends_with(".lora_A" + suffix)) continue;
      const std::string module =
          entry.name.substr(prefix.size(), entry.name.rfind(".lora_A") - prefix.size());
      const Shape b = file.at(prefix + module + ".lora_B" + suffix).shape;
      adapters.add(config, module, entry.shape.dim(1), b.dim(0));
    }
    ASSERT_EQ(adapters.list.size(), path.starts_with("tiny") ? 14u : 35u);
    load_peft_weights(source, adapters.list, adapters.stream);
    const std::string copy = scratch.file("copy");
    write_peft_folder(copy, config, adapters.list, {}, adapters.stream);
    for (const char* name : {"/adapter_model.safetensors", "/adapter_config.json"}) {
      EXPECT_EQ(read_file(copy + name), read_file(source + name)) << path << name;
    }
  }
}

}  // namespace
}  // namespace rankwise
