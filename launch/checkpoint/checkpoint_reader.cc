// SPDX-License-Identifier: Apache-2.0
#include "launch/checkpoint/checkpoint_reader.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <set>
#include <utility>

#include "launch/checkpoint/agreement.h"
#include "launch/checkpoint/checkpoint_folder.h"
#include "launch/checkpoint/rank_file.h"
#include "runtime/errors.h"
#include "runtime/io/atomic_file.h"
#include "runtime/io/regular_file.h"
#include "runtime/io/sha256.h"
#include "runtime/transfer.h"

namespace rankwise {
namespace {

constexpr const char* kVerify = "checkpoint verification";
constexpr const char* kCannotUse = "cannot use checkpoint";
constexpr const char* kRestore = "checkpoint restore";

std::vector<std::string> foreign_files(const std::string& folder,
                                       const CheckpointManifest& manifest) {
  std::set<std::string> known{kManifestName};
  for (const CheckpointFile& file : manifest.files) known.insert(file.name);
  std::vector<std::string> warnings;
  for (const std::string& name : names_in(folder)) {
    if (known.contains(name)) continue;
    warnings.push_back(folder + "/" + name + ": is no file of this checkpoint; ignored");
  }
  std::ranges::sort(warnings);
  return warnings;
}

FormatError refused(const std::string& path, const std::string& tensor, const std::string& why) {
  return FormatError(fmt::format("{}: tensor {} {}", path, quote(tensor), why));
}

// What differs is no damage: it is there, but not for all.
void require_same(const std::vector<Json>& seen, const std::string& manifest) {
  if (std::ranges::adjacent_find(seen, std::not_equal_to()) == seen.end()) return;
  throw DiskError(manifest + ": the ranks see different content; is the folder shared by all?");
}

}  // namespace

CheckpointManifest read_manifest(const std::string& folder, std::string* text) {
  const std::string source = folder + "/" + kManifestName;
  const std::string bytes = read_file(source, JsonLimits{}.max_bytes);
  CheckpointManifest manifest = parse_manifest(bytes, source);
  const auto named = step_of_checkpoint(std::filesystem::path(folder).filename().string());
  if (named && *named != manifest.step) {
    throw FormatError(fmt::format("{}: is of step {}", source, manifest.step));
  }
  if (text != nullptr) *text = bytes;
  return manifest;
}

CheckpointReader::CheckpointReader(std::string path, Communicator& world)
    : path_(std::move(path)), world_(&world) {
  const std::string manifest = path_ + "/" + kManifestName;
  const Vote found = vote_on(
      [&] { return Json(file_type_of(manifest) != std::filesystem::file_type::not_found); });
  require_same(require_agreement(world, found, kCannotUse, kVerify), manifest);
  const Vote verified = vote_on([&] {
    std::string text;
    manifest_ = read_manifest(path_, &text);
    // Every rank looks at its share of the files.
    const auto size = static_cast<size_t>(world.size());
    for (auto i = static_cast<size_t>(world.rank()); i < manifest_.files.size(); i += size) {
      verify_rank_file(path_, manifest_, i);
    }
    if (world.rank() == 0) warnings_ = foreign_files(path_, manifest_);
    return Json{{"manifest", sha256_hex(std::as_bytes(std::span(text)))}, {"warnings", warnings_}};
  });
  std::vector<Json> votes = require_agreement(world, verified, kCannotUse, kVerify);
  warnings_ = votes[0]["warnings"].get<std::vector<std::string>>();
  for (Json& vote : votes) vote = Json(vote["manifest"]);
  require_same(votes, manifest);
}

const Hdf5File& CheckpointReader::file(size_t index) const {
  std::unique_ptr<Hdf5File>& opened = open_[index];
  if (!opened) {
    const std::string name = path_inside(path_, manifest_.files[index].name, path_);
    opened = std::make_unique<Hdf5File>(name, Hdf5File::Mode::kRead);
  }
  return *opened;
}

void CheckpointReader::read(const CheckpointTensor& tensor, Stream& stream) const {
  const auto found = manifest_.tensors.find(tensor.name);
  if (found == manifest_.tensors.end()) throw refused(path_, tensor.name, "is not in it");
  const CheckpointEntry& entry = found->second;
  const Tensor& out = tensor.value;
  if (entry.dtype != out.dtype() || entry.shape != tensor.shape ||
      entry.layout_bound != tensor.layout_bound) {
    throw refused(
        path_, tensor.name,
        fmt::format("is {} {}, this run has {} {}", name_of(entry.dtype), to_string(entry.shape),
                    name_of(out.dtype()), to_string(tensor.shape)));
  }
  if (entry.layout_bound) return read_bound(tensor, entry, stream);
  const MatrixSlice& part = tensor.part;
  const int64_t rows = part.row_end - part.row_begin;
  RW_ASSERT(out.is_contiguous() && out.numel() == part.shape().numel(), "{}", tensor.name);
  if (out.numel() == 0) return;
  const int64_t columns = out.numel() / rows;
  const int64_t row_bytes = columns * bits_of(out.dtype()) / 8;
  const int64_t block_rows = std::clamp<int64_t>(kCheckpointBlockBytes / row_bytes, 1, rows);
  std::vector<std::byte> block(static_cast<size_t>(block_rows * row_bytes));
  const Tensor matrix = out.reshaped({rows, columns});
  for (int64_t begin = 0; begin < rows; begin += block_rows) {
    const int64_t end = std::min(rows, begin + block_rows);
    MatrixSlice wanted = part;
    wanted.row_begin = part.row_begin + begin;
    wanted.row_end = part.row_begin + end;
    assemble(tensor.name, entry, wanted, block.data());
    upload(matrix.rows(begin, end), block.data(), stream);
  }
}

void CheckpointReader::assemble(const std::string& name, const CheckpointEntry& entry,
                                const MatrixSlice& wanted, std::byte* out) const {
  const int64_t element = bits_of(entry.dtype) / 8;
  const int64_t row_bytes = wanted.shape().dim(1) * element;
  std::vector<std::byte> rows;
  for (const CheckpointPiece& piece : entry.pieces) {
    const MatrixSlice& part = piece.part;
    const int64_t row_begin = std::max(wanted.row_begin, part.row_begin);
    const int64_t row_end = std::min(wanted.row_end, part.row_end);
    const int64_t column_begin = std::max(wanted.column_begin, part.column_begin);
    const int64_t column_end = std::min(wanted.column_end, part.column_end);
    if (row_begin >= row_end || column_begin >= column_end) continue;
    const int64_t piece_columns = part.shape().dim(1);
    rows.resize(static_cast<size_t>((row_end - row_begin) * piece_columns * element));
    file(piece.file)
        .read_rows("/" + name, row_begin - part.row_begin, row_end - part.row_begin,
                   Tensor(rows.data(), entry.dtype, {row_end - row_begin, piece_columns}));
    for (int64_t row = row_begin; row < row_end; ++row) {
      const int64_t from = (row - row_begin) * piece_columns + column_begin - part.column_begin;
      std::memcpy(out + (row - wanted.row_begin) * row_bytes +
                      (column_begin - wanted.column_begin) * element,
                  rows.data() + from * element,
                  static_cast<size_t>((column_end - column_begin) * element));
    }
  }
}

void CheckpointReader::read_bound(const CheckpointTensor& tensor, const CheckpointEntry& entry,
                                  Stream& stream) const {
  const Tensor& out = tensor.value;
  const auto piece = std::ranges::find_if(
      entry.pieces, [&](const CheckpointPiece& p) { return same_part(p.part, tensor.part); });
  if (piece == entry.pieces.end() || piece->stored.numel() != out.numel()) {
    throw refused(path_, tensor.name,
                  fmt::format("holds blocks of other parts than {}: 8-bit states can only be "
                              "resumed with the parallel.tensor they were saved with",
                              part_text(tensor.shape, tensor.part)));
  }
  std::vector<std::byte> bytes(static_cast<size_t>(out.bytes()));
  file(piece->file).read("/" + tensor.name, Tensor(bytes.data(), entry.dtype, piece->stored));
  upload(out, bytes.data(), stream);
}

void CheckpointReader::restore(std::span<const CheckpointTensor> tensors, Stream& stream) const {
  const Vote done = vote_on([&] {
    std::set<std::string> wanted;
    for (const CheckpointTensor& tensor : tensors) {
      read(tensor, stream);
      wanted.insert(tensor.name);
    }
    for (const auto& [name, entry] : manifest_.tensors) {
      if (!wanted.contains(name)) throw refused(path_, name, "is not part of this run");
    }
    stream.synchronize();
    return Json();
  });
  require_agreement(*world_, done, "cannot restore", kRestore);
}

FoundCheckpoint find_checkpoint(const std::string& run_folder, Communicator& world) {
  FoundCheckpoint found;
  const Vote listed = vote_on([&] {
    const bool looks =
        world.rank() == 0 && file_type_of(run_folder) != std::filesystem::file_type::not_found;
    return looks ? Json(committed_steps(run_folder)) : Json::array();
  });
  const auto steps = require_agreement(world, listed, "cannot look for checkpoints", kVerify)[0]
                         .get<std::vector<int64_t>>();
  for (int64_t step : steps) {
    try {
      found.reader.emplace(run_folder + "/" + checkpoint_name(step), world);
      const std::vector<std::string>& own = found.reader->warnings();
      found.warnings.insert(found.warnings.end(), own.begin(), own.end());
      return found;
    } catch (const FormatError& error) {
      found.warnings.emplace_back(error.what());
    }
  }
  if (steps.empty()) return found;
  throw FormatError(fmt::format("{}: none of {} checkpoints can be used; newest: {}", run_folder,
                                steps.size(), found.warnings.front()));
}

}  // namespace rankwise
