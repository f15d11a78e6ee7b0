// SPDX-License-Identifier: Apache-2.0
#include "launch/verbs/merge.h"

#include <fmt/ostream.h>

#include <algorithm>
#include <cmath>
#include <filesystem>

#include "launch/inference_model.h"
#include "launch/output_folder.h"
#include "launch/verbs/choice_options.h"
#include "model/hf_folder.h"
#include "model/merged_weights.h"
#include "runtime/io/quantized_store.h"

namespace rankwise {
namespace {

constexpr int64_t kProbeTokens = 32;

bool is_store(const std::string& path) { return !std::filesystem::is_directory(path); }

// The options with `base` decided.
MergeOptions resolved(MergeOptions options) {
  const bool store = is_store(options.model);
  if (!options.base) options.base = store ? MergeBase::kDequantized : MergeBase::kOriginal;
  if (store && options.base == MergeBase::kOriginal) {
    throw ConfigError(
        fmt::format("--base original: the store '{}' does not hold the original weights; give the "
                    "model folder it was made from",
                    options.model));
  }
  options.trained_on_nf4 = options.trained_on_nf4 || options.base == MergeBase::kDequantized;
  require_other_folder(options.output, options.model);
  require_output_folder(options.output, "config.json", options.overwrite);
  return options;
}

// Token ids spread over the vocabulary: 7919 is a prime.
Sample probe(const ModelConfig& config) {
  Sample sample;
  const int64_t length = std::min(kProbeTokens, config.max_position_embeddings);
  for (int64_t i = 0; i < length; ++i) {
    sample.input_ids.push_back(static_cast<int32_t>((7919 * i + 13) % config.vocab_size));
    sample.labels.push_back(kIgnoredLabel);
  }
  return sample;
}

// Logits (T * V) of the probe.
std::vector<float> probe_logits(const ModelFiles& files, InferenceModel& loaded) {
  MicroBatch batch;
  append_document(batch, probe(files.config));
  const Arena::Scope scope = loaded.arena().scope("activations");
  ForwardContext context = loaded.model().forward(batch, /*training=*/false, 0, loaded.stream());
  const Tensor logits = loaded.model().logits(context, 0, batch.tokens(), loaded.stream());
  loaded.stream().synchronize();
  return {logits.data<float>(), logits.data<float>() + logits.numel()};
}

std::vector<float> probe_logits(const ModelFiles& files, const InferenceOptions& options,
                                const DeviceMesh& mesh) {
  InferenceModel loaded(files, options, mesh);
  return probe_logits(files, loaded);
}

double max_difference(const std::vector<float>& a, const std::vector<float>& b) {
  double largest = 0.0;
  for (size_t i = 0; i < a.size(); ++i) {
    const double difference = std::abs(static_cast<double>(a[i]) - b[i]);
    if (!(difference <= largest)) largest = difference;  // keeps NaN
  }
  return largest;
}

void compare(const std::vector<float>& adapted, const std::vector<float>& merged, int64_t tokens,
             MergeReport& report) {
  const auto vocabulary = static_cast<int64_t>(adapted.size()) / tokens;
  report.probe_tokens = tokens;
  report.max_difference = max_difference(adapted, merged);
  double sum = 0.0;
  for (size_t i = 0; i < adapted.size(); ++i) {
    sum += std::abs(static_cast<double>(adapted[i]) - merged[i]);
    report.largest_logit =
        std::max(report.largest_logit, std::abs(static_cast<double>(adapted[i])));
  }
  report.mean_difference = sum / static_cast<double>(adapted.size());
  for (int64_t t = 0; t < tokens; ++t) {
    const auto best = [&](const std::vector<float>& logits) {
      const auto row = logits.begin() + t * vocabulary;
      return std::max_element(row, row + vocabulary) - row;
    };
    if (best(adapted) == best(merged)) ++report.equal_predictions;
  }
}

// F32 -> the element type the source file has, rounded once.
Tensor in_dtype(const Tensor& tensor, DType dtype, Arena& arena) {
  if (dtype == DType::kF32) return tensor;
  RW_ASSERT(dtype == DType::kBF16 || dtype == DType::kF16, "{}", name_of(dtype));
  const Tensor out = arena.allocate("merged", dtype, tensor.shape());
  auto* bits = static_cast<uint16_t*>(out.raw());
  const auto* values = tensor.data<float>();
  for (int64_t i = 0; i < tensor.numel(); ++i) {
    bits[i] = dtype == DType::kBF16 ? bf16_from_float(values[i]) : f16_from_float(values[i]);
  }
  return out;
}

void write_merged(const ModelFiles& files, const MergeOptions& options, InferenceModel& loaded) {
  const bool original = options.base == MergeBase::kOriginal;
  std::vector<NamedTensor> tensors = merged_weights(
      loaded.model(), original ? files.weights.get() : nullptr, loaded.arena(), loaded.stream());
  loaded.stream().synchronize();
  for (NamedTensor& named : tensors) {
    named.tensor = in_dtype(named.tensor, files.weights->dtype(named.name), loaded.arena());
  }
  const TokenizerFiles tokenizer =
      has_tokenizer(files.path) ? open_tokenizer(files)->files() : TokenizerFiles{};
  write_hf_folder(options.output, files.config, tensors, tokenizer, options.overwrite);
}

std::string describe(const MergeReport& report) {
  const char* base =
      report.base == MergeBase::kOriginal ? "original weights" : "dequantised NF4 weights";
  return fmt::format(
      "merged        {} modules into the {}\n"
      "before        adapter against base alone: max logit difference {:.3e}\n"
      "after         adapter against merged: max {:.3e}, mean {:.3e} (largest logit {:.3g})\n"
      "predictions   {} of {} probe tokens equal\n",
      report.merged_modules, base, report.base_max_difference, report.max_difference,
      report.mean_difference, report.largest_logit, report.equal_predictions, report.probe_tokens);
}

class MergeVerb : public Verb {
 public:
  std::string name() const override { return "merge"; }
  std::string help() const override { return "fold an adapter into the weights of its base"; }
  void add_options(CLI::App& app) override {
    app.add_option("MODEL", options_.model, "model folder or quantised store")->required();
    app.add_option("--adapter", options_.adapter, "PEFT adapter folder")->required();
    app.add_option("-o,--output", options_.output, "model folder to write")->required();
    add_choice<MergeBase>(
        app, "--base", options_.base,
        {{"original", MergeBase::kOriginal}, {"dequantized", MergeBase::kDequantized}},
        "weights to add to: original, or dequantized (what a QLoRA adapter was trained beside); "
        "default: original for a folder, dequantized for a store");
    add_choice<bool>(app, "--quant", trained_on_nf4_, {{"none", false}, {"nf4", true}},
                     "base the adapter was trained beside, for the comparison");
    app.add_flag("!--no-double-quant", options_.double_quant, "NF4 with scales in fp32");
    app.add_flag("--overwrite", options_.overwrite, "replace the folder when it exists");
  }
  int run(VerbContext& context) override {
    if (context.world.rank() != 0) return static_cast<int>(ExitCode::kDone);
    options_.trained_on_nf4 = trained_on_nf4_.value_or(false);
    if (trained_on_nf4_ == false && options_.base == MergeBase::kDequantized) {
      throw ConfigError("--quant none: contradicts --base dequantized");
    }
    fmt::print(context.out, "{}", describe(merge_adapter(options_)));
    return static_cast<int>(ExitCode::kDone);
  }

