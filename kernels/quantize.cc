// SPDX-License-Identifier: Apache-2.0
#include "kernels/quantize.h"

#include <array>

#include "kernels/check.h"
#include "kernels/cpu/quantize.h"
#include "kernels/cuda/dequantize.h"
#include "kernels/cuda/quantize.h"
#include "kernels/dynamic_map.h"
#include "runtime/transfer.h"

namespace rankwise {
namespace {

// Quantiles of the standard normal scaled to [-1, 1] (QLoRA paper, appendix E); the reference table
// differs from its own formula in the last bits, so the table itself is the definition.
constexpr std::array<float, 16> kNf4Values = {
    -1.0f,
    -0.6961928009986877f,
    -0.5250730514526367f,
    -0.39491748809814453f,
    -0.28444138169288635f,
    -0.18477343022823334f,
    -0.09105003625154495f,
    0.0f,
    0.07958029955625534f,
    0.16093020141124725f,
    0.24611230194568634f,
    0.33791524171829224f,
    0.44070982933044434f,
    0.5626170039176941f,
    0.7229568362236023f,
    1.0f,
};

constexpr std::array<float, 15> kNf4Thresholds = {
    -0.8480964004993439f,  -0.6106329262256622f,  -0.4599952697753906f,   -0.33967943489551544f,
    -0.23460740596055984f, -0.13791173323988914f, -0.045525018125772476f, 0.03979014977812767f,
    0.1202552504837513f,   0.2035212516784668f,   0.2920137718319893f,    0.3893125355243683f,
    0.5016634166240692f,   0.6427869200706482f,   0.8614784178118011f,
};

}  // namespace

std::span<const float, 16> nf4_values() { return kNf4Values; }

std::span<const float, 15> nf4_thresholds() { return kNf4Thresholds; }

std::span<const float, 256> signed_dynamic_map() { return kSignedDynamicMap; }

float mean_scale(std::span<const float> scales) {
  double sum = 0.0;
  for (const float scale : scales) sum += scale;
  return scales.empty() ? 0.0f : static_cast<float>(sum / static_cast<double>(scales.size()));
}

QuantizedTensor allocate_nf4(const MatrixSlice& slice, bool double_quant, DType source_dtype,
                             Arena& arena, std::string_view purpose) {
  QuantizedTensor out;
  out.block_size = kNf4Block;
  out.source_dtype = source_dtype;
  out.shape = slice.shape();
  out.first = slice.first();
  out.row_stride = slice.is_contiguous() ? 0 : slice.in();
  out.codes = arena.allocate(purpose, DType::kU8, {(out.shape.numel() + 1) / 2});
  out.absmax = arena.allocate(purpose, double_quant ? DType::kU8 : DType::kF32, {out.blocks()});
  if (!double_quant) return out;
  out.nested_absmax = arena.allocate(purpose, DType::kF32, {out.groups()});
  out.nested_map = arena.allocate(purpose, DType::kF32, {256});
  return out;
}

void quantize_nf4(QuantizedTensor& out, const Tensor& w, Stream& stream) {
  check::nf4("quantize_nf4", out);
  RW_ASSERT(out.first == 0 && out.row_stride == 0, "quantize_nf4: a slice, from element {}",
            out.first);
  check::f32("quantize_nf4", "w", w, out.shape);
  if constexpr (kHasCuda) {
    if (stream.is_cuda()) return cuda::quantize_nf4(out, w, stream);
  }
  if (stream.measuring()) return;
  cpu::quantize_nf4(out, w, stream);
}

void quantize_nf4_blocks(const Tensor& codes, const Tensor& scales, const Tensor& w,
                         Stream& stream) {
  check::f32("quantize_nf4_blocks", "w", w, {w.numel()});
  check::dtype("quantize_nf4_blocks", "codes", codes, DType::kU8);
  check::shape("quantize_nf4_blocks", "codes", codes, {(w.numel() + 1) / 2});
  check::f32("quantize_nf4_blocks", "scales", scales, {(w.numel() + kNf4Block - 1) / kNf4Block});
  if (stream.measuring()) return;
  if constexpr (kHasCuda) {
    if (stream.is_cuda()) return cuda::quantize_nf4_blocks(codes, scales, w, stream);
  }
  cpu::quantize_nf4_blocks(codes, scales, w);
}

void set_nf4_scales(QuantizedTensor& out, std::span<const float> whole_scales, Stream& stream) {
  check::nf4("set_nf4_scales", out);
  if (stream.measuring()) return;
  RW_ASSERT(out.first_block() + out.blocks() <= static_cast<int64_t>(whole_scales.size()),
            "set_nf4_scales: blocks {} + {} of {}", out.first_block(), out.blocks(),
            whole_scales.size());
  if (!stream.is_cuda()) return cpu::set_nf4_scales(out, whole_scales);
  Arena arena;
  const auto on_host = [&](const Tensor& part) {
    return part.defined() ? arena.allocate("scales", part.dtype(), part.shape()) : Tensor();
  };
  QuantizedTensor host = out;
  host.absmax = on_host(out.absmax);
  host.nested_absmax = on_host(out.nested_absmax);
  host.nested_map = on_host(out.nested_map);
  cpu::set_nf4_scales(host, whole_scales);
  upload(out.absmax, host.absmax.raw(), stream);
  if (!out.nested()) return;
  upload(out.nested_absmax, host.nested_absmax.raw(), stream);
  upload(out.nested_map, host.nested_map.raw(), stream);
  out.nested_offset = host.nested_offset;
}

void dequantize(const Tensor& w, const QuantizedTensor& q, Stream& stream) {
  dequantize_rows(w, q, 0, q.shape.dim(0), stream);
}

void dequantize_rows(const Tensor& w, const QuantizedTensor& q, int64_t begin, int64_t end,
                     Stream& stream) {
  check::nf4("dequantize_rows", q);
  RW_ASSERT(0 <= begin && begin <= end && end <= q.shape.dim(0), "rows [{}, {}) of {}", begin, end,
            to_string(q.shape));
  check::activation("dequantize_rows", "w", w, {end - begin, q.shape.dim(1)});
  if (stream.measuring() || w.numel() == 0) return;
  if constexpr (kHasCuda) {
    if (stream.is_cuda()) {
      return cuda::dequantize_rows(w.raw(), w.dtype(), w.row_stride(), q, begin, end, stream);
    }
  }
  cpu::dequantize_rows(w.data<float>(), q, begin, end);
}

}  // namespace rankwise
