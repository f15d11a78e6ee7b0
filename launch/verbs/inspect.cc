// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <CLI/CLI.hpp>
#include <filesystem>
#include <ostream>

#include "launch/checkpoint/checkpoint_folder.h"
#include "launch/model_files.h"
#include "launch/verbs/inspect_checkpoint.h"
#include "launch/verbs/verb.h"
#include "model/adapters/peft_folder.h"
#include "model/config_reader.h"
#include "model/model_config.h"
#include "runtime/arena.h"
#include "runtime/io/atomic_file.h"
#include "runtime/io/quantized_store.h"
#include "runtime/io/safetensors.h"
#include "runtime/io/sha256.h"
#include "runtime/io/weight_source.h"

namespace rankwise {
namespace {

namespace fs = std::filesystem;

std::vector<TensorRow> rows_of(const SafetensorsFile& file) {
  std::vector<TensorRow> rows;
  for (const SafetensorsEntry& entry : file.entries()) {
    rows.push_back({entry.name, std::string(name_of(entry.dtype)), entry.shape,
                    static_cast<int64_t>(entry.end - entry.begin), is_floating(entry.dtype)});
  }
  return rows;
}

std::vector<TensorRow> rows_of(const WeightSource& source) {
  // Sizes without reading: a measuring arena has no memory behind it.
  Arena arena(Device{}, Arena::Mode::kMeasure);
  std::vector<TensorRow> rows;
  for (const std::string& name : source.names()) {
    const Arena::Scope scope = arena.scope("inspect");
    if (const auto quantized = source.read_quantized(name, arena, "inspect")) {
      rows.push_back(
          {name, quantized->nested() ? "nf4 double" : "nf4", quantized->shape, quantized->bytes()});
    } else {
      const Shape shape = source.shape(name);
      const DType dtype = source.dtype(name);
      rows.push_back({name, std::string(name_of(dtype)), shape, shape.numel() * bits_of(dtype) / 8,
                      is_floating(dtype)});
    }
  }
  return rows;
}

class InspectVerb : public Verb {
 public:
  std::string name() const override { return "inspect"; }
  std::string help() const override {
    return "what is in a model, store, adapter, checkpoint or run folder";
  }
  void add_options(CLI::App& app) override {
    app.add_option(
           "PATH", path_,
           "Hugging Face folder, adapter folder, run folder, checkpoint, safetensors file, or "
           "store")
        ->required();
    app.add_flag("--tensors", list_tensors_, "list every tensor");
    app.add_flag("--verify", verify_,
                 "read everything: stored checksums and digests, those of a run's data and base, "
                 "values that are not finite");
  }

  int run(VerbContext& context) override {
    if (context.world.rank() != 0) return static_cast<int>(ExitCode::kDone);
    std::ostream& out = context.out;
    while (path_.size() > 1 && path_.ends_with('/')) path_.pop_back();
    if (!fs::exists(path_)) throw ConfigError(fmt::format("'{}' does not exist", path_));
    if (fs::is_directory(path_)) {
      inspect_folder(out);
    } else if (path_.ends_with(".safetensors")) {
      inspect_safetensors(path_, out);
    } else if (is_quantized_store(path_)) {
      out << fmt::format("store written by `rankwise quantize`: {}\n", path_);
      out << fmt::format("files        {}\n", fmt::join(store_files(path_), ", "));
      inspect_model(out);
    } else {
      throw FormatError(
          fmt::format("{}: neither a safetensors file nor a store of `rankwise quantize`", path_));
    }
    return static_cast<int>(ExitCode::kDone);
  }

 private:
  void inspect_folder(std::ostream& out) const {
    const fs::path folder(path_);
    if (fs::exists(folder / kManifestName) || step_of_checkpoint(folder.filename().string())) {
      inspect_checkpoint(out);
    } else if (fs::exists(folder / "run.json")) {
      inspect_run(out);
    } else if (fs::exists(folder / "adapter_config.json")) {
      inspect_adapter(out);
    } else if (fs::exists(folder / "config.json")) {
      out << fmt::format("model folder: {}\n", path_);
      inspect_model(out);
    } else {
      throw FormatError(fmt::format(
          "{}: no run.json (run), manifest.json (checkpoint), adapter_config.json (adapter) or "
          "config.json (model) inside",
          path_));
    }
  }

  void inspect_model(std::ostream& out) const {
    const ModelConfig config = load_model_config(path_);
    out << fmt::format(
        "model        {}, {} layers, hidden {}, {} heads ({} key/value), vocabulary {}\n"
        "parameters   {}{}\n",
        config.model_type, config.num_hidden_layers, config.hidden_size, config.num_attention_heads,
        config.num_key_value_heads, config.vocab_size, parameter_count(config),
        config.tie_word_embeddings ? " (head tied to the embedding)" : "");
    const std::unique_ptr<WeightSource> source = open_weights(path_);
    const std::vector<TensorRow> rows = rows_of(*source);
    out << describe_tensors(rows, list_tensors_);
    if (verify_) verify_weights(*source, rows, out);
  }

