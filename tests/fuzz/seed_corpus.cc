// SPDX-License-Identifier: Apache-2.0
// seed_corpus FOLDER: writes FOLDER/<reader>/seed_*, whole files made by the product's own writers.
// seed_corpus --hostile FOLDER: the hostile inputs, of which the fuzzer starts too.
#include <filesystem>
#include <fstream>
#include <functional>
#include <iostream>
#include <map>

#include "launch/checkpoint/checkpoint_manifest.h"
#include "launch/config/train_config.h"
#include "model/hf_folder.h"
#include "runtime/data/tokenizer.h"
#include "runtime/io/atomic_file.h"
#include "runtime/io/quantized_store.h"
#include "runtime/io/safetensors.h"
#include "tests/fuzz/hostile_inputs.h"
#include "tests/fuzz/readers.h"
#include "tests/runtime/io/random_quantized.h"
#include "tests/support/scratch_folder.h"

namespace rankwise::testing {
namespace {

namespace fs = std::filesystem;

void write(const fs::path& path, const std::string& bytes) {
  fs::create_directories(path.parent_path());
  std::ofstream(path, std::ios::binary) << bytes;
}

// A shorter seed is a better one: fuzzers change any of its bytes.
constexpr const char* kConfig = R"({"model_type":"mistral","vocab_size":32,"hidden_size":16,
"intermediate_size":24,"num_hidden_layers":2,"num_attention_heads":4,"num_key_value_heads":2,
"rms_norm_eps":1e-5,"rope_theta":1e4,"rope_scaling":{"rope_type":"llama3","factor":8.0,
"low_freq_factor":1.0,"high_freq_factor":4.0,"original_max_position_embeddings":8192},
"bos_token_id":1,"eos_token_id":[2,3],"tie_word_embeddings":true,"sliding_window":null,
"hidden_act":"silu","layer_types":["full_attention"],"torch_dtype":"bfloat16"})";

constexpr const char* kYaml = R"(device: cpu
model: {path: m, quant: none, compute: fp32}
adapt:
  - match: "*.{q,v}_proj"
    method: lora
    rank: 8
data: {train: [{path: t.jsonl, format: alpaca}], seq_len: 128}
train: {steps: 10, global_batch: 8}
optim: {lr: 2.0e-4, schedule: cosine, warmup: 0.03}
)";

std::string safetensors_seed(const std::string& path) {
  std::vector<uint16_t> halves = {0x3f80, 0x4000};
  std::vector<float> reals = {1, 2, 3, 4};
  write_safetensors(path, {{"norm", Tensor(halves.data(), DType::kBF16, {2})},
                           {"weight", Tensor(reals.data(), DType::kF32, {2, 2})}});
  return read_file(path);
}

std::string store_seed(const std::string& path) {
  Arena arena;
  std::vector<uint16_t> halves = {0x3f80, 0x4000};
  QuantizedStoreWriter writer(path);
  writer.add("plain", make_quantized(arena, false, {3, 5}));
  writer.add("nested", make_quantized(arena, true, {2, 9}));
  writer.add("norm", Tensor(halves.data(), DType::kBF16, Shape{2}));
  writer.add_file("config.json", "{}");
  writer.commit();
  return read_file(path);
}

std::string manifest_seed() {
  CheckpointManifest manifest;
  manifest.step = 5;
  manifest.ranks = 1;
  manifest.files.push_back({rank_file_name(0), 100, std::string(64, '0')});
  const Shape shape{4, 2};
  manifest.tensors["w"] = {DType::kF32, shape, false, {{0, whole_part(shape), shape}}};
  manifest.scalars["lr"] = 0.5;
  const std::string sealed = manifest_text(manifest);
  return sealed.substr(0, sealed.rfind(",\"sha256\"")) + "}";
}

void write_seeds(const fs::path& folder) {
  const ScratchFolder scratch;
  write(folder / "safetensors/seed_two_tensors", safetensors_seed(scratch.file("a")));
  write(folder / "weight_index/seed_one_shard",
        R"({"metadata":{"total_size":16},"weight_map":{"w":"shard.safetensors"}})");
  write(folder / "model_config/seed_small", kConfig);
  write(folder / "tokenizer/seed_bytes",
        byte_tokenizer_config() + '\0' + R"({"<|end|>":300,"<|pad|>":301})");
  write(folder / "training_yaml/seed_lora", kYaml);
  write(folder / "training_yaml/seed_printed",
        print_config(parse_train_config(kYaml, "run.yaml", {})));
  write(folder / "store/seed_quantized", store_seed(scratch.file("b")));
  write(folder / "checkpoint_manifest/seed_one_rank", manifest_seed());
}

void write_hostile(const fs::path& folder) {
  constexpr size_t kLongest = 4096;  // longer ones only slow a fuzzer down
  for (const InputReader& reader : input_readers()) {
    for (const HostileInput& input : hostile_inputs_of(reader.name)) {
      if (input.bytes.size() <= kLongest) write(folder / reader.name / input.name, input.bytes);
    }
  }
}

}  // namespace
}  // namespace rankwise::testing

int main(int argc, char** argv) {
  if (argc == 2) {
    rankwise::testing::write_seeds(argv[1]);
  } else if (argc == 3 && std::string(argv[1]) == "--hostile") {
    rankwise::testing::write_hostile(argv[2]);
  } else {
    std::cerr << "usage: seed_corpus [--hostile] FOLDER\n";
    return 2;
  }
  return 0;
}
