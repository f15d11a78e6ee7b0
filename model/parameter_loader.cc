// SPDX-License-Identifier: Apache-2.0
#include "model/parameter_loader.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "kernels/elementwise.h"
#include "kernels/quantize.h"
#include "model/slice_quantizer.h"
#include "runtime/errors.h"
#include "runtime/transfer.h"

namespace rankwise {
namespace {

constexpr int64_t kStagingFloats = 8 << 20;
constexpr int kReadingPatience = 10;  // deadlines that reading one tensor may take

}  // namespace

bool ParameterLoader::trained(const std::string& name) const {
  return plan_->is_trained && plan_->is_trained(name);
}

// The first thing done for a tensor, so that a rank that hangs in reading it can say so.
void ParameterLoader::check_shape(const std::string& name, const Shape& expected) const {
  mesh_->world().activity().report(fmt::format("load {}", name), kReadingPatience);
  const Shape actual = source_->shape(name);
  if (!(actual == expected)) {
    throw FormatError(fmt::format("{}: tensor {} has shape {}, config.json implies {}",
                                  source_->description(), name, to_string(actual),
                                  to_string(expected)));
  }
}

MatrixSlice ParameterLoader::slice_of(const std::string& name, const Shape& shape,
                                      const ShardSpec& spec) const {
  RW_ASSERT(shape.rank() == 1 || shape.rank() == 2, "{} {}", name, to_string(shape));
  const Shape matrix = shape.rank() == 2 ? shape : Shape{shape.dim(0), 1};
  return spec.slice(matrix, mesh_->tensor().rank(), mesh_->tensor().size(), name);
}

void ParameterLoader::read(const std::string& name, const MatrixSlice& slice,
                           const Tensor& out) const {
  if (source_->generate(name, out, *stream_) || out.numel() == 0) return;
  if (out.device().is_cuda()) return read_to_gpu(name, slice, out);
  if (arena_->measuring()) return;
  if (slice.is_whole()) return source_->read(name, out);
  read_rows(name, slice, 0, out.dim(0), out);
}

void ParameterLoader::read_rows(const std::string& name, const MatrixSlice& slice, int64_t begin,
                                int64_t end, const Tensor& out) const {
  if (slice.is_contiguous()) {
    return source_->read_rows(name, slice.row_begin + begin, slice.row_begin + end, out);
  }
  for (int64_t row = begin; row < end; ++row) {
    source_->read_elements(name, slice.first() + row * slice.in(),
                           out.rows(row - begin, row - begin + 1));
  }
}

// Piece by piece, so that neither the host nor the device holds a large tensor twice.
void ParameterLoader::read_to_gpu(const std::string& name, const MatrixSlice& slice,
                                  const Tensor& out) const {
  const auto scope = arena_->scope("staging");
  const int64_t width = out.numel() / out.dim(0);
  const int64_t step = std::clamp<int64_t>(kStagingFloats / width, 1, out.dim(0));
  const bool direct = out.dtype() == DType::kF32;
  std::vector<float> host(arena_->measuring() ? 0 : static_cast<size_t>(step * width));
  Tensor staged;
  if (!direct) staged = arena_->allocate("staging", DType::kF32, {step * width});
  for (int64_t begin = 0; begin < out.dim(0); begin += step) {
    const Tensor piece = out.rows(begin, std::min(begin + step, out.dim(0)));
    if (!arena_->measuring()) {
      const Tensor values(host.data(), DType::kF32, piece.shape());
      read_rows(name, slice, begin, begin + piece.dim(0), values);
    }
    const Tensor to = direct ? piece : staged.rows(0, piece.numel());
    upload(to, host.data(), *stream_);
    if (!direct) cast(piece, to.reshaped(piece.shape()), *stream_);
  }
}

Parameter ParameterLoader::dense(const std::string& name, const Shape& shape, ParameterRole role,
                                 const ShardSpec& spec) const {
  check_shape(name, shape);
  Parameter parameter;
  parameter.name = name;
  parameter.role = role;
  parameter.spec = spec;
  parameter.trainable = trained(name);
  const int ranks = mesh_->tensor().size();
  if (parameter.trainable && spec.kind == ShardSpec::Kind::kSharded && spec.copies > 1) {
    throw ConfigError(
        fmt::format("parallel.tensor: {} trained in full needs at most {} (the kv "
                    "heads), not {}",
                    name, ranks / spec.copies, ranks));
  }
  const MatrixSlice slice = slice_of(name, shape, spec);
  const bool rounds_updates =
      role != ParameterRole::kEmbedding && plan_->stores_bf16 && plan_->stores_bf16(name);
  const bool exact = shape.rank() < 2 || (parameter.trainable && !rounds_updates);
  const Tensor weight =
      arena_->allocate("weights", exact ? DType::kF32 : plan_->compute,
                       shape.rank() == 2 ? slice.shape() : Shape{slice.shape().dim(0)});
  read(name, slice, weight);
  parameter.weight = weight;
  return parameter;
}

Parameter ParameterLoader::linear_weight(const std::string& name, const Shape& shape,
                                         const ShardSpec& spec) const {
  if (!trained(name)) {
    Parameter parameter;
    parameter.name = name;
    parameter.spec = spec;
    check_shape(name, shape);
    const MatrixSlice slice = slice_of(name, shape, spec);
    const int reader = static_cast<int>(quantized_tensors_ % mesh_->data().size());
    const bool reads = !shares_base() || reader == mesh_->data().rank();
    auto weight = stored(name, slice, reads);
    if (!weight && plan_->quantize_nf4) weight = quantized(name, slice, reads);
    if (weight) {
      ++quantized_tensors_;
      if (shares_base()) pass_on(name, *weight, reader);
      parameter.weight = *std::move(weight);
      return parameter;
    }
  }
  return dense(name, shape, ParameterRole::kLinear, spec);
}

// As the source holds it, moved to the device when that is not the host.
std::optional<QuantizedTensor> ParameterLoader::stored(const std::string& name,
                                                       const MatrixSlice& slice, bool reads) const {
  if (reads && !arena_->device().is_cuda()) {
    return source_->read_quantized(name, slice, *arena_, quantized_purpose());
  }
  Arena host({}, arena_->measuring() || !reads ? Arena::Mode::kMeasure : Arena::Mode::kReserve);
  auto out = source_->read_quantized(name, slice, host, "staging");
  if (!out) return out;
  for (Tensor* part : {&out->codes, &out->absmax, &out->nested_absmax, &out->nested_map}) {
    if (!part->defined()) continue;
    const Tensor moved = arena_->allocate(quantized_purpose(), part->dtype(), part->shape());
    if (reads) upload(moved, part->raw(), *stream_);
    *part = moved;
  }
  return out;
}

void ParameterLoader::pass_on(const std::string& name, QuantizedTensor& weight, int reader) const {
  const Tensor offset(&weight.nested_offset, DType::kF32, {1});
  for (const Tensor& part :
       {weight.codes, weight.absmax, weight.nested_absmax, weight.nested_map, offset}) {
    if (part.defined()) mesh_->data().broadcast(part, reader, "pass on " + name, *stream_);
  }
}

QuantizedTensor ParameterLoader::quantized(const std::string& name, const MatrixSlice& slice,
                                           bool reads) const {
  QuantizedTensor out =
      allocate_nf4(slice, plan_->double_quant, source_->dtype(name), *arena_, quantized_purpose());
  if (!reads || source_->generate_quantized(name, out, *stream_)) return out;
  if (!slice.is_whole()) {
    quantize_slice(out, *source_, name, slice, mesh_->tensor(), *arena_, *stream_);
    return out;
  }
  const auto scope = arena_->scope("staging");
  const Tensor dense = arena_->allocate("staging", DType::kF32, slice.shape());
  read(name, slice, dense);
  quantize_nf4(out, dense, *stream_);
  return out;
}

std::unique_ptr<Adapter> ParameterLoader::adapter(const LinearSite& site) const {
  return plan_->make_adapter ? plan_->make_adapter(site) : nullptr;
}

}  // namespace rankwise