  void inspect_adapter(std::ostream& out) const {
    const PeftConfig config = read_peft_config(path_);
    out << fmt::format("adapter folder: {}\n", path_);
    const int64_t rank = config.adalora ? config.adalora->init_r : config.r;
    out << fmt::format("method       {}{}, rank {}, alpha {}{}, dropout {}\n", config.peft_type,
                       config.use_dora ? " (DoRA)" : "", rank, config.lora_alpha,
                       config.use_rslora ? " (rslora)" : "", config.lora_dropout);
    if (config.adalora) {
      out << fmt::format("budget       from rank {} to a mean of {}\n", rank,
                         config.adalora->target_r);
    }
    out << fmt::format("base         {}\n", config.base_model_name_or_path);
    out << fmt::format("targets      {}\n", fmt::join(config.target_modules, ", "));
    inspect_safetensors(path_ + "/adapter_model.safetensors", out);
  }

  void inspect_safetensors(const std::string& path, std::ostream& out) const {
    const SafetensorsFile file(path);
    out << fmt::format("safetensors  {}\n", path);
    for (const auto& [key, value] : file.metadata()) {
      out << fmt::format("metadata     {}: {}\n", key, value);
    }
    const std::vector<TensorRow> rows = rows_of(file);
    out << describe_tensors(rows, list_tensors_);
    if (!verify_) return;
    require_finite(rows, path, [&](const std::string& name, const Tensor& values) {
      file.read(file.at(name), values);
    });
    out << fmt::format("verified     every value is finite; sha256 {}\n", sha256_file(path));
  }

  void inspect_run(std::ostream& out) const {
    const std::string file = path_ + "/run.json";
    const Json json = read_json_file(file);
    const ConfigReader run(json, file);
    out << fmt::format("run folder: {}\n", path_);
    for (const char* key : {"version", "commit", "ranks", "device", "compute"}) {
      if (run.has(key)) out << fmt::format("{:<12} {}\n", key, text_of(run.at(key)));
    }
    const std::string base = run.object("config").object("model").text("path");
    out << fmt::format("base         {}\n", base);
    const fs::path summary = fs::path(path_) / "summary.txt";
    if (fs::exists(summary)) {
      out << read_file(summary.string());
    } else {
      out << "state        not finished: no summary.txt\n";
    }
    const CheckpointList list =
        list_checkpoints(path_, verify_ ? CheckpointDepth::kValues : CheckpointDepth::kSizes);
    out << list.text;
    if (!verify_) return;
    verify_run(run, base, out);
    if (list.fault) std::rethrow_exception(list.fault);
  }

  void inspect_checkpoint(std::ostream& out) const {
    const CheckpointManifest manifest = read_manifest(path_);
    verify_checkpoint(path_, manifest, CheckpointDepth::kSizes);
    out << describe_checkpoint(path_, manifest)
        << describe_tensors(rows_of(manifest), list_tensors_);
    if (!verify_) return;
    verify_checkpoint(path_, manifest, CheckpointDepth::kValues);
    out << "verified     every file has its digest, every value is finite\n";
  }
  // Whether the data and the base are still those the run used.
  static void verify_run(const ConfigReader& run, const std::string& base, std::ostream& out) {
    int64_t checked = 0;
    const auto check = [&](const std::string& path, const std::string& recorded,
                           const std::string& now) {
      if (recorded != now) {
        throw FormatError(
            fmt::format("{}: changed since the run: sha256 {} now, {} then", path, now, recorded));
      }
      ++checked;
    };
    if (run.has("data_sha256")) {
      const ConfigReader digests = run.object("data_sha256");
      for (const auto& [path, digest] : run.at("data_sha256").items()) {
        check(path, digests.text(path), sha256_file(path));
      }
    }
    if (run.has("base_sha256")) check(base, run.text("base_sha256"), base_digest(base));
    out << fmt::format("verified     {} digest(s) of data and base are those of the run\n",
                       checked);
  }

  // The store's own checksums are compared by reading.
  void verify_weights(const WeightSource& source, const std::vector<TensorRow>& rows,
                      std::ostream& out) const {
    require_finite(rows, source.description(), [&](const std::string& name, const Tensor& values) {
      source.read(name, values);
    });
    Arena arena;
    for (const TensorRow& row : rows) {
      const Arena::Scope scope = arena.scope("inspect");
      source.read_quantized(row.name, arena, "inspect");
    }
    out << fmt::format(
        "verified     every tensor reads back, every value is finite; base sha256 {}\n",
        base_digest(path_));
  }

  static std::string text_of(const Json& value) {
    return value.is_string() ? value.get<std::string>() : value.dump();
  }

  std::string path_;
  bool list_tensors_ = false;
  bool verify_ = false;
};

}  // namespace

std::unique_ptr<Verb> make_inspect_verb() { return std::make_unique<InspectVerb>(); }

}  // namespace rankwise
