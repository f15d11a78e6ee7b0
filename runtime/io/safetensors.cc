// SPDX-License-Identifier: Apache-2.0
#include "runtime/io/safetensors.h"

#include <algorithm>
#include <cstring>
#include <set>
#include <tuple>

#include "runtime/io/atomic_file.h"
#include "runtime/io/element_conversion.h"
#include "runtime/io/json.h"

namespace rankwise {
namespace {

constexpr size_t kLengthBytes = 8;
constexpr uint64_t kLongestHeader = 100'000'000;
constexpr uint64_t kHeaderAlignment = 8;
constexpr std::string_view kMetadataKey = "__metadata__";
// Elements of one tensor, dimensions of 0 counted as 1: keeps every product of them in 64 bits.
constexpr int64_t kMostElements = int64_t{1} << 56;

FormatError tensor_error(const std::string& path, std::string_view name, std::string_view reason) {
  return FormatError(fmt::format("{}: tensor {}: {}", path, quote(name), reason));
}

// The JSON header, copied: what is checked must be what is used, even if the file changes.
std::string header_text(const std::string& path, std::span<const std::byte> file) {
  if (file.size() < kLengthBytes) {
    throw FormatError(
        fmt::format("{}: {} bytes, too short for a safetensors header", path, file.size()));
  }
  uint64_t length = 0;
  std::memcpy(&length, file.data(), kLengthBytes);
  if (length > kLongestHeader) {
    throw FormatError(fmt::format("{}: header of {} bytes, more than the {} allowed", path, length,
                                  kLongestHeader));
  }
  if (length > file.size() - kLengthBytes) {
    throw FormatError(fmt::format("{}: header of {} bytes does not fit the file of {} bytes", path,
                                  length, file.size()));
  }
  std::string text(length, '\0');
  std::memcpy(text.data(), file.data() + kLengthBytes, length);
  // A byte order mark, which the JSON parser would skip, is not part of the format.
  const size_t first = text.find_first_not_of(" \t\r\n");
  if (first == std::string::npos || text[first] != '{') {
    throw FormatError(fmt::format("{}: header is not a JSON object", path));
  }
  return text;
}

std::map<std::string, std::string> parse_metadata(const std::string& path, const Json& json) {
  if (!json.is_object())
    throw FormatError(fmt::format("{}: {} is not an object", path, kMetadataKey));
  std::map<std::string, std::string> metadata;
  for (const auto& [key, value] : json.items()) {
    if (!value.is_string()) {
      throw FormatError(
          fmt::format("{}: {} entry {} is not a string", path, kMetadataKey, quote(key)));
    }
    metadata.emplace(key, value.get<std::string>());
  }
  return metadata;
}

const Json& member(const std::string& path, const std::string& name, const Json& entry,
                   const char* key) {
  const auto found = entry.find(key);
  if (found == entry.end()) throw tensor_error(path, name, fmt::format("no {}", key));
  return *found;
}

Shape parse_shape(const std::string& path, const std::string& name, const Json& json) {
  if (!json.is_array()) throw tensor_error(path, name, "shape is not an array");
  if (json.size() > Shape::kMaxRank) {
    throw tensor_error(
        path, name,
        fmt::format("{} dimensions, more than the {} supported", json.size(), Shape::kMaxRank));
  }
  std::vector<int64_t> dims;
  int64_t elements = 1;
  for (const Json& dim : json) {
    if (!dim.is_number_unsigned()) {
      throw tensor_error(path, name, "shape holds something other than a non-negative integer");
    }
    const auto size = dim.get<uint64_t>();
    if (size > static_cast<uint64_t>(kMostElements / elements)) {
      throw tensor_error(path, name, "shape overflows");
    }
    dims.push_back(static_cast<int64_t>(size));
    elements *= std::max<int64_t>(1, dims.back());
  }
  return Shape(std::span<const int64_t>(dims));
}

SafetensorsEntry parse_entry(const std::string& path, const std::string& name, const Json& json) {
  if (!json.is_object()) throw tensor_error(path, name, "entry is not an object");
  SafetensorsEntry entry;
  entry.name = name;
  const Json& dtype = member(path, name, json, "dtype");
  if (!dtype.is_string()) throw tensor_error(path, name, "dtype is not a string");
  const auto known = dtype_from_name(dtype.get_ref<const std::string&>());
  if (!known) {
    throw tensor_error(path, name,
                       fmt::format("unknown dtype {}", quote(dtype.get_ref<const std::string&>())));
  }
  entry.dtype = *known;
  entry.shape = parse_shape(path, name, member(path, name, json, "shape"));
  const Json& offsets = member(path, name, json, "data_offsets");
  const bool two_integers = offsets.is_array() && offsets.size() == 2 &&
                            offsets[0].is_number_unsigned() && offsets[1].is_number_unsigned();
  if (!two_integers) {
    throw tensor_error(path, name, "data_offsets is not an array of two non-negative integers");
  }
  entry.begin = offsets[0].get<uint64_t>();
  entry.end = offsets[1].get<uint64_t>();
  return entry;
}

// The tensors, sorted by offset, must tile the data buffer: no hole, no overlap, nothing behind.
void check_layout(const std::string& path, const std::vector<SafetensorsEntry>& entries,
                  uint64_t data_bytes) {
  uint64_t previous_end = 0;
  for (const SafetensorsEntry& entry : entries) {
    if (entry.begin != previous_end || entry.end < entry.begin) {
      throw tensor_error(path, entry.name,
                         fmt::format("data_offsets [{}, {}] do not follow the end {} of the tensor "
                                     "before",
                                     entry.begin, entry.end, previous_end));
    }
    const auto bits =
        static_cast<uint64_t>(entry.shape.numel()) * static_cast<uint64_t>(bits_of(entry.dtype));
    if (bits % 8 != 0) {
      throw tensor_error(path, entry.name, fmt::format("{} bits do not fill bytes", bits));
    }
    if (entry.end - entry.begin != bits / 8) {
      throw tensor_error(
          path, entry.name,
          fmt::format("{} bytes of data, but {} {} needs {}", entry.end - entry.begin,
                      name_of(entry.dtype), to_string(entry.shape), bits / 8));
    }
    previous_end = entry.end;
  }
  if (previous_end != data_bytes) {
    throw FormatError(fmt::format("{}: tensors end at byte {} of the data, but the file has {}",
                                  path, previous_end, data_bytes));
  }
}

// The header of tensors that lie one behind the other, padded so that the data is aligned.
std::string header_of(const std::vector<NamedTensor>& tensors,
                      const std::map<std::string, std::string>& metadata) {
  Json header = Json::object();
  if (!metadata.empty()) header[kMetadataKey] = metadata;
  auto& members = header.get_ref<Json::object_t&>();  // appended to: assignment would search
  std::set<std::string_view> names = {kMetadataKey};
  int64_t offset = 0;
  for (const auto& [name, tensor] : tensors) {
    RW_ASSERT(tensor.defined() && tensor.is_contiguous() && !tensor.device().is_cuda(), "{}", name);
    RW_ASSERT(names.insert(name).second, "{} twice", name);
    const auto dims = tensor.shape().dims();
    const int64_t end = offset + tensor.bytes();
    members.emplace_back(name, Json{{"dtype", name_of(tensor.dtype())},
                                    {"shape", std::vector<int64_t>(dims.begin(), dims.end())},
                                    {"data_offsets", {offset, end}}});
    offset = end;
  }
  std::string text = header.dump();
  text.resize((text.size() + kHeaderAlignment - 1) / kHeaderAlignment * kHeaderAlignment, ' ');
  return text;
}

}  // namespace

SafetensorsFile::SafetensorsFile(const std::string& path) : path_(path), file_(path) {
  const std::string header = header_text(path, file_.bytes());
  const Json json = parse_json(header, path);
  data_begin_ = kLengthBytes + header.size();
  for (const auto& [name, value] : json.items()) {
    if (name == kMetadataKey) {
      metadata_ = parse_metadata(path, value);
    } else {
      entries_.push_back(parse_entry(path, name, value));
    }
  }
  std::ranges::sort(entries_, std::less<>(), [](const SafetensorsEntry& entry) {
    return std::tie(entry.begin, entry.end, entry.name);
  });
  check_layout(path, entries_, file_.bytes().size() - data_begin_);
  for (size_t i = 0; i < entries_.size(); ++i) index_.emplace(entries_[i].name, i);
}

const SafetensorsEntry* SafetensorsFile::find(std::string_view name) const {
  const auto found = index_.find(name);
  return found == index_.end() ? nullptr : &entries_[found->second];
}

const SafetensorsEntry& SafetensorsFile::at(std::string_view name) const {
  const SafetensorsEntry* entry = find(name);
  if (entry == nullptr) throw tensor_error(path_, name, "not in the file");
  return *entry;
}

std::span<const std::byte> SafetensorsFile::bytes(const SafetensorsEntry& entry) const {
  return file_.bytes().subspan(data_begin_ + entry.begin, entry.end - entry.begin);
}

void SafetensorsFile::read(const SafetensorsEntry& entry, const Tensor& out) const {
  if (out.numel() != entry.shape.numel()) {
    throw tensor_error(path_, entry.name,
                       fmt::format("shape {} where {} is expected", to_string(entry.shape),
                                   to_string(out.shape())));
  }
  convert_elements(bytes(entry), entry.dtype, out,
                   fmt::format("{}: tensor {}", path_, quote(entry.name)));
}

void SafetensorsFile::read_rows(const SafetensorsEntry& entry, int64_t begin, int64_t end,
                                const Tensor& out) const {
  const int64_t rows = entry.shape.rank() == 0 ? 0 : entry.shape.dim(0);
  if (begin < 0 || end < begin || end > rows) {
    throw tensor_error(
        path_, entry.name,
        fmt::format("no rows [{}, {}) in shape {}", begin, end, to_string(entry.shape)));
  }
  const int64_t row_elements = rows == 0 ? 0 : entry.shape.numel() / rows;
  if (out.numel() != (end - begin) * row_elements) {
    throw tensor_error(path_, entry.name,
                       fmt::format("rows [{}, {}) of shape {} where {} is expected", begin, end,
                                   to_string(entry.shape), to_string(out.shape())));
  }
  const int64_t row_bits = row_elements * bits_of(entry.dtype);
  if (row_bits % 8 != 0) throw tensor_error(path_, entry.name, "rows do not fill bytes");
  const std::span<const std::byte> selected = bytes(entry).subspan(
      static_cast<size_t>(begin * row_bits / 8), static_cast<size_t>((end - begin) * row_bits / 8));
  convert_elements(selected, entry.dtype, out,
                   fmt::format("{}: tensor {}", path_, quote(entry.name)));
}

void write_safetensors(const std::string& path, std::vector<NamedTensor> tensors,
                       const std::map<std::string, std::string>& metadata) {
  std::ranges::sort(tensors, [](const NamedTensor& a, const NamedTensor& b) {
    return std::tuple(b.tensor.dtype(), std::string_view(a.name)) <
           std::tuple(a.tensor.dtype(), std::string_view(b.name));
  });
  const std::string header = header_of(tensors, metadata);
  const uint64_t length = header.size();
  if (length > kLongestHeader) {
    throw FormatError(fmt::format("{}: header of {} bytes, more than the {} allowed", path, length,
                                  kLongestHeader));
  }
  AtomicFile file(path);
  file.write(std::as_bytes(std::span(&length, 1)));
  file.write(header);
  for (const NamedTensor& named : tensors) {
    file.write(std::span(static_cast<const std::byte*>(named.tensor.raw()),
                         static_cast<size_t>(named.tensor.bytes())));
  }
  file.commit();
}

}  // namespace rankwise