 private:
  MergeOptions options_;
  std::optional<bool> trained_on_nf4_;
};

}  // namespace

MergeReport merge_adapter(const MergeOptions& given) {
  const ModelFiles files = open_model(given.model);
  const MergeOptions options = resolved(given);
  InferenceOptions base;
  base.quantize_nf4 = options.trained_on_nf4 && !is_store(options.model);
  base.double_quant = options.double_quant;
  InferenceOptions with_adapter = base;
  with_adapter.adapter = options.adapter;
  const auto alone = make_single_communicator();
  const DeviceMesh mesh(*alone, 1);
  MergeReport report;
  report.base = *options.base;
  std::vector<float> adapted;
  {
    // One model at a time in memory.
    InferenceModel loaded(files, with_adapter, mesh);
    report.merged_modules = static_cast<int64_t>(loaded.model().adapters().size());
    adapted = probe_logits(files, loaded);
    write_merged(files, options, loaded);
  }
  report.base_max_difference = max_difference(adapted, probe_logits(files, base, mesh));
  const ModelFiles merged = open_model(options.output);
  compare(adapted, probe_logits(merged, {}, mesh),
          static_cast<int64_t>(probe(files.config).input_ids.size()), report);
  return report;
}

std::unique_ptr<Verb> make_merge_verb() { return std::make_unique<MergeVerb>(); }

}  // namespace rankwise
