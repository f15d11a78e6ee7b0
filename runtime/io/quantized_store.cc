// SPDX-License-Identifier: Apache-2.0
#include "runtime/io/quantized_store.h"

#include <algorithm>
#include <array>
#include <filesystem>
#include <map>
#include <set>
#include <utility>

#include "runtime/io/element_conversion.h"
#include "runtime/io/hdf5_file.h"
#include "runtime/io/quantized_store_layout.h"
#include "runtime/io/regular_file.h"
#include "runtime/packed_codes.h"

namespace rankwise {
namespace {

using store::tensor_place;

constexpr std::string_view kSignature = "\x89HDF\r\n\x1a\n";
constexpr int64_t kNestedMapSize = 256;
constexpr int64_t kGroup = QuantizedTensor::kNestedBlock;
constexpr int64_t kLargestBlock = 4096;            // as in bitsandbytes
constexpr int64_t kPieceBytes = int64_t{8} << 20;  // read at once on the way to a slice

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
    check_shape(name, dense(name).shape, out.shape());
    read_elements(name, 0, out);
  }
  void read_elements(std::string_view name, int64_t first, const Tensor& out) const override;
  std::optional<QuantizedTensor> read_quantized(std::string_view name, const MatrixSlice& slice,
                                                Arena& arena,
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
    if (entry.scheme)
      throw error(name,
                  "is quantised, where a dense tensor is expected; codes take no updates: to "
                  "train it, give the folder of the original weights");
    return entry;
  }

  void check_shape(std::string_view name, const Shape& stored, const Shape& expected) const {
    if (stored == expected) return;
    throw error(
        name, fmt::format("shape {} where {} is expected", to_string(stored), to_string(expected)));
  }

  static int64_t row_elements(const Shape& shape) {
    return shape.rank() == 0 || shape.dim(0) == 0 ? 1 : shape.numel() / shape.dim(0);
  }

  Entry read_quantized_entry(const std::string& name) const;
  void read_codes(std::string_view name, const MatrixSlice& slice, const Tensor& out) const;

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

void StoreWeights::read_elements(std::string_view name, int64_t first, const Tensor& out) const {
  const Entry& entry = dense(name);
  const int64_t end = first + out.numel();
  if (first < 0 || end > entry.shape.numel()) {
    throw error(
        name, fmt::format("no elements [{}, {}) in shape {}", first, end, to_string(entry.shape)));
  }
  const std::string source = fmt::format("{}: tensor {}", path_, quote(name));
  convert_elements({}, entry.dtype, Tensor(nullptr, out.dtype(), out.shape()), source);
  if (out.raw() == nullptr || out.numel() == 0) return;
  const int64_t width = row_elements(entry.shape);
  const int64_t element_bytes = bits_of(entry.dtype) / 8;
  const int64_t most_rows = std::max<int64_t>(1, kPieceBytes / (width * element_bytes));
  std::vector<std::byte> buffer;
  for (int64_t at = first; at < end;) {
    const int64_t row = at / width;
    const int64_t rows = std::min((end - 1) / width + 1 - row, most_rows);
    const int64_t next = std::min(end, (row + rows) * width);
    const Tensor piece = out.reshaped({out.numel()}).rows(at - first, next - first);
    const bool direct = piece.numel() == rows * width && out.dtype() == entry.dtype;
    if (!direct) buffer.resize(static_cast<size_t>(rows * width * element_bytes));
    const Tensor read(direct ? piece.raw() : buffer.data(), entry.dtype, {rows * width});
    const std::string place = tensor_place(name);
    entry.shape.rank() == 0 ? file_.read(place, read)
                            : file_.read_rows(place, row, row + rows, read);
    const std::byte* selected = buffer.data() + (at - row * width) * element_bytes;
    at = next;
    if (direct) continue;
    convert_elements({selected, static_cast<size_t>(piece.numel() * element_bytes)}, entry.dtype,
                     piece, source);
  }
}

// Codes packed in the slice's own order. Of rows cut in columns the bytes between the pieces are
// read as well: they are in the same chunks, which come as a whole.
void StoreWeights::read_codes(std::string_view name, const MatrixSlice& slice,
                              const Tensor& out) const {
  const std::string place = tensor_place(name, store::kCodes);
  const Shape shape = slice.shape();
  if (out.raw() == nullptr || out.numel() == 0) return;
  auto* codes = out.data<uint8_t>();
  if (slice.is_contiguous() && slice.first() % 2 == 0) {
    file_.read_rows(place, slice.first() / 2, slice.first() / 2 + out.numel(), out);
    if (!slice.is_whole()) pad_codes(codes, shape.numel());
    return;
  }
  const int64_t width = shape.dim(1);
  const int64_t rows_at_once = std::max<int64_t>(1, 2 * kPieceBytes / slice.in());
  std::vector<uint8_t> buffer;
  for (int64_t begin = 0; begin < shape.dim(0); begin += rows_at_once) {
    const int64_t end = std::min(begin + rows_at_once, shape.dim(0));
    const int64_t first_byte = (slice.first() + begin * slice.in()) / 2;
    const int64_t past_byte = (slice.first() + (end - 1) * slice.in() + width + 1) / 2;
    buffer.resize(static_cast<size_t>(past_byte - first_byte));
    file_.read_rows(place, first_byte, past_byte,
                    Tensor(buffer.data(), DType::kU8, {past_byte - first_byte}));
    for (int64_t row = begin; row < end; ++row) {
      copy_codes({codes, row * width},
                 {buffer.data(), slice.first() + row * slice.in() - 2 * first_byte}, width);
    }
  }
  pad_codes(codes, shape.numel());
}

std::optional<QuantizedTensor> StoreWeights::read_quantized(std::string_view name,
                                                            const MatrixSlice& slice, Arena& arena,
                                                            std::string_view purpose) const {
  const Entry& entry = at(name);
  if (!entry.scheme) return std::nullopt;
  check_shape(name, entry.shape, slice.whole);
  QuantizedTensor result;
  result.shape = slice.shape();
  result.first = slice.first();
  result.row_stride = slice.is_contiguous() ? 0 : slice.in();
  result.block_size = entry.scheme->block_size;
  result.source_dtype = entry.dtype;
  result.nested_offset = entry.scheme->nested_offset;
  result.codes = arena.allocate(purpose, DType::kU8, Shape{(result.shape.numel() + 1) / 2});
  read_codes(name, slice, result.codes);
  // Items [first, first + count) of the `all` that this part must have.
  const auto read_part = [&](std::string_view part, DType dtype, int64_t first, int64_t count,
                             int64_t all) {
    const std::string place = tensor_place(name, part);
    if (const int64_t stored = file_.shape(place).numel(); stored != all) {
      throw error(name, fmt::format("{} values in {} where {} are expected", stored, place, all));
    }
    Tensor out = arena.allocate(purpose, dtype, Shape{count});
    file_.read_rows(place, first, first + count, out);
    return out;
  };
  const int64_t blocks = (entry.shape.numel() + result.block_size - 1) / result.block_size;
  result.absmax = read_part(store::kAbsmax, entry.scheme->nested ? DType::kU8 : DType::kF32,
                            result.first_block(), result.blocks(), blocks);
  if (!entry.scheme->nested) return result;
  result.nested_absmax = read_part(store::kNestedAbsmax, DType::kF32, result.first_group(),
                                   result.groups(), (blocks + kGroup - 1) / kGroup);
  result.nested_map = read_part(store::kNestedMap, DType::kF32, 0, kNestedMapSize, kNestedMapSize);
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
