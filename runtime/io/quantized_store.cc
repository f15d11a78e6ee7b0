// SPDX-License-Identifier: Apache-2.0
#include "runtime/io/quantized_store.h"

#include <array>
#include <filesystem>
#include <map>
#include <set>
#include <utility>

#include "runtime/io/element_conversion.h"
#include "runtime/io/hdf5_file.h"
#include "runtime/io/quantized_store_layout.h"
#include "runtime/io/regular_file.h"

namespace rankwise {
namespace {

using store::tensor_place;

constexpr std::string_view kSignature = "\x89HDF\r\n\x1a\n";
constexpr int64_t kNestedMapSize = 256;
constexpr int64_t kLargestBlock = 4096;  // as in bitsandbytes

bool has_store_format(const Hdf5File& file) {
  return file.contains_attribute("/", "format") &&
         file.read_text_attribute("/", "format") == store::kFormat;
}

void check_version(const std::string& path, const Hdf5File& file) {
  if (!has_store_format(file)) throw FormatError(fmt::format("{}: not a quantised store", path));
  const int64_t version = file.read_integer_attribute("/", "version");
  if (version != store::kVersion) {
    throw FormatError(
        fmt::format("{}: quantised store of version {}; this program reads version {}", path,
                    version, store::kVersion));
  }
}

// A store, opened once; tables of its tensors are read and checked at that time.
class StoreWeights final : public WeightSource {
 public:
  explicit StoreWeights(const std::string& path) : path_(path), file_(path, Hdf5File::Mode::kRead) {
    check_version(path, file_);
    if (!file_.contains("/tensors")) return;
    const std::vector<std::string> members = file_.list("/tensors");
    std::set<std::string> parts;
    for (const std::string& member : members) {
      if (!is_codes(member)) continue;
      const std::string name = member.substr(0, member.size() - store::kCodes.size());
      entries_.emplace(name, read_quantized_entry(name));
      for (const std::string_view part :
           {store::kCodes, store::kAbsmax, store::kNestedAbsmax, store::kNestedMap}) {
        parts.insert(name + std::string(part));
      }
    }
    for (const std::string& member : members) {
      if (parts.contains(member)) continue;
      const std::string place = tensor_place(member);
      entries_.emplace(member, Entry{file_.shape(place), file_.dtype(place), std::nullopt});
    }
  }

  std::vector<std::string> names() const override {
    std::vector<std::string> result;
    for (const auto& [name, entry] : entries_) result.push_back(name);
    return result;
  }
  bool contains(std::string_view name) const override { return entries_.contains(name); }
  Shape shape(std::string_view name) const override { return at(name).shape; }
  DType dtype(std::string_view name) const override { return at(name).dtype; }

  void read(std::string_view name, const Tensor& out) const override {
    const Entry& entry = dense(name);
    check_shape(name, entry.shape, out.shape());
    with_conversion(name, entry.dtype, out,
                    [&](const Tensor& stored) { file_.read(tensor_place(name), stored); });
  }

  void read_rows(std::string_view name, int64_t begin, int64_t end,
                 const Tensor& out) const override {
    with_conversion(name, dense(name).dtype, out, [&](const Tensor& stored) {
      file_.read_rows(tensor_place(name), begin, end, stored);
    });
  }

  std::optional<QuantizedTensor> read_quantized(std::string_view name, Arena& arena,
                                                std::string_view purpose) const override;
  std::string description() const override { return path_; }

 private:
  struct Scheme {
    int64_t block_size;
    float nested_offset;
    bool nested;
  };
  struct Entry {
    Shape shape;
    DType dtype;
    std::optional<Scheme> scheme;  // quantised
  };

  bool is_codes(const std::string& member) const {
    return member.ends_with(store::kCodes) &&
           file_.contains_attribute(tensor_place(member), "scheme");
  }

  FormatError error(std::string_view name, std::string_view reason) const {
    return FormatError(fmt::format("{}: tensor {}: {}", path_, quote(name), reason));
  }

  const Entry& at(std::string_view name) const {
    const auto found = entries_.find(name);
    if (found == entries_.end()) throw error(name, "not in the store");
    return found->second;
  }

  const Entry& dense(std::string_view name) const {
    const Entry& entry = at(name);
    if (entry.scheme) throw error(name, "is quantised, where a dense tensor is expected");
    return entry;
  }

  void check_shape(std::string_view name, const Shape& stored, const Shape& expected) const {
    if (stored == expected) return;
    throw error(
        name, fmt::format("shape {} where {} is expected", to_string(stored), to_string(expected)));
  }

