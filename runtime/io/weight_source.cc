// SPDX-License-Identifier: Apache-2.0
#include "runtime/io/weight_source.h"

#include <filesystem>
#include <map>
#include <set>
#include <utility>

#include "runtime/io/atomic_file.h"
#include "runtime/io/json.h"
#include "runtime/io/quantized_store.h"
#include "runtime/io/safetensors.h"

namespace rankwise {
namespace {

constexpr std::string_view kSingleFile = "model.safetensors";
constexpr std::string_view kIndexFile = "model.safetensors.index.json";

// A buffer that older exporters saved with the weights; it follows from the configuration.
bool is_ignored(std::string_view name) { return name.ends_with("rotary_emb.inv_freq"); }

// model.safetensors, or the shards that the index names, of one folder.
class FolderWeights final : public WeightSource {
 public:
  explicit FolderWeights(std::string folder) : folder_(std::move(folder)) {
    const std::filesystem::path single = std::filesystem::path(folder_) / kSingleFile;
    const std::filesystem::path index = std::filesystem::path(folder_) / kIndexFile;
    std::error_code ignored;  // what cannot be looked at is reported as absent
    if (std::filesystem::exists(single, ignored)) {
      add_file(single.string());
    } else if (std::filesystem::exists(index, ignored)) {
      add_index(index.string());
    } else {
      throw FormatError(
          fmt::format("{}: holds neither {} nor {}", folder_, kSingleFile, kIndexFile));
    }
  }

  std::vector<std::string> names() const override {
    std::vector<std::string> result;
    for (const auto& [name, place] : places_) result.push_back(name);
    return result;
  }
  bool contains(std::string_view name) const override { return places_.contains(name); }
  Shape shape(std::string_view name) const override { return at(name).entry->shape; }
  DType dtype(std::string_view name) const override { return at(name).entry->dtype; }

  void read(std::string_view name, const Tensor& out) const override {
    const Place& place = at(name);
    if (out.shape() != place.entry->shape) {
      throw FormatError(fmt::format("{}: tensor {}: shape {} where {} is expected",
                                    place.file->path(), quote(name), to_string(place.entry->shape),
                                    to_string(out.shape())));
    }
    place.file->read(*place.entry, out);
  }
  void read_elements(std::string_view name, int64_t first, const Tensor& out) const override {
    const Place& place = at(name);
    place.file->read_elements(*place.entry, first, out);
  }
  std::string description() const override { return folder_; }

 private:
  struct Place {
    const SafetensorsFile* file;
    const SafetensorsEntry* entry;
  };

  const SafetensorsFile& open(const std::string& path) {
    files_.push_back(std::make_unique<SafetensorsFile>(path));
    return *files_.back();
  }

  void add_file(const std::string& path) {
    const SafetensorsFile& file = open(path);
    for (const SafetensorsEntry& entry : file.entries()) {
      if (!is_ignored(entry.name)) places_.emplace(entry.name, Place{&file, &entry});
    }
  }

  void add_index(const std::string& path) {
    const Json index = read_json_file(path);
    const auto map = index.is_object() ? index.find("weight_map") : index.end();
    if (map == index.end() || !map->is_object()) {
      throw FormatError(fmt::format("{}: no object weight_map", path));
    }
    std::map<std::string, std::string> shard_of;
    std::set<std::string> shards;
    for (const auto& [name, shard] : map->items()) {
      if (!shard.is_string()) {
        throw FormatError(
            fmt::format("{}: weight_map entry {} is not a string", path, quote(name)));
      }
      shards.insert(shard.get<std::string>());
      shard_of.emplace(name, shard.get<std::string>());
    }
    for (const std::string& shard : shards) {
      add_shard(open(path_inside(folder_, shard, path)), shard, shard_of, path);
    }
    for (const auto& [name, shard] : shard_of) {
      if (!is_ignored(name) && !contains(name)) {
        throw FormatError(
            fmt::format("{}: tensor {} is not in {}", path, quote(name), quote(shard)));
      }
    }
  }

  // Tensors that the index does not mention are left alone, as by the reference loader; one that it
  // has in another shard exists twice.
  void add_shard(const SafetensorsFile& file, const std::string& shard,
                 const std::map<std::string, std::string>& shard_of, const std::string& index) {
    for (const SafetensorsEntry& entry : file.entries()) {
      const auto listed = shard_of.find(entry.name);
      if (listed == shard_of.end() || is_ignored(entry.name)) continue;
      if (listed->second != shard) {
        throw FormatError(fmt::format("{}: tensor {} is in {} and in {}", index, quote(entry.name),
                                      quote(listed->second), quote(shard)));
      }
      places_.emplace(entry.name, Place{&file, &entry});
    }
  }

  const Place& at(std::string_view name) const {
    const auto found = places_.find(name);
    if (found == places_.end()) {
      throw FormatError(fmt::format("{}: no tensor {}", folder_, quote(name)));
    }
    return found->second;
  }

  std::string folder_;
  std::vector<std::unique_ptr<SafetensorsFile>> files_;
  std::map<std::string, Place, std::less<>> places_;
};

}  // namespace

void WeightSource::read_rows(std::string_view name, int64_t begin, int64_t end,
                             const Tensor& out) const {
  const Shape whole = shape(name);
  const int64_t rows = whole.rank() == 0 ? 0 : whole.dim(0);
  const auto fail = [&](std::string_view reason) {
    return FormatError(fmt::format("{}: tensor {}: {}", description(), quote(name), reason));
  };
  if (begin < 0 || end < begin || end > rows) {
    throw fail(fmt::format("no rows [{}, {}) in shape {}", begin, end, to_string(whole)));
  }
  const int64_t width = rows == 0 ? 0 : whole.numel() / rows;
  if (out.numel() != (end - begin) * width) {
    throw fail(fmt::format("rows [{}, {}) of shape {} where {} is expected", begin, end,
                           to_string(whole), to_string(out.shape())));
  }
  read_elements(name, begin * width, out);
}

std::optional<QuantizedTensor> WeightSource::read_quantized(std::string_view name,
                                                            const MatrixSlice&, Arena&,
                                                            std::string_view) const {
  shape(name);  // an absent tensor is an error, not "dense"
  return std::nullopt;
}

std::optional<QuantizedTensor> WeightSource::read_quantized(std::string_view name, Arena& arena,
                                                            std::string_view purpose) const {
  const Shape whole = shape(name);
  if (whole.rank() != 2) return std::nullopt;
  return read_quantized(name, MatrixSlice::all(whole), arena, purpose);
}

std::unique_ptr<WeightSource> open_weights(const std::string& path) {
  std::error_code error;
  if (std::filesystem::is_directory(path, error)) return std::make_unique<FolderWeights>(path);
  if (!std::filesystem::exists(path, error)) {
    throw FormatError(fmt::format("{}: no such model folder or store", path));
  }
  if (!is_quantized_store(path)) {
    throw FormatError(fmt::format("{}: neither a model folder nor a quantised store", path));
  }
  return open_quantized_store(path);
}

}  // namespace rankwise
