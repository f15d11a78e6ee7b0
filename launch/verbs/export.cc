// SPDX-License-Identifier: Apache-2.0
#include "launch/verbs/export.h"

#include <fmt/ostream.h>

#include <algorithm>
#include <filesystem>

#include "launch/model_files.h"
#include "launch/output_folder.h"
#include "launch/saved_run.h"
#include "launch/verbs/choice_options.h"
#include "model/adapters/adapter_registry.h"
#include "model/hf_folder.h"
#include "runtime/io/safetensors.h"

namespace rankwise {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kPeftPrefix = "base_model.model.";

struct Source {
  std::string folder;
  bool is_adapter = false;
  std::unique_ptr<SavedRun> run{};  // of a checkpoint
};

bool holds(const fs::path& folder, const char* file) { return fs::exists(folder / file); }

// Else the model; of a source that has one of them, or both.
bool chooses_adapter(const ExportOptions& options, bool has_adapter, bool has_model) {
  const bool wants_adapter = options.part == ExportPart::kAdapter;
  const bool wants_model = options.part == ExportPart::kModel;
  if (options.part == ExportPart::kOnlyOne && has_adapter && has_model) {
    throw ConfigError(
        fmt::format("--part: the run '{}' trained an adapter and weights; choose adapter or model",
                    options.source));
  }
  if (has_adapter && !wants_model) return true;
  if (has_model && !wants_adapter) return false;
  throw ConfigError(fmt::format(
      "RUN: '{}' holds no finished {}; of a run that goes on, export a checkpoint (step-...)",
      options.source,
      wants_adapter ? "adapter"
      : wants_model ? "model"
                    : "adapter or model"));
}

Source find_source(const ExportOptions& options) {
  const fs::path given(options.source);
  if (!fs::is_directory(given)) {
    throw ConfigError(fmt::format("RUN: '{}' is no folder", options.source));
  }
  if (holds(given, kManifestName)) {
    const fs::path folder = given.has_filename() ? given : given.parent_path();
    auto run = std::make_unique<SavedRun>(folder.string());
    const bool is_adapter = chooses_adapter(options, run->has_adapters(), run->trains_weights());
    return {folder.string(), is_adapter, std::move(run)};
  }
  std::string adapter;
  std::string model;
  for (const fs::path& folder : {given, given / "adapter"}) {
    if (holds(folder, "adapter_config.json")) adapter = folder.string();
  }
  for (const fs::path& folder : {given, given / "model"}) {
    if (holds(folder, "config.json")) model = folder.string();
  }
  const bool is_adapter = chooses_adapter(options, !adapter.empty(), !model.empty());
  return {is_adapter ? adapter : model, is_adapter};
}

TokenizerFiles tokenizer_of(const std::string& folder) {
  return has_tokenizer(folder) ? load_tokenizer(folder)->files() : TokenizerFiles{};
}

// Adapters of the shapes that the folder's tensors have: the base itself is not needed.
std::vector<std::unique_ptr<Adapter>> adapters_in(
    const SafetensorsFile& file, const PeftConfig& config,
    std::vector<std::pair<std::string, Adapter*>>& by_module, Arena& arena, Stream& stream) {
  const std::string suffix = config.adalora ? "" : ".weight";
  const std::string ending = ".lora_A" + suffix;
  std::vector<std::unique_ptr<Adapter>> adapters;
  for (const SafetensorsEntry& a : file.entries()) {
    if (!a.name.starts_with(kPeftPrefix) || !a.name.ends_with(ending)) continue;
    const std::string module =
        a.name.substr(kPeftPrefix.size(), a.name.size() - kPeftPrefix.size() - ending.size());
    const SafetensorsEntry& b = file.at(fmt::format("{}{}.lora_B{}", kPeftPrefix, module, suffix));
    if (a.shape.rank() != 2 || b.shape.rank() != 2) {
      throw FormatError(fmt::format("{}: {}: A {} and B {} are not both matrices", file.path(),
                                    module, to_string(a.shape), to_string(b.shape)));
    }
    const LinearSite site{module, a.shape.dim(1), b.shape.dim(0), ShardSpec::replicated()};
    adapters.push_back(
        make_adapter(site, adapter_options(config, module), /*seed=*/0, arena, stream));
    by_module.emplace_back(module, adapters.back().get());
  }
  if (adapters.empty()) {
    throw FormatError(
        fmt::format("{}: no tensor named {}<module>{}", file.path(), kPeftPrefix, ending));
  }
  return adapters;
}

bool is_zero(const Tensor& tensor) {
  const auto* values = tensor.data<float>();
  return std::all_of(values, values + tensor.numel(), [](float value) { return value == 0.0f; });
}

void count(const NamedTensor& tensor, ExportReport& report) {
  ++report.tensors;
  report.elements += tensor.tensor.numel();
}

using Adapters = std::vector<std::pair<std::string, Adapter*>>;

void write_adapter(const std::string& output, const PeftConfig& config, const Adapters& adapters,
                   const std::string& tokenizer, ExportReport& report) {
  // The factor that starts as 0. Magnitudes of DoRA change something whatever B is.
  const ParameterRole zero_at_first =
      config.adalora ? ParameterRole::kLoraE : ParameterRole::kLoraB;
  report.changes_nothing = !config.use_dora;
  report.zero_factor = config.adalora ? "lora_E" : "lora_B";
  for (const auto& [module, adapter] : adapters) {
    for (const Parameter* parameter : adapter->parameters()) {
      count({parameter->name, parameter->dense()}, report);
      if (parameter->role != zero_at_first) continue;
      if (!is_zero(parameter->dense())) report.changes_nothing = false;
    }
  }
  Stream stream;
  write_peft_folder(output, config, adapters, tokenizer_of(tokenizer), stream);
}

void export_adapter(const std::string& output, ExportReport& report) {
  const PeftConfig config = read_peft_config(report.source);
  Arena arena;
  Stream stream;
  Adapters by_module;
  const SafetensorsFile file(report.source + "/adapter_model.safetensors");
  const auto adapters = adapters_in(file, config, by_module, arena, stream);
  load_peft_weights(report.source, by_module, stream);
  write_adapter(output, config, by_module, report.source, report);
}

void export_model(const ExportOptions& options, ExportReport& report) {
  const ModelFiles files = open_model(report.source);
  Arena arena;
  std::vector<NamedTensor> tensors;
  for (const auto& [name, shape] : weight_shapes(files.config)) {
    // In its own type; read() refuses a shape that config.json does not imply.
    tensors.push_back({name, arena.allocate("weights", files.weights->dtype(name), shape)});
    files.weights->read(name, tensors.back().tensor);
    count(tensors.back(), report);
  }
  write_hf_folder(options.output, files.config, tensors, tokenizer_of(report.source),
                  options.overwrite);
}

void export_checkpoint(const SavedRun& run, const ExportOptions& options, ExportReport& report) {
  Arena arena;
  Stream stream;
  if (report.is_adapter) {
    const SavedAdapters saved = run.load_adapters(arena, stream);
    return write_adapter(options.output, saved.config, saved.by_module, run.base(), report);
  }
  const std::vector<NamedTensor> tensors = run.load_weights(arena, stream);
  for (const NamedTensor& tensor : tensors) count(tensor, report);
  write_hf_folder(options.output, run.model(), tensors, tokenizer_of(run.base()),
                  options.overwrite);
}

class ExportVerb : public Verb {
 public:
  std::string name() const override { return "export"; }
  std::string help() const override {
    return "write what a run trained, at its end or at a checkpoint, as a PEFT adapter folder or a "
           "Hugging Face model";
  }
  void add_options(CLI::App& app) override {
    app.add_option("RUN_OR_CHECKPOINT", options_.source,
                   "run folder, checkpoint (step-...), or an adapter or model folder")
        ->required();
    app.add_option("-o,--output", options_.output, "folder to write")->required();
    add_choice<ExportPart>(app, "--part", options_.part,
                           {{"adapter", ExportPart::kAdapter}, {"model", ExportPart::kModel}},
                           "of a run that trained both: adapter or model");
    app.add_flag("--overwrite", options_.overwrite, "replace the folder when it exists");
  }
  int run(VerbContext& context) override {
    if (context.world.rank() != 0) return static_cast<int>(ExitCode::kDone);
    const ExportReport report = export_result(options_);
    fmt::print(context.out, "{}: {} from {}, {} tensors, {} elements\n", options_.output,
               report.is_adapter ? "PEFT adapter" : "model", report.source, report.tensors,
               report.elements);
    if (report.changes_nothing) {
      fmt::print(context.out, "warning: every {} is zero, this adapter changes nothing\n",
                 report.zero_factor);
    }
    return static_cast<int>(ExitCode::kDone);
  }

 private:
  ExportOptions options_;
};

}  // namespace

ExportReport export_result(const ExportOptions& options) {
  const Source source = find_source(options);
  require_other_folder(options.output, source.folder);
  require_output_folder(options.output, source.is_adapter ? "adapter_config.json" : "config.json",
                        options.overwrite);
  ExportReport report;
  report.is_adapter = source.is_adapter;
  report.source = source.folder;
  if (source.run) {
    export_checkpoint(*source.run, options, report);
  } else {
    source.is_adapter ? export_adapter(options.output, report) : export_model(options, report);
  }
  return report;
}

std::unique_ptr<Verb> make_export_verb() { return std::make_unique<ExportVerb>(); }

}  // namespace rankwise