  // read_stored fills a tensor of the stored type: `out` itself when that is its type.
  template <class ReadStored>
  void with_conversion(std::string_view name, DType stored, const Tensor& out,
                       ReadStored read_stored) const {
    if (out.dtype() == stored) return read_stored(out);
    const Tensor measured(nullptr, stored, out.shape());
    std::vector<std::byte> buffer(out.raw() == nullptr ? 0 : static_cast<size_t>(measured.bytes()));
    read_stored(Tensor(out.raw() == nullptr ? nullptr : buffer.data(), stored, out.shape()));
    convert_elements(buffer, stored, out, fmt::format("{}: tensor {}", path_, quote(name)));
  }

  Entry read_quantized_entry(const std::string& name) const;

  std::string path_;
  Hdf5File file_;
  std::map<std::string, Entry, std::less<>> entries_;
};

StoreWeights::Entry StoreWeights::read_quantized_entry(const std::string& name) const {
  const std::string codes = tensor_place(name, store::kCodes);
  const std::string scheme = file_.read_text_attribute(codes, "scheme");
  if (scheme != store::kNf4) throw error(name, fmt::format("unknown scheme {}", quote(scheme)));
  const std::string source = file_.read_text_attribute(codes, "source_dtype");
  const std::optional<DType> dtype = dtype_from_name(source);
  if (!dtype) throw error(name, fmt::format("unknown source_dtype {}", quote(source)));
  const int64_t rows = file_.read_integer_attribute(codes, "rows");
  const int64_t columns = file_.read_integer_attribute(codes, "columns");
  const int64_t block_size = file_.read_integer_attribute(codes, "block_size");
  int64_t elements = 0;
  const bool sane = rows >= 0 && columns >= 0 && block_size > 0 && block_size % 2 == 0 &&
                    block_size <= kLargestBlock &&
                    !__builtin_mul_overflow(rows, columns, &elements) &&
                    elements / 2 + elements % 2 == file_.shape(codes).numel();
  if (!sane) {
    throw error(name, fmt::format("shape ({}, {}) in blocks of {} does not fit {} bytes of codes",
                                  rows, columns, block_size, file_.shape(codes).numel()));
  }
  const double offset = file_.read_real_attribute(codes, "nested_offset");
  return {Shape{rows, columns}, *dtype,
          Scheme{block_size, static_cast<float>(offset),
                 file_.contains(tensor_place(name, store::kNestedAbsmax))}};
}

std::optional<QuantizedTensor> StoreWeights::read_quantized(std::string_view name, Arena& arena,
                                                            std::string_view purpose) const {
  const Entry& entry = at(name);
  if (!entry.scheme) return std::nullopt;
  const auto read_part = [&](std::string_view part, DType dtype, int64_t count) {
    Tensor out = arena.allocate(purpose, dtype, Shape{count});
    file_.read(tensor_place(name, part), out);
    return out;
  };
  QuantizedTensor result;
  result.shape = entry.shape;
  result.block_size = entry.scheme->block_size;
  result.source_dtype = entry.dtype;
  result.nested_offset = entry.scheme->nested_offset;
  const int64_t blocks = result.blocks();
  result.codes = read_part(store::kCodes, DType::kU8, (entry.shape.numel() + 1) / 2);
  if (!entry.scheme->nested) {
    result.absmax = read_part(store::kAbsmax, DType::kF32, blocks);
    return result;
  }
  constexpr int64_t kBlock = QuantizedTensor::kNestedBlock;
  result.absmax = read_part(store::kAbsmax, DType::kU8, blocks);
  result.nested_absmax =
      read_part(store::kNestedAbsmax, DType::kF32, (blocks + kBlock - 1) / kBlock);
  result.nested_map = read_part(store::kNestedMap, DType::kF32, kNestedMapSize);
  return result;
}

}  // namespace

bool is_quantized_store(const std::string& path) {
  std::error_code ignored;  // what cannot be looked at is no store
  if (!std::filesystem::is_regular_file(path, ignored)) return false;
  RegularFile file(path);
  std::array<char, kSignature.size()> start{};
  const size_t got = file.read_some(std::as_writable_bytes(std::span(start)));
  if (std::string_view(start.data(), got) != kSignature) return false;
  return has_store_format(Hdf5File(path, Hdf5File::Mode::kRead));
}

std::string read_store_file(const std::string& path, const std::string& file_name) {
  store::check_name(path, file_name);
  const Hdf5File file(path, Hdf5File::Mode::kRead);
  check_version(path, file);
  return file.read_bytes(store::file_place(file_name));
}

std::vector<std::string> store_files(const std::string& path) {
  const Hdf5File file(path, Hdf5File::Mode::kRead);
  check_version(path, file);
  return file.contains("/files") ? file.list("/files") : std::vector<std::string>();
}

std::unique_ptr<WeightSource> open_quantized_store(const std::string& path) {
  return std::make_unique<StoreWeights>(path);
}

}  // namespace rankwise
