// SPDX-License-Identifier: Apache-2.0
// The writing half of quantised stores.
#include <unistd.h>

#include "runtime/io/atomic_file.h"
#include "runtime/io/hdf5_file.h"
#include "runtime/io/quantized_store.h"
#include "runtime/io/quantized_store_layout.h"

namespace rankwise {
namespace {

using store::check_name;
using store::file_place;
using store::tensor_place;

// Reads every byte back: the checksums tell whether the disk took what was written.
void verify(const std::string& path) {
  const Hdf5File file(path, Hdf5File::Mode::kRead);
  std::vector<std::byte> buffer;
  for (const char* group : {"/tensors", "/files"}) {
    if (!file.contains(group)) continue;
    for (const std::string& name : file.list(group)) {
      const std::string place = fmt::format("{}/{}", group, name);
      const Tensor measured(nullptr, file.dtype(place), file.shape(place));
      buffer.resize(static_cast<size_t>(measured.bytes()));
      file.read(place, Tensor(buffer.data(), measured.dtype(), measured.shape()));
    }
  }
}

}  // namespace

struct QuantizedStoreWriter::State {
  explicit State(const std::string& target)
      : path(target),
        temporary(temporary_name(target)),
        file(std::make_unique<Hdf5File>(temporary, Hdf5File::Mode::kCreate)) {}
  ~State() {
    file.reset();
    if (!committed) unlink(temporary.c_str());
  }

  std::string path;
  std::string temporary;
  std::unique_ptr<Hdf5File> file;
  bool committed = false;
};

QuantizedStoreWriter::QuantizedStoreWriter(const std::string& path)
    : state_(std::make_unique<State>(path)) {
  state_->file->write_attribute("/", "format", std::string(store::kFormat));
  state_->file->write_attribute("/", "version", store::kVersion);
}

QuantizedStoreWriter::~QuantizedStoreWriter() = default;

void QuantizedStoreWriter::add(const std::string& name, const Tensor& tensor) {
  check_name(state_->path, name);
  state_->file->write(tensor_place(name), tensor);
}

void QuantizedStoreWriter::add(const std::string& name, const QuantizedTensor& tensor) {
  check_name(state_->path, name);
  RW_ASSERT(tensor.scheme == QuantScheme::kNf4 && tensor.shape.rank() == 2, "{}", name);
  RW_ASSERT(tensor.codes.numel() == (tensor.shape.numel() + 1) / 2 &&
                tensor.absmax.numel() == tensor.blocks(),
            "{} {}", name, to_string(tensor.shape));
  Hdf5File& file = *state_->file;
  const std::string codes = tensor_place(name, store::kCodes);
  file.write(codes, tensor.codes);
  file.write_attribute(codes, "scheme", std::string(store::kNf4));
  file.write_attribute(codes, "rows", tensor.shape.dim(0));
  file.write_attribute(codes, "columns", tensor.shape.dim(1));
  file.write_attribute(codes, "block_size", tensor.block_size);
  file.write_attribute(codes, "source_dtype", std::string(name_of(tensor.source_dtype)));
  file.write_attribute(codes, "nested_offset", static_cast<double>(tensor.nested_offset));
  file.write(tensor_place(name, store::kAbsmax), tensor.absmax);
  if (tensor.nested()) {
    file.write(tensor_place(name, store::kNestedAbsmax), tensor.nested_absmax);
    file.write(tensor_place(name, store::kNestedMap), tensor.nested_map);
  }
}

void QuantizedStoreWriter::add_file(const std::string& file_name, const std::string& content) {
  check_name(state_->path, file_name);
  state_->file->write_bytes(file_place(file_name), content);
}

void QuantizedStoreWriter::commit() {
  RW_ASSERT(!state_->committed, "{} is committed", state_->path);
  state_->file->close();
  state_->file.reset();
  try {
    verify(state_->temporary);
  } catch (const FormatError& error) {
    throw DiskError(fmt::format("what was written does not read back: {}", error.what()));
  }
  publish_file(state_->temporary, state_->path);
  state_->committed = true;
}

}  // namespace rankwise
