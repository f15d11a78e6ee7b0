// SPDX-License-Identifier: Apache-2.0
#include "model/parameter_loader.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "kernels/elementwise.h"
#include "kernels/quantize.h"
#include "runtime/errors.h"
#include "runtime/transfer.h"

namespace rankwise {
namespace {

constexpr int64_t kStagingFloats = 8 << 20;

}  // namespace

bool ParameterLoader::trained(const std::string& name) const {
  return plan_->is_trained && plan_->is_trained(name);
}

void ParameterLoader::check_shape(const std::string& name, const Shape& expected) const {
  const Shape actual = source_->shape(name);
  if (!(actual == expected)) {
    throw FormatError(fmt::format("{}: tensor {} has shape {}, config.json implies {}",
                                  source_->description(), name, to_string(actual),
                                  to_string(expected)));
  }
}

void ParameterLoader::read(const std::string& name, const Tensor& out) const {
  if (source_->generate(name, out, *stream_)) return;
  if (out.device().is_cuda()) return read_to_gpu(name, out);
  if (!arena_->measuring()) source_->read(name, out);
}

// Piece by piece, so that neither the host nor the device holds a large tensor twice.
void ParameterLoader::read_to_gpu(const std::string& name, const Tensor& out) const {
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
      source_->read_rows(name, begin, begin + piece.dim(0), values);
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
  const bool exact = parameter.trainable || shape.rank() < 2;
  const Tensor weight = arena_->allocate("weights", exact ? DType::kF32 : plan_->compute, shape);
  read(name, weight);
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
    if (auto codes = stored(name)) {
      parameter.weight = *std::move(codes);
      return parameter;
    }
    if (plan_->quantize_nf4) {
      parameter.weight = quantized(name, shape);
      return parameter;
    }
  }
  return dense(name, shape, ParameterRole::kLinear, spec);
}

// As the source holds it, moved to the device when that is not the host.
std::optional<QuantizedTensor> ParameterLoader::stored(const std::string& name) const {
  if (!arena_->device().is_cuda()) return source_->read_quantized(name, *arena_, "weights");
  Arena host({}, arena_->measuring() ? Arena::Mode::kMeasure : Arena::Mode::kReserve);
  auto out = source_->read_quantized(name, host, "staging");
  if (!out) return out;
  for (Tensor* part : {&out->codes, &out->absmax, &out->nested_absmax, &out->nested_map}) {
    if (!part->defined()) continue;
    const Tensor moved = arena_->allocate("weights", part->dtype(), part->shape());
    upload(moved, part->raw(), *stream_);
    *part = moved;
  }
  return out;
}

QuantizedTensor ParameterLoader::quantized(const std::string& name, const Shape& shape) const {
  QuantizedTensor out =
      allocate_nf4(shape, plan_->double_quant, source_->dtype(name), *arena_, "weights");
  if (source_->generate_quantized(name, out, *stream_)) return out;
  const auto scope = arena_->scope("staging");
  const Tensor dense = arena_->allocate("staging", DType::kF32, shape);
  read(name, dense);
  quantize_nf4(out, dense, *stream_);
  return out;
}

std::unique_ptr<Adapter> ParameterLoader::adapter(const LinearSite& site) const {
  return plan_->make_adapter ? plan_->make_adapter(site) : nullptr;
}

}  // namespace rankwise
