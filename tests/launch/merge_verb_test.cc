// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <cmath>

#include "launch/model_files.h"
#include "launch/verbs/merge.h"
#include "launch/verbs/quantize.h"
#include "runtime/io/atomic_file.h"
#include "runtime/io/safetensors.h"
#include "tests/launch/tiny_model.h"
#include "tests/launch/verb_runner.h"
#include "tests/support/error_of.h"
#include "tests/support/scratch_folder.h"

namespace rankwise {
namespace {

using testing::error_of;

// A model, an adapter and a place for the merged model.
struct MergeFiles {
  testing::ScratchFolder scratch;
  MergeOptions options;

  explicit MergeFiles(DType dtype = DType::kF32) {
    options.model = testing::write_tiny_model(scratch, "model", dtype);
    options.adapter = testing::write_tiny_adapter(scratch, "adapter");
    options.output = scratch.file("merged");
  }
};

TEST(MergeVerb, MergedModelComputesWhatTheAdapterModelDoes) {
  const MergeFiles files;
  const MergeReport report = merge_adapter(files.options);
  EXPECT_EQ(report.base, MergeBase::kOriginal);
  EXPECT_EQ(report.merged_modules, 4);
  EXPECT_EQ(report.probe_tokens, 32);
  EXPECT_EQ(report.equal_predictions, 32);
  EXPECT_GT(report.base_max_difference, 1e-2 * report.largest_logit) << "the probe shows nothing";
  EXPECT_LT(report.max_difference, 1e-5 * report.largest_logit);
}

TEST(MergeVerb, AddsScaleTimesBAToTheTargetsOnly) {
  const MergeFiles files;
  merge_adapter(files.options);
  const SafetensorsFile before(files.options.model + "/model.safetensors");
  const SafetensorsFile after(files.options.output + "/model.safetensors");
  const SafetensorsFile adapter(files.options.adapter + "/adapter_model.safetensors");
  ASSERT_EQ(before.entries().size(), after.entries().size());
  const auto floats = [](const SafetensorsFile& file, const std::string& name) {
    std::vector<float> values(static_cast<size_t>(file.at(name).shape.numel()));
    file.read(file.at(name), Tensor(values.data(), DType::kF32, file.at(name).shape));
    return values;
  };
  for (const SafetensorsEntry& entry : before.entries()) {
    const std::vector<float> w = floats(before, entry.name);
    const std::vector<float> merged = floats(after, entry.name);
    const std::string module = entry.name.substr(0, entry.name.rfind('.'));
    const std::string prefix = fmt::format("base_model.model.{}.lora_", module);
    const std::string a_name = prefix + "A.weight";
    if (adapter.find(a_name) == nullptr) {
      EXPECT_EQ(w, merged) << entry.name;
      continue;
    }
    const std::vector<float> a = floats(adapter, a_name);
    const std::vector<float> b = floats(adapter, prefix + "B.weight");
    const int64_t in = entry.shape.dim(1);
    for (int64_t i = 0; i < entry.shape.numel(); ++i) {
      double change = 0.0;
      for (int64_t r = 0; r < 4; ++r) {
        change += static_cast<double>(b[static_cast<size_t>(i / in * 4 + r)]) *
                  a[static_cast<size_t>(r * in + i % in)];
      }
      const auto at = static_cast<size_t>(i);
      ASSERT_NEAR(merged[at], w[at] + 2.0 * change, 1e-6) << entry.name << " " << i;
    }
  }
}

TEST(MergeVerb, KeepsElementTypesConfigAndTokenizer) {
  const MergeFiles files(DType::kBF16);
  const MergeReport report = merge_adapter(files.options);
  const ModelFiles merged = open_model(files.options.output);
  for (const std::string& name : merged.weights->names()) {
    EXPECT_EQ(merged.weights->dtype(name), DType::kBF16) << name;
  }
  EXPECT_EQ(merged.config.source["kept_key"], "kept");
  EXPECT_EQ(read_file(files.options.output + "/tokenizer_config.json"), byte_tokenizer_config());
  // The merged weights are rounded once to 8 bits of mantissa.
  EXPECT_LT(report.max_difference, 3e-2 * report.largest_logit);
  EXPECT_GT(report.max_difference, 0.0);
}

TEST(MergeVerb, QloraAdapterFitsTheDequantisedBaseNotTheOriginal) {
  const MergeFiles files;
  MergeOptions dequantized = files.options;
  dequantized.base = MergeBase::kDequantized;
  const MergeReport fitting = merge_adapter(dequantized);
  EXPECT_LT(fitting.max_difference, 1e-5 * fitting.largest_logit);

  MergeOptions original = files.options;
  original.base = MergeBase::kOriginal;
  original.trained_on_nf4 = true;
  original.overwrite = true;
  const MergeReport differing = merge_adapter(original);
  EXPECT_GT(differing.max_difference, 1e-3 * differing.largest_logit);
}

TEST(MergeVerb, StoreMergesIntoItsDequantisedWeights) {
  const MergeFiles files;
  QuantizeOptions quantize;
  quantize.model = files.options.model;
  quantize.store = files.scratch.file("store.h5");
  quantize_model(quantize);
  MergeOptions from_store = files.options;
  from_store.model = quantize.store;
  const MergeReport report = merge_adapter(from_store);
  EXPECT_EQ(report.base, MergeBase::kDequantized);
  EXPECT_LT(report.max_difference, 1e-5 * report.largest_logit);

  MergeOptions from_folder = files.options;
  from_folder.base = MergeBase::kDequantized;
  from_folder.output = files.scratch.file("merged-2");
  merge_adapter(from_folder);
  EXPECT_EQ(read_file(from_store.output + "/model.safetensors"),
            read_file(from_folder.output + "/model.safetensors"));

  from_store.base = MergeBase::kOriginal;
  EXPECT_NE(error_of<ConfigError>([&] { merge_adapter(from_store); }).find("--base original"),
            std::string::npos);
}

TEST(MergeVerb, PrintsTheLogitDifferences) {
  const MergeFiles files;
  const auto verb = make_merge_verb();
  const std::string text =
      testing::run_verb(*verb, {files.options.model, "--adapter", files.options.adapter, "-o",
                                files.options.output, "--base", "dequantized"});
  EXPECT_NE(text.find("4 modules into the dequantised NF4 weights"), std::string::npos) << text;
  EXPECT_NE(text.find("adapter against merged: max "), std::string::npos) << text;
  EXPECT_NE(text.find("32 of 32 probe tokens equal"), std::string::npos) << text;
}

TEST(MergeVerb, RefusesContradictionsAndExistingOutput) {
  const MergeFiles files;
  const auto verb = make_merge_verb();
  EXPECT_THROW(
      testing::run_verb(*verb, {files.options.model, "--adapter", files.options.adapter, "-o",
                                files.options.output, "--base", "dequantized", "--quant", "none"}),
      ConfigError);
  MergeOptions into_itself = files.options;
  into_itself.output = files.options.model;
  into_itself.overwrite = true;
  EXPECT_THROW(merge_adapter(into_itself), ConfigError);
  merge_adapter(files.options);
  EXPECT_NE(error_of<ConfigError>([&] { merge_adapter(files.options); }).find("--overwrite"),
            std::string::npos);
  MergeOptions elsewhere = files.options;
  elsewhere.output = files.scratch.file("notes");
  elsewhere.overwrite = true;
  files.scratch.write("notes/notes.txt", "precious");
  EXPECT_THROW(merge_adapter(elsewhere), ConfigError);
  EXPECT_EQ(testing::names_in(elsewhere.output), std::vector<std::string>{"notes.txt"});
}

TEST(MergeVerb, FullDiskLeavesNothingUnderTheName) {
  const MergeFiles files;
  {
    const testing::FileSizeLimit limit(20'000);
    EXPECT_THROW(merge_adapter(files.options), DiskError);
  }
  EXPECT_EQ(testing::names_in(files.scratch.path()),
            (std::vector<std::string>{"adapter", "model"}));
}

}  // namespace
}  // namespace rankwise
