// SPDX-License-Identifier: Apache-2.0
#include "launch/checkpoint/checkpoint_manifest.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>
#include <span>

#include "runtime/errors.h"
#include "runtime/io/sha256.h"

namespace rankwise {
namespace {

constexpr const char* kFormat = "rankwise-checkpoint";
constexpr int64_t kVersion = 1;
constexpr int64_t kMostRanks = 65'536;
constexpr int64_t kMostElements = int64_t{1} << 56;  // products stay in 64 bits
constexpr int64_t kMostBytes = int64_t{1} << 56;
constexpr size_t kMostPieces = 4'096;  // of one tensor: they are compared pairwise

// The end of a manifest whose other bytes are `body`.
std::string seal(std::string_view body) {
  return fmt::format(",\"sha256\":\"{}\"}}\n", sha256_hex(std::as_bytes(std::span(body))));
}

FormatError wrong(const std::string& what) { return FormatError("manifest: " + what); }

int64_t integer(const Json& json, int64_t least, int64_t most) {
  if (!json.is_number_integer() || json.get<int64_t>() < least || json.get<int64_t>() > most ||
      (json.is_number_unsigned() && json.get<uint64_t>() > static_cast<uint64_t>(most))) {
    throw wrong(fmt::format("{} where an integer from {} to {} is expected", quote(json.dump()),
                            least, most));
  }
  return json.get<int64_t>();
}

const std::string& text(const Json& json) { return json.get_ref<const std::string&>(); }

Shape shape_from(const Json& json) {
  if (!json.is_array() || json.size() > Shape::kMaxRank) throw wrong("a shape is expected");
  std::vector<int64_t> dims;
  int64_t elements = 1;
  for (const Json& extent : json) {
    dims.push_back(integer(extent, 0, kMostElements / elements));
    elements *= std::max<int64_t>(1, dims.back());
  }
  return Shape(std::span<const int64_t>(dims));
}

Json to_json(const Shape& shape) {
  Json dims = Json::array();
  for (int64_t extent : shape.dims()) dims.push_back(extent);
  return dims;
}

// One tensor of one rank: [name, dtype, shape, part as 4 numbers, shape of the dataset if bound].
void add_piece(CheckpointManifest& manifest, size_t file, const Json& json) {
  const std::string& name = text(json.at(0));
  const auto dtype = dtype_from_name(text(json.at(1)));
  if (!dtype) throw wrong("unknown element type " + quote(text(json.at(1))));
  CheckpointEntry fresh{*dtype, shape_from(json.at(2)), json.size() > 4, {}};
  const auto [at, inserted] = manifest.tensors.emplace(name, fresh);
  CheckpointEntry& entry = at->second;
  if (!inserted && (entry.dtype != fresh.dtype || entry.shape != fresh.shape ||
                    entry.layout_bound != fresh.layout_bound)) {
    throw wrong("ranks differ in type or shape");
  }
  MatrixSlice part = whole_part(fresh.shape);
  const Json& numbers = json.at(3);
  part.row_begin = integer(numbers.at(0), 0, part.whole.dim(0));
  part.row_end = integer(numbers.at(1), part.row_begin, part.whole.dim(0));
  part.column_begin = integer(numbers.at(2), 0, part.whole.dim(1));
  part.column_end = integer(numbers.at(3), part.column_begin, part.whole.dim(1));
  entry.pieces.push_back(
      {file, part, entry.layout_bound ? shape_from(json.at(4)) : stored_shape(fresh.shape, part)});
}

Json piece_json(const std::string& name, const CheckpointEntry& entry,
                const CheckpointPiece& piece) {
  const MatrixSlice& part = piece.part;
  Json json = {name, name_of(entry.dtype), to_json(entry.shape),
               Json{part.row_begin, part.row_end, part.column_begin, part.column_end}};
  if (entry.layout_bound) json.push_back(to_json(piece.stored));
  return json;
}

bool overlap(const MatrixSlice& a, const MatrixSlice& b) {
  return a.row_begin < b.row_end && b.row_begin < a.row_end && a.column_begin < b.column_end &&
         b.column_begin < a.column_end;
}

void require_tiling(const CheckpointEntry& entry) {
  const std::vector<CheckpointPiece>& pieces = entry.pieces;
  if (pieces.size() > kMostPieces) throw wrong("too many parts");
  int64_t covered = 0;
  for (size_t i = 0; i < pieces.size(); ++i) {
    covered += pieces[i].part.shape().numel();
    for (size_t j = 0; j < i; ++j) {
      if (pieces[i].file == pieces[j].file || overlap(pieces[i].part, pieces[j].part)) {
        throw wrong("a part is stored twice");
      }
    }
  }
  if (covered != entry.shape.numel()) {
    throw wrong(fmt::format("{} of {} elements are stored", covered, entry.shape.numel()));
  }
}

void require_plain(const std::string& name) {
  if (name.empty() || name == "." || name == ".." || name.find('/') != std::string::npos ||
      std::ranges::any_of(name, [](unsigned char c) { return c < 0x20 || c == 0x7f; })) {
    throw wrong("is no name of a tensor");
  }
}

CheckpointFile file_from(const Json& json) {
  CheckpointFile file{text(json.at("name")), integer(json.at("bytes"), 1, kMostBytes),
                      text(json.at("sha256"))};
  int rank = -1;
  const bool plain = std::sscanf(file.name.c_str(), "rank-%d.h5", &rank) == 1 && rank >= 0 &&
                     file.name == rank_file_name(rank);
  if (!plain) throw wrong("file name " + quote(file.name));
  return file;
}

CheckpointManifest manifest_from(const Json& json) {
  if (text(json.at("format")) != kFormat) throw wrong("is not of a checkpoint");
  if (integer(json.at("version"), 0, kMostElements) != kVersion) {
    throw wrong(
        fmt::format("has version {}, this program reads {}", json.at("version").dump(), kVersion));
  }
  CheckpointManifest manifest;
  manifest.step = integer(json.at("step"), 0, kMostElements);
  manifest.ranks = static_cast<int>(integer(json.at("ranks"), 1, kMostRanks));
  std::set<std::string> names;
  for (const Json& entry : json.at("files")) {
    manifest.files.push_back(file_from(entry));
    if (!names.insert(manifest.files.back().name).second) throw wrong("names a file twice");
    add_index(manifest, manifest.files.size() - 1, entry.at("tensors"));
  }
  for (const auto& [name, entry] : manifest.tensors) {
    try {
      require_plain(name);
      require_tiling(entry);
    } catch (const FormatError& error) {
      throw FormatError(fmt::format("tensor {}: {}", quote(name), error.what()));
    }
  }
  manifest.scalars = json.at("scalars");
  if (!manifest.scalars.is_object()) throw wrong("scalars are no object");
  return manifest;
}

}  // namespace

std::string rank_file_name(int rank) { return fmt::format("rank-{:04}.h5", rank); }

Shape stored_shape(const Shape& whole, const MatrixSlice& part) {
  return whole.rank() <= 1 ? Shape{part.row_end - part.row_begin} : part.shape();
}

Json index_of(const std::vector<CheckpointTensor>& tensors) {
  Json index = Json::array();
  for (const CheckpointTensor& tensor : tensors) {
    const CheckpointEntry entry{tensor.value.dtype(), tensor.shape, tensor.layout_bound, {}};
    index.push_back(piece_json(tensor.name, entry, {0, tensor.part, tensor.value.shape()}));
  }
  return index;
}

void add_index(CheckpointManifest& manifest, size_t file, const Json& index) {
  for (const Json& piece : index) {
    try {
      add_piece(manifest, file, piece);
    } catch (const FormatError& error) {
      throw FormatError(fmt::format("tensor {}: {}", quote(text(piece.at(0))), error.what()));
    }
  }
}

std::string manifest_text(const CheckpointManifest& manifest) {
  Json files = Json::array();
  for (const CheckpointFile& file : manifest.files) {
    files.push_back({{"name", file.name},
                     {"bytes", file.bytes},
                     {"sha256", file.sha256},
                     {"tensors", Json::array()}});
  }
  for (const auto& [name, entry] : manifest.tensors) {
    for (const CheckpointPiece& piece : entry.pieces) {
      files.at(piece.file)["tensors"].push_back(piece_json(name, entry, piece));
    }
  }
  const Json json = {{"format", kFormat},     {"version", kVersion},
                     {"step", manifest.step}, {"ranks", manifest.ranks},
                     {"files", files},        {"scalars", manifest.scalars}};
  std::string body = json.dump();
  body.pop_back();  // the brace that seal() adds behind the digest
  return body + seal(body);
}

CheckpointManifest parse_manifest(std::string_view text, const std::string& source) {
  static const size_t seal_bytes = seal("").size();
  const size_t body_bytes = text.size() - std::min(text.size(), seal_bytes);
  if (seal(text.substr(0, body_bytes)) != text.substr(body_bytes)) {
    throw FormatError(source + ": does not match its own digest");
  }
  const Json json = parse_json(text, source);
  try {
    return manifest_from(json);
  } catch (const FormatError& error) {
    throw FormatError(fmt::format("{}: {}", source, error.what()));
  } catch (const Json::exception& error) {
    throw FormatError(fmt::format("{}: {}", source, error.what()));
  }
}

}  // namespace rankwise
