// SPDX-License-Identifier: Apache-2.0
#include "launch/verbs/inspect_checkpoint.h"

#include <fmt/format.h>

#include <algorithm>

#include "launch/checkpoint/checkpoint_folder.h"
#include "launch/checkpoint/rank_file.h"
#include "launch/progress_line.h"
#include "model/config_reader.h"
#include "runtime/errors.h"
#include "runtime/io/atomic_file.h"
#include "runtime/io/hdf5_file.h"

namespace rankwise {
namespace {

// "lora on all-linear, full on *.norm"
std::string methods_of(const ConfigReader& config, const std::string& source) {
  std::string text;
  for (const Json& rule : config.at("adapt")) {
    const ConfigReader reader(rule, source, "adapt.");
    std::string places = reader.at("match").dump();
    std::erase_if(places, [](char c) { return c == '"' || c == '[' || c == ']'; });
    text += fmt::format("{}{} on {}", text.empty() ? "" : ", ", reader.text("method"), places);
  }
  return text;
}

int64_t bytes_of(const CheckpointManifest& manifest) {
  int64_t bytes = 0;
  for (const CheckpointFile& file : manifest.files) bytes += file.bytes;
  return bytes;
}

std::vector<TensorRow> rows_in(const CheckpointManifest& manifest, size_t file) {
  std::vector<TensorRow> rows;
  for (const auto& [name, entry] : manifest.tensors) {
    for (const CheckpointPiece& piece : entry.pieces) {
      if (piece.file == file) rows.push_back({name, "", piece.stored, 0, is_floating(entry.dtype)});
    }
  }
  return rows;
}

void read_as_float(const Hdf5File& file, const std::string& name, const Tensor& out) {
  const std::string dataset = "/" + name;
  if (file.dtype(dataset) != DType::kBF16) return file.read(dataset, out);
  std::vector<uint16_t> halves(static_cast<size_t>(out.numel()));
  file.read(dataset, Tensor(halves.data(), DType::kBF16, out.shape()));
  std::ranges::transform(halves, out.data<float>(), float_from_bf16);
}

}  // namespace

std::string describe_checkpoint(const std::string& checkpoint, const CheckpointManifest& manifest) {
  const std::string source = checkpoint + "/" + kManifestName;
  const ConfigReader scalars(manifest.scalars, source, "scalars.");
  const ConfigReader run = scalars.object("run");
  const ConfigReader config = run.object("config");
  const double rows = static_cast<double>(config.object("train").positive("global_batch")) *
                      static_cast<double>(manifest.step);
  std::string text = fmt::format("checkpoint: {}\n", checkpoint);
  const auto add = [&](std::string_view key, const std::string& value) {
    text += fmt::format("{:<12} {}\n", key, without_controls(value));
  };
  add("step", fmt::format("{} of {}", manifest.step, run.positive("total_steps")));
  add("position", fmt::format("epoch {:.4g}, {:.0f} rows, {} tokens", scalars.real("epoch"), rows,
                              scalars.at("tokens").dump()));
  add("method", methods_of(config, source));
  add("saved on",
      fmt::format("{} rank(s) (data {} x tensor {}), {}, {}", manifest.ranks,
                  scalars.positive("data_parallel"), scalars.positive("tensor_parallel"),
                  run.text("device"), run.text("compute")));
  add("base", config.object("model").text("path"));
  add("base sha256", run.text_or("base_sha256", "none: drawn from a seed"));
  add("version", fmt::format("{}, commit {}", run.text("version"), run.text("commit")));
  add("files", fmt::format("{}, {}", manifest.files.size(), format_bytes(bytes_of(manifest))));
  return text;
}

std::vector<TensorRow> rows_of(const CheckpointManifest& manifest) {
  std::vector<TensorRow> rows;
  for (const auto& [name, entry] : manifest.tensors) {
    int64_t elements = 0;
    for (const CheckpointPiece& piece : entry.pieces) elements += piece.stored.numel();
    rows.push_back({name, std::string(name_of(entry.dtype)), entry.shape,
                    elements * bits_of(entry.dtype) / 8});
  }
  return rows;
}

void verify_checkpoint(const std::string& checkpoint, const CheckpointManifest& manifest,
                       CheckpointDepth depth) {
  require_files(checkpoint, manifest);
  if (depth == CheckpointDepth::kSizes) return;
  for (size_t i = 0; i < manifest.files.size(); ++i) {
    verify_rank_file(checkpoint, manifest, i);
    const std::string path = path_inside(checkpoint, manifest.files[i].name, checkpoint);
    const Hdf5File file(path, Hdf5File::Mode::kRead);
    require_finite(rows_in(manifest, i), path, [&](const std::string& name, const Tensor& values) {
      read_as_float(file, name, values);
    });
  }
}

CheckpointList list_checkpoints(const std::string& run_folder, CheckpointDepth depth) {
  CheckpointList list;
  std::string newest = depth == CheckpointDepth::kValues ? ", newest good" : ", newest complete";
  for (const int64_t step : committed_steps(run_folder)) {
    const std::string name = checkpoint_name(step);
    list.text += fmt::format("{:<12} {}", list.text.empty() ? "checkpoints" : "", name);
    for (const char* pointer : {kLatestPointer, kBestPointer}) {
      if (read_pointer(run_folder, pointer) == step) list.text += fmt::format(", {}", pointer);
    }
    try {
      const std::string checkpoint = run_folder + "/" + name;
      const CheckpointManifest manifest = read_manifest(checkpoint);
      verify_checkpoint(checkpoint, manifest, depth);
      list.text += fmt::format(", {}{}", format_bytes(bytes_of(manifest)), newest);
      newest.clear();
    } catch (const Error& error) {
      const bool damaged = error.exit_code() == ExitCode::kFormat;
      list.text += fmt::format(", {}: {}", damaged ? "DAMAGED" : "UNREADABLE", error.what());
      if (!list.fault) list.fault = std::current_exception();
    }
    list.text += "\n";
  }
  if (list.text.empty()) list.text = "checkpoints  none\n";
  return list;
}

}  // namespace rankwise
