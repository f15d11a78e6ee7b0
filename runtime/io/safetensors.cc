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
constexpr int64_t kPieceElements = int64_t{1} << 18;  // converted at once: they stay in the cache

FormatError tensor_error(const std::string& path, std::string_view name, std::string_view reason) {
  return FormatError(fmt::format("{}: tensor {}: {}", path, quote(name), reason));
}

// The JSON header.
std::string header_text(const std::string& path, const RegularFile& file) {
  const auto bytes = static_cast<uint64_t>(file.size());
  if (bytes < kLengthBytes) {
    throw FormatError(fmt::format("{}: {} bytes, too short for a safetensors header", path, bytes));
  }
  uint64_t length = 0;
  file.read_at(0, std::as_writable_bytes(std::span(&length, 1)));
  if (length > kLongestHeader) {
    throw FormatError(fmt::format("{}: header of {} bytes, more than the {} allowed", path, length,
                                  kLongestHeader));
  }
  if (length > bytes - kLengthBytes) {
    throw FormatError(fmt::format("{}: header of {} bytes does not fit the file of {} bytes", path,
                                  length, bytes));
  }
  std::string text(length, '\0');
  file.read_at(kLengthBytes, std::as_writable_bytes(std::span(text)));
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
  const std::string header = header_text(path, file_);
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
  check_layout(path, entries_, static_cast<uint64_t>(file_.size()) - data_begin_);
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

std::vector<std::byte> SafetensorsFile::read_bytes(const SafetensorsEntry& entry) const {
  std::vector<std::byte> bytes(entry.end - entry.begin);
  file_.read_at(data_begin_ + entry.begin, bytes);
  return bytes;
}

void SafetensorsFile::read(const SafetensorsEntry& entry, const Tensor& out) const {
  if (out.numel() != entry.shape.numel()) {
    throw tensor_error(path_, entry.name,
                       fmt::format("shape {} where {} is expected", to_string(entry.shape),
                                   to_string(out.shape())));
  }
  read_elements(entry, 0, out);
}

void SafetensorsFile::read_elements(const SafetensorsEntry& entry, int64_t first,
                                    const Tensor& out) const {
  RW_ASSERT(out.is_contiguous() && !out.device().is_cuda(), "{}", entry.name);
  const int64_t count = out.numel();
  if (first < 0 || count > entry.shape.numel() - first) {
    throw tensor_error(path_, entry.name,
                       fmt::format("no elements [{}, {}) in shape {}", first, first + count,
                                   to_string(entry.shape)));
  }
  const std::string source = fmt::format("{}: tensor {}", path_, quote(entry.name));
  convert_elements({}, entry.dtype, Tensor(nullptr, out.dtype(), out.shape()), source);
  if (out.raw() == nullptr) return;
  const int64_t bits = bits_of(entry.dtype);
  if (first * bits % 8 != 0 || count * bits % 8 != 0) {
    throw tensor_error(path_, entry.name, "the elements read do not fill bytes");
  }
  const uint64_t begin = data_begin_ + entry.begin + static_cast<uint64_t>(first * bits / 8);
  if (entry.dtype == out.dtype()) {
    file_.read_at(begin, {static_cast<std::byte*>(out.raw()), static_cast<size_t>(out.bytes())});
    return;
  }
  const Tensor flat = out.reshaped({count});
  std::vector<std::byte> buffer(static_cast<size_t>(std::min(count, kPieceElements) * bits / 8));
  for (int64_t done = 0; done < count; done += kPieceElements) {
    const Tensor piece = flat.rows(done, std::min(done + kPieceElements, count));
    const std::span bytes(buffer.data(), static_cast<size_t>(piece.numel() * bits / 8));
    file_.read_at(begin + static_cast<uint64_t>(done * bits / 8), bytes);
    convert_elements(bytes, entry.dtype, piece,
                     done == 0 ? source : fmt::format("{}, from {} on", source, done));
  }
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
