// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "kernels/quantize.h"
#include "launch/model_files.h"
#include "launch/verbs/quantize.h"
#include "runtime/io/atomic_file.h"
#include "runtime/io/quantized_store.h"
#include "tests/launch/tiny_model.h"
#include "tests/launch/verb_runner.h"
#include "tests/support/error_of.h"
#include "tests/support/scratch_folder.h"

namespace rankwise {
namespace {

using testing::error_of;

QuantizeOptions options_for(const std::string& model, const std::string& store) {
  QuantizeOptions options;
  options.model = model;
  options.store = store;
  return options;
}

TEST(QuantizeVerb, StoreHoldsCodesOfTheLinearsAndTheRestUnchanged) {
  const testing::ScratchFolder scratch;
  for (DType dtype : {DType::kF32, DType::kBF16}) {
    const std::string folder = fmt::format("model-{}", name_of(dtype));
    const std::string model = testing::write_tiny_model(scratch, folder, dtype);
    const std::string store = scratch.file(folder + ".h5");
    const QuantizeReport report = quantize_model(options_for(model, store));
    EXPECT_EQ(report.quantized_tensors, 14);
    EXPECT_EQ(report.dense_tensors, 7);  // embedding, head, five norms

    const ModelFiles original = open_model(model);
    const ModelFiles quantized = open_model(store);
    Arena arena;
    Stream stream;
    for (const auto& [name, shape] : weight_shapes(original.config)) {
      const Tensor before = arena.allocate("before", DType::kF32, shape);
      original.weights->read(name, before);
      const auto stored = quantized.weights->read_quantized(name, arena, "stored");
      ASSERT_EQ(stored.has_value(), name.find("_proj") != std::string::npos) << name;
      EXPECT_EQ(quantized.weights->dtype(name), dtype) << name;
      if (stored) {
        QuantizedTensor expected =
            allocate_nf4(MatrixSlice::all(shape), true, dtype, arena, "expected");
        quantize_nf4(expected, before, stream);
        EXPECT_EQ(std::memcmp(stored->codes.raw(), expected.codes.raw(),
                              static_cast<size_t>(expected.codes.bytes())),
                  0)
            << name;
        EXPECT_EQ(stored->nested_offset, expected.nested_offset);
      } else {
        const Tensor after = arena.allocate("after", DType::kF32, shape);
        quantized.weights->read(name, after);
        EXPECT_EQ(std::memcmp(after.raw(), before.raw(), static_cast<size_t>(before.bytes())), 0)
            << name;
      }
    }
  }
}

TEST(QuantizeVerb, ReportsBytesAndErrorsThatARecountConfirms) {
  const testing::ScratchFolder scratch;
  const std::string model = testing::write_tiny_model(scratch, "model");
  const std::string store = scratch.file("store.h5");
  const QuantizeReport report = quantize_model(options_for(model, store));
  const ModelFiles original = open_model(model);
  const ModelFiles quantized = open_model(store);
  Arena arena;
  Stream stream;
  double sum = 0.0;
  double largest = 0.0;
  int64_t elements = 0;
  int64_t dense_bytes = 0;
  for (const auto& [name, shape] : weight_shapes(original.config)) {
    if (name.find("_proj") == std::string::npos) {
      dense_bytes += shape.numel() * 4;
      continue;
    }
    const Tensor before = arena.allocate("w", DType::kF32, shape);
    const Tensor after = arena.allocate("w", DType::kF32, shape);
    original.weights->read(name, before);
    dequantize(after, *quantized.weights->read_quantized(name, arena, "stored"), stream);
    for (int64_t i = 0; i < shape.numel(); ++i) {
      const double error =
          std::abs(static_cast<double>(before.data<float>()[i]) - after.data<float>()[i]);
      sum += error;
      largest = std::max(largest, error);
    }
    elements += shape.numel();
  }
  EXPECT_EQ(report.quantized_elements, elements);
  EXPECT_EQ(report.source_bytes, elements * 4);
  EXPECT_EQ(report.dense_bytes, dense_bytes);
  EXPECT_NEAR(report.mean_error, sum / static_cast<double>(elements), 1e-12);
  EXPECT_DOUBLE_EQ(report.max_error, largest);
  // Codes and one scale byte per 64 elements, plus the second-level scales.
  EXPECT_GT(report.quantized_bytes, elements / 2 + elements / 64);
  EXPECT_LT(report.quantized_bytes, elements / 2 + elements / 64 + 200);
}

TEST(QuantizeVerb, NeedsTheMemoryOfOneTensorOnly) {
  const testing::ScratchFolder scratch;
  const std::string model = testing::write_tiny_model(scratch, "model");
  const QuantizeReport report = quantize_model(options_for(model, scratch.file("store.h5")));
  // The largest are embedding and head with 260 x 48 floats; a linear of 80 x 48 with its codes,
  // scales and decoded rows is smaller.
  EXPECT_LE(report.peak_bytes, 260 * 48 * 4 + 64);
}

TEST(QuantizeVerb, StoreIsAModelOfItsOwn) {
  const testing::ScratchFolder scratch;
  const std::string model = testing::write_tiny_model(scratch, "model");
  const std::string store = scratch.file("store.h5");
  quantize_model(options_for(model, store));
  EXPECT_EQ(read_store_file(store, "config.json"), read_file(model + "/config.json"));
  EXPECT_EQ(read_store_file(store, "tokenizer_config.json"),
            read_file(model + "/tokenizer_config.json"));
  const ModelFiles files = open_model(store);
  EXPECT_EQ(files.config.hidden_size, 48);
  EXPECT_EQ(open_tokenizer(files)->vocab_size(), 259);
}

TEST(QuantizeVerb, ScalesStayFloatWithoutDoubleQuantisation) {
  const testing::ScratchFolder scratch;
  const std::string model = testing::write_tiny_model(scratch, "model");
  const std::string store = scratch.file("store.h5");
  const auto verb = make_quantize_verb();
  const std::string text = testing::run_verb(*verb, {model, "-o", store, "--no-double-quant"});
  EXPECT_NE(text.find("14 tensors"), std::string::npos) << text;
  EXPECT_NE(text.find("4.500 bits"), std::string::npos) << text;
  Arena arena;
  const auto q =
      open_weights(store)->read_quantized("model.layers.1.mlp.up_proj.weight", arena, "q");
  ASSERT_TRUE(q.has_value());
  EXPECT_FALSE(q->nested());
}

TEST(QuantizeVerb, ReplacesAStoreOnlyWhenAsked) {
  const testing::ScratchFolder scratch;
  const std::string model = testing::write_tiny_model(scratch, "model");
  const std::string store = scratch.write("store.h5", "precious");
  QuantizeOptions options = options_for(model, store);
  const std::string message = error_of<ConfigError>([&] { quantize_model(options); });
  EXPECT_NE(message.find("--overwrite"), std::string::npos) << message;
  EXPECT_EQ(read_file(store), "precious");
  options.overwrite = true;
  quantize_model(options);
  EXPECT_TRUE(is_quantized_store(store));
}

TEST(QuantizeVerb, RefusesWhatCannotBeQuantised) {
  const testing::ScratchFolder scratch;
  const std::string model = testing::write_tiny_model(scratch, "model");
  const std::string store = scratch.file("store.h5");
  quantize_model(options_for(model, store));
  EXPECT_NE(error_of<ConfigError>([&] {
              quantize_model(options_for(store, scratch.file("again.h5")));
            }).find("quantised already"),
            std::string::npos);
  EXPECT_THROW(quantize_model(options_for(model, scratch.path())), ConfigError);
  EXPECT_THROW(quantize_model(options_for(scratch.file("none"), scratch.file("x.h5"))),
               ConfigError);
  EXPECT_EQ(testing::names_in(scratch.path()), (std::vector<std::string>{"model", "store.h5"}));
}

TEST(QuantizeVerb, FullDiskLeavesNothingUnderTheName) {
  const testing::ScratchFolder scratch;
  const std::string model = testing::write_tiny_model(scratch, "model");
  {
    const testing::FileSizeLimit limit(20'000);
    EXPECT_THROW(quantize_model(options_for(model, scratch.file("store.h5"))), DiskError);
  }
  EXPECT_EQ(testing::names_in(scratch.path()), std::vector<std::string>{"model"});
}

}  // namespace
}  // namespace rankwise
