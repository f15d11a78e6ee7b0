// SPDX-License-Identifier: Apache-2.0
#include "launch/verbs/quantize.h"

#include <fmt/ostream.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <filesystem>

#include "kernels/quantize.h"
#include "launch/model_files.h"
#include "launch/progress_line.h"
#include "model/hf_folder.h"
#include "runtime/io/atomic_file.h"
#include "runtime/io/quantized_store.h"

namespace rankwise {
namespace {

// One quantise job: the memory of one tensor, used again for the next.
class StoreBuilder {
 public:
  StoreBuilder(const ModelFiles& files, const QuantizeOptions& options)
      : files_(files), options_(options), writer_(options.store) {}

  void add_quantized(const std::string& name, const Shape& shape) {
    const Arena::Scope scope = arena_.scope("tensor");
    const Tensor weight = arena_.allocate("tensor", DType::kF32, shape);
    files_.weights->read(name, weight);
    const DType source_dtype = files_.weights->dtype(name);
    QuantizedTensor quantized = allocate_nf4(MatrixSlice::all(shape), options_.double_quant,
                                             source_dtype, arena_, "tensor");
    quantize_nf4(quantized, weight, stream_);
    add_error(name, weight, quantized);
    writer_.add(name, quantized);
    ++report_.quantized_tensors;
    report_.quantized_elements += shape.numel();
    report_.quantized_bytes += quantized.bytes();
    report_.source_bytes += shape.numel() * bits_of(source_dtype) / 8;
  }

  void add_dense(const std::string& name, const Shape& shape) {
    const Arena::Scope scope = arena_.scope("tensor");
    const Tensor weight = arena_.allocate("tensor", files_.weights->dtype(name), shape);
    files_.weights->read(name, weight);
    writer_.add(name, weight);
    ++report_.dense_tensors;
    report_.dense_bytes += weight.bytes();
  }

  QuantizeReport finish() {
    writer_.add_file("config.json", read_file(files_.path + "/config.json"));
    if (has_tokenizer(files_.path)) {
      for (const auto& [name, content] : open_tokenizer(files_)->files()) {
        writer_.add_file(name, content);
      }
    }
    writer_.commit();
    report_.mean_error =
        error_sum_ / static_cast<double>(std::max<int64_t>(report_.quantized_elements, 1));
    report_.peak_bytes = arena_.peak_bytes();
    return report_;
  }

 private:
  // Some rows at a time, so that the decoded matrix never exists beside the original.
  void add_error(const std::string& name, const Tensor& weight, const QuantizedTensor& quantized) {
    const int64_t rows = weight.dim(0);
    const int64_t columns = weight.dim(1);
    const int64_t rows_at_once = std::clamp<int64_t>((1 << 16) / columns, 1, rows);
    const Tensor decoded = arena_.allocate("tensor", DType::kF32, {rows_at_once, columns});
    for (int64_t begin = 0; begin < rows; begin += rows_at_once) {
      const int64_t end = std::min(begin + rows_at_once, rows);
      dequantize_rows(decoded.rows(0, end - begin), quantized, begin, end, stream_);
      const float* expected = weight.rows(begin, end).data<float>();
      const float* actual = decoded.data<float>();
      for (int64_t i = 0; i < (end - begin) * columns; ++i) {
        const double error = std::abs(static_cast<double>(actual[i]) - expected[i]);
        error_sum_ += error;
        if (error > report_.max_error) {
          report_.max_error = error;
          report_.max_error_tensor = name;
        }
      }
    }
  }

  const ModelFiles& files_;
  const QuantizeOptions& options_;
  QuantizedStoreWriter writer_;
  Arena arena_;
  Stream stream_;
  QuantizeReport report_;
  double error_sum_ = 0.0;
};

void check_paths(const QuantizeOptions& options) {
  namespace fs = std::filesystem;
  if (fs::exists(options.model) && !fs::is_directory(options.model) &&
      is_quantized_store(options.model)) {
    throw ConfigError(fmt::format("MODEL: '{}' is quantised already", options.model));
  }
  if (fs::is_directory(options.store)) {
    throw ConfigError(fmt::format("--output: '{}' is a folder", options.store));
  }
  if (fs::exists(options.store) && !options.overwrite) {
    throw ConfigError(fmt::format("--output: '{}' exists; --overwrite replaces it", options.store));
  }
}

std::string describe(const QuantizeReport& report) {
  const double bits = 8.0 * static_cast<double>(report.quantized_bytes) /
                      static_cast<double>(std::max<int64_t>(report.quantized_elements, 1));
  return fmt::format(
      "quantised   {} tensors, {} elements: {} -> {} ({:.3f} bits per element)\n"
      "kept dense  {} tensors: {}\n"
      "total       {} -> {}\n"
      "error       mean {:.3e}, max {:.3e} in {}\n"
      "memory      {}\n",
      report.quantized_tensors, report.quantized_elements, format_bytes(report.source_bytes),
      format_bytes(report.quantized_bytes), bits, report.dense_tensors,
      format_bytes(report.dense_bytes), format_bytes(report.source_bytes + report.dense_bytes),
      format_bytes(report.quantized_bytes + report.dense_bytes), report.mean_error,
      report.max_error, report.max_error_tensor, format_bytes(report.peak_bytes));
}

class QuantizeVerb : public Verb {
 public:
  std::string name() const override { return "quantize"; }
  std::string help() const override {
    return "write a model's linear layers in 4 bits (NF4) to a store that loads fast";
  }
  void add_options(CLI::App& app) override {
    app.add_option("MODEL", options_.model, "Hugging Face model folder")->required();
    app.add_option("-o,--output", options_.store, "store to write (.h5)")->required();
    app.add_flag("!--no-double-quant", options_.double_quant,
                 "keep the scales in fp32 (4.5 instead of 4.127 bits per element)");
    app.add_flag("--overwrite", options_.overwrite, "replace the store when it exists");
  }
  int run(VerbContext& context) override {
    if (context.world.rank() == 0) {
      fmt::print(context.out, "{}", describe(quantize_model(options_)));
    }
    return static_cast<int>(ExitCode::kDone);
  }

 private:
  QuantizeOptions options_;
};

}  // namespace

QuantizeReport quantize_model(const QuantizeOptions& options) {
  check_paths(options);
  const ModelFiles files = open_model(options.model);
  StoreBuilder builder(files, options);
  for (const auto& [name, expected] : weight_shapes(files.config)) {
    const Shape shape = files.weights->shape(name);
    if (!(shape == expected)) {
      throw FormatError(fmt::format("{}: {} has shape {}, config.json asks for {}", files.path,
                                    name, to_string(shape), to_string(expected)));
    }
    is_block_linear(files.config, name, shape) ? builder.add_quantized(name, shape)
                                               : builder.add_dense(name, shape);
  }
  return builder.finish();
}

std::unique_ptr<Verb> make_quantize_verb() { return std::make_unique<QuantizeVerb>(); }

}  // namespace rankwise
