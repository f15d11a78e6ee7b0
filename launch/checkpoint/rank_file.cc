// SPDX-License-Identifier: Apache-2.0
#include "launch/checkpoint/rank_file.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <span>

#include "runtime/errors.h"
#include "runtime/io/atomic_file.h"
#include "runtime/io/hdf5_file.h"
#include "runtime/io/regular_file.h"
#include "runtime/io/sha256.h"
#include "runtime/transfer.h"

namespace rankwise {
namespace {

constexpr int64_t kAlignment = 64;
constexpr const char* kPartAttribute = "part";

std::string dataset_name(const std::string& tensor) { return "/" + tensor; }

int64_t file_bytes(const std::string& path) { return RegularFile(path).size(); }

void require_size(const std::string& path, int64_t bytes, int64_t expected) {
  if (bytes == expected) return;
  throw FormatError(fmt::format("{}: {} bytes, {} by the manifest", path, bytes, expected));
}

std::string path_of(const std::string& folder, const CheckpointFile& file) {
  return path_inside(folder, file.name, folder + "/" + kManifestName);
}

void verify_dataset(const Hdf5File& file, const std::string& path, const std::string& name,
                    const CheckpointEntry& entry, const CheckpointPiece& piece) {
  const std::string place = dataset_name(name);
  if (file.dtype(place) != entry.dtype || file.shape(place) != piece.stored ||
      file.read_text_attribute(place, kPartAttribute) != part_text(entry.shape, piece.part)) {
    throw FormatError(
        fmt::format("{}: tensor {} is not what the manifest says", path, quote(name)));
  }
}

template <class Action>
void for_each_dataset(const CheckpointManifest& manifest, size_t file, const Action& action) {
  for (const auto& [name, entry] : manifest.tensors) {
    for (const CheckpointPiece& piece : entry.pieces) {
      if (piece.file == file) action(name, entry, piece);
    }
  }
}

// Hands over the dataset in blocks of whole rows, with the place of the first byte.
template <class Sink>
void read_blocks(const Hdf5File& file, const std::string& tensor, DType dtype, const Shape& stored,
                 const Sink& sink) {
  const int64_t rows = stored.dim(0);
  if (stored.numel() == 0) return;
  const int64_t row_elements = stored.numel() / rows;
  const int64_t row_bytes = row_elements * bits_of(dtype) / 8;
  const int64_t block_rows = std::clamp<int64_t>(kCheckpointBlockBytes / row_bytes, 1, rows);
  std::vector<std::byte> block(static_cast<size_t>(block_rows * row_bytes));
  for (int64_t begin = 0; begin < rows; begin += block_rows) {
    const int64_t end = std::min(rows, begin + block_rows);
    const Tensor out(block.data(), dtype, {end - begin, row_elements});
    file.read_rows(dataset_name(tensor), begin, end, out);
    sink(begin * row_bytes,
         std::span<const std::byte>(block).first(static_cast<size_t>(out.bytes())));
  }
}

// Which tensor of a file with a wrong digest is damaged, for the message only.
std::string damage_in(const std::string& path, const CheckpointManifest& manifest, size_t file) {
  try {
    const Hdf5File opened(path, Hdf5File::Mode::kRead);
    std::string damaged;
    for_each_dataset(manifest, file, [&](const auto& name, const auto& entry, const auto& piece) {
      try {
        verify_dataset(opened, path, name, entry, piece);
        read_blocks(opened, name, entry.dtype, piece.stored, [](int64_t, auto) {});
      } catch (const Error&) {  // an unreadable sector too: the digest is known to be wrong
        if (damaged.empty()) damaged = fmt::format("tensor {} is damaged", quote(name));
      }
    });
    return damaged.empty() ? "no tensor is damaged, but it is not the file that was written"
                           : damaged;
  } catch (const Error&) {
    return "no tensor of it can be read";
  }
}

void verify_content(const std::string& path, const CheckpointManifest& manifest, size_t file) {
  const int64_t bytes = file_bytes(path);
  const auto has_size = [&](const CheckpointFile& other) { return other.bytes == bytes; };
  const std::string digest =
      std::ranges::any_of(manifest.files, has_size) ? sha256_file(path) : std::string();
  if (digest == manifest.files[file].sha256) return;
  const auto other = std::ranges::find(manifest.files, digest, &CheckpointFile::sha256);
  if (other != manifest.files.end()) throw FormatError(path + ": is " + other->name);
  require_size(path, bytes, manifest.files[file].bytes);
  throw FormatError(fmt::format("{}: does not match its digest in the manifest: {}", path,
                                damage_in(path, manifest, file)));
}

// `exponent`: the bits that are all set in NaN and infinities only.
template <class Word>
bool is_finite(std::span<const std::byte> block, Word exponent) {
  const auto* words = reinterpret_cast<const Word*>(block.data());
  Word found = 0;
  for (size_t i = 0; i < block.size() / sizeof(Word); ++i) {
    found |= static_cast<Word>((words[i] & exponent) == exponent);
  }
  return found == 0;
}

// Weights, moments and scales; what has another type is counted or coded.
void require_finite(const CheckpointTensor& tensor, std::span<const std::byte> block) {
  const DType dtype = tensor.value.dtype();
  const bool finite = dtype == DType::kF32    ? is_finite<uint32_t>(block, 0x7f800000)
                      : dtype == DType::kBF16 ? is_finite<uint16_t>(block, 0x7f80)
                      : dtype == DType::kF16  ? is_finite<uint16_t>(block, 0x7c00)
                                              : true;
  if (finite) return;
  throw Error(ExitCode::kDiverged,
              fmt::format("tensor {} holds values that are not finite", quote(tensor.name)));
}

// HDF5 does not report every failed write: what counts is what can be read.
void require_written(const std::string& path, const std::vector<CheckpointTensor>& tensors) {
  const Hdf5File file(path, Hdf5File::Mode::kRead);
  for (const CheckpointTensor& tensor : tensors) {
    const auto* written = static_cast<const std::byte*>(tensor.value.raw());
    read_blocks(file, tensor.name, tensor.value.dtype(), tensor.value.shape(),
                [&](int64_t at, std::span<const std::byte> block) {
                  if (std::memcmp(block.data(), written + at, block.size()) != 0) {
                    throw FormatError(
                        fmt::format("{}: tensor {} reads back changed", path, quote(tensor.name)));
                  }
                  require_finite(tensor, block);
                });
  }
}

}  // namespace

void CheckpointSnapshot::take(const std::vector<CheckpointTensor>& tensors, Stream& stream) {
  RW_ASSERT(!stream.measuring(), "{} tensors", tensors.size());
  tensors_.clear();
  int64_t needed = 0;
  std::vector<int64_t> offsets;
  for (const CheckpointTensor& tensor : tensors) {
    RW_ASSERT(tensor.layout_bound || tensor.value.numel() == tensor.part.shape().numel(), "{}",
              tensor.name);
    if (!tensor.writes) continue;
    offsets.push_back(needed);
    needed += (tensor.value.bytes() + kAlignment - 1) / kAlignment * kAlignment;
    tensors_.push_back(tensor);
  }
  if (bytes_ < needed) {
    memory_ = {};  // before the larger one is made
    bytes_ = 0;
    memory_ = allocate_host(stream.device(), needed);
    bytes_ = needed;
  }
  for (size_t i = 0; i < tensors_.size(); ++i) {
    CheckpointTensor& tensor = tensors_[i];
    void* copy = memory_.get() + offsets[i];
    start_download(copy, tensor.value, stream);
    const Shape shape = tensor.layout_bound
                            ? (tensor.value.rank() == 0 ? Shape{1} : tensor.value.shape())
                            : stored_shape(tensor.shape, tensor.part);
    tensor.value = Tensor(copy, tensor.value.dtype(), shape);
  }
  stream.synchronize();
}

CheckpointFile write_rank_file(const std::string& folder, int rank,
                               const std::vector<CheckpointTensor>& tensors) {
  const std::string path = folder + "/" + rank_file_name(rank);
  const std::string temporary = temporary_name(path);
  Hdf5File file(temporary, Hdf5File::Mode::kCreate);
  for (const CheckpointTensor& tensor : tensors) {
    file.write(dataset_name(tensor.name), tensor.value);
    file.write_attribute(dataset_name(tensor.name), kPartAttribute,
                         part_text(tensor.shape, tensor.part));
  }
  file.close();
  publish_file(temporary, path);
  try {
    require_written(path, tensors);
    return {rank_file_name(rank), file_bytes(path), sha256_file(path)};
  } catch (const FormatError& error) {
    throw DiskError(fmt::format("reading back: {}", error.what()));
  }
}

void verify_rank_file(const std::string& folder, const CheckpointManifest& manifest, size_t file) {
  const std::string path = path_of(folder, manifest.files[file]);
  verify_content(path, manifest, file);
  const Hdf5File opened(path, Hdf5File::Mode::kRead);
  size_t expected = 0;
  for_each_dataset(manifest, file, [&](const auto& name, const auto& entry, const auto& piece) {
    ++expected;
    verify_dataset(opened, path, name, entry, piece);
  });
  if (opened.list("/").size() != expected) {
    throw FormatError(path + ": holds tensors that the manifest does not name");
  }
}

void require_files(const std::string& folder, const CheckpointManifest& manifest) {
  for (const CheckpointFile& file : manifest.files) {
    const std::string path = path_of(folder, file);
    require_size(path, file_bytes(path), file.bytes);
  }
}

}  // namespace rankwise
