// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <fstream>

#include "launch/model_files.h"
#include "launch/verbs/quantize.h"
#include "launch/verbs/verb.h"
#include "runtime/errors.h"
#include "runtime/io/atomic_file.h"
#include "runtime/io/safetensors.h"
#include "runtime/io/sha256.h"
#include "tests/launch/tiny_model.h"
#include "tests/launch/verb_runner.h"
#include "tests/support/error_of.h"
#include "tests/support/scratch_folder.h"

namespace rankwise {
namespace {

using testing::ScratchFolder;

#define EXPECT_HAS(text, part) EXPECT_NE((text).find(part), std::string::npos) << (text)

std::string inspect(std::vector<std::string> arguments) {
  return testing::run_verb(*make_inspect_verb(), std::move(arguments));
}

// Adds one to the byte at `position` of a file (from its end when negative).
void damage(const std::string& path, int64_t position) {
  std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
  file.seekg(position, position < 0 ? std::ios::end : std::ios::beg);
  const auto at = file.tellg();
  const char byte = static_cast<char>(file.get() + 1);
  file.seekp(at);
  file.put(byte);
}

TEST(InspectVerb, DescribesAModelFolder) {
  const ScratchFolder scratch;
  const std::string model = testing::write_tiny_model(scratch, "model");
  const std::string text = inspect({model, "--tensors"});
  EXPECT_HAS(text, "llama, 2 layers, hidden 48, 4 heads (2 key/value), vocabulary 260");
  EXPECT_HAS(text, fmt::format("parameters   {}\n", parameter_count(testing::tiny_config())));
  EXPECT_HAS(text, "F32          21 tensors, ");
  EXPECT_HAS(text, "  model.layers.1.mlp.down_proj.weight ");
  EXPECT_HAS(text, "(48, 80)");
  EXPECT_EQ(inspect({model}).find("down_proj"), std::string::npos);
  EXPECT_HAS(inspect({model, "--verify"}), base_digest(model));
}

TEST(InspectVerb, DescribesAStoreAndFindsADamagedByte) {
  const ScratchFolder scratch;
  const std::string store = scratch.file("model.h5");
  QuantizeOptions options;
  options.model = testing::write_tiny_model(scratch, "model");
  options.store = store;
  quantize_model(options);
  const std::string text = inspect({store, "--verify"});
  EXPECT_HAS(text, "nf4 double   14 tensors, ");
  EXPECT_HAS(text, "F32          7 tensors, ");
  EXPECT_HAS(text, "tokenizer_config.json");
  EXPECT_HAS(text, "verified ");
  // The data of some tensor lies in the middle of the file.
  const auto size = static_cast<int64_t>(read_file(store).size());
  damage(store, size / 2);
  EXPECT_THROW(inspect({store, "--verify"}), FormatError);
}

TEST(InspectVerb, DescribesAnAdapterFolder) {
  const ScratchFolder scratch;
  const std::string adapter = testing::write_tiny_adapter(scratch, "adapter");
  const std::string text = inspect({adapter, "--verify"});
  EXPECT_HAS(text, "LORA, rank 4, alpha 8, dropout 0\n");
  EXPECT_HAS(text, "base         tiny\n");
  EXPECT_HAS(text, "targets      down_proj, q_proj\n");
  EXPECT_HAS(text, "F32          8 tensors, ");
  EXPECT_HAS(text, sha256_file(adapter + "/adapter_model.safetensors"));
}

TEST(InspectVerb, VerifyFindsValuesThatAreNotFinite) {
  const ScratchFolder scratch;
  Arena arena;
  const Tensor values = arena.allocate("values", DType::kF32, {3});
  const float numbers[] = {1.0f, NAN, 2.0f};
  std::memcpy(values.raw(), numbers, sizeof(numbers));
  const std::string path = scratch.file("x.safetensors");
  write_safetensors(path, {{"w", values}});
  EXPECT_HAS(inspect({path}), "F32          1 tensors, 3 elements, 12 B");
  const auto message = testing::error_of<FormatError>([&] { inspect({path, "--verify"}); });
  EXPECT_EQ(message, path + ": w: element 1 is not finite");
}

TEST(InspectVerb, VerifyOfARunComparesDataAndBaseDigests) {
  const ScratchFolder scratch;
  const std::string model = testing::write_tiny_model(scratch, "model");
  const std::string data = scratch.write("data.jsonl", "{}\n");
  Json run = {{"version", "0.1.0"}, {"ranks", 2}};
  run["config"]["model"]["path"] = model;
  run["data_sha256"][data] = sha256_file(data);
  run["base_sha256"] = base_digest(model);
  scratch.write("run/run.json", run.dump());
  const std::string folder = scratch.file("run");
  EXPECT_HAS(inspect({folder}), "ranks        2\n");
  EXPECT_HAS(inspect({folder}), "not finished");
  EXPECT_HAS(inspect({folder, "--verify"}), "verified     2 digest(s)");
  scratch.write("run/summary.txt", "steps  7\n");
  EXPECT_HAS(inspect({folder}), "steps  7\n");
  damage(data, 0);
  const auto changed_data = testing::error_of<FormatError>([&] { inspect({folder, "--verify"}); });
  EXPECT_HAS(changed_data, data + ": changed since the run");
  scratch.write("data.jsonl", "{}\n");
  damage(model + "/model.safetensors", -1);
  const auto changed_base = testing::error_of<FormatError>([&] { inspect({folder, "--verify"}); });
  EXPECT_HAS(changed_base, model + ": changed since the run");
}

TEST(InspectVerb, OtherThingsAreRefusedByName) {
  const ScratchFolder scratch;
  EXPECT_THROW(inspect({scratch.file("absent")}), ConfigError);
  EXPECT_THROW(inspect({scratch.path()}), FormatError);
  EXPECT_THROW(inspect({scratch.write("x.txt", "text")}), FormatError);
  EXPECT_THROW(inspect({scratch.write("x.safetensors", "text")}), FormatError);
  scratch.write("run/run.json", R"({"config": {"model": {"path": 3}}})");
  EXPECT_HAS(testing::error_of<FormatError>([&] { inspect({scratch.file("run")}); }),
             "run.json: config.model.path");
  scratch.write("run/run.json", "[");
  EXPECT_THROW(inspect({scratch.file("run")}), FormatError);
}

}  // namespace
}  // namespace rankwise
