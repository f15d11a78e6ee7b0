// SPDX-License-Identifier: Apache-2.0
// scale[b] = max |w| over block b; code[i] = number of thresholds below w[i] * (1 / scale[b]).
// Double quantisation: absmax[b] = index of the entry of the dynamic map nearest to
// (scale[b] - mean(scale)) / largest such residual of the 256 blocks around b.
#include <cfloat>
#include <vector>

#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/quantize.h"
#include "runtime/transfer.h"

namespace rankwise::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;
constexpr int kNestedBlock = static_cast<int>(QuantizedTensor::kNestedBlock);

struct Thresholds {
  float of_code[15];
};

__device__ int code_of(float x, const Thresholds& thresholds) {
  int code = 0;
#pragma unroll
  for (int i = 0; i < 15; ++i) code += x > thresholds.of_code[i] ? 1 : 0;
  return code;
}

// One warp per block of the format. Magnitudes compare like their bit patterns, and a NaN wins, as
// on the CPU.
__global__ void __launch_bounds__(kThreads)
    encode_blocks(uint8_t* codes, float* scales, const float* w, int64_t numel, int64_t block_size,
                  int64_t blocks, const __grid_constant__ Thresholds thresholds) {
  const int64_t block = int64_t{blockIdx.x} * kWarps + threadIdx.x / 32;
  if (block >= blocks) return;
  const int lane = threadIdx.x % 32;
  const int64_t begin = block * block_size;
  const int64_t count = min(block_size, numel - begin);
  const float* x = w + begin;
  unsigned largest = 0;
  for (int64_t i = lane; i < count; i += 32) {
    largest = max(largest, __float_as_uint(x[i]) & 0x7fffffffu);
  }
  const float absmax = __uint_as_float(__reduce_max_sync(0xffffffffu, largest));
  const bool vanishes = absmax < FLT_MIN;  // has no finite reciprocal
  if (lane == 0) scales[block] = vanishes ? 0.0f : absmax;
  const float inverse = __frcp_rn(absmax);
  uint8_t* packed = codes + begin / 2;
  for (int64_t pair = lane; pair < (count + 1) / 2; pair += 32) {
    const float even = x[2 * pair];
    const float odd = 2 * pair + 1 < count ? x[2 * pair + 1] : 0.0f;
    const int high = code_of(__fmul_rn(even, inverse), thresholds);
    const int low = code_of(__fmul_rn(odd, inverse), thresholds);
    packed[pair] = vanishes ? kNf4TwoZeros : static_cast<uint8_t>(high << 4 | low);
  }
}

// Index of the entry nearest to x; a tie goes to the even index.
__device__ int nearest_entry(const float* map, float x) {
  int above = 0;  // first entry that is not below x
  for (int end = 256; above < end;) {
    const int middle = (above + end) / 2;
    if (map[middle] < x) {
      above = middle + 1;
    } else {
      end = middle;
    }
  }
  if (above == 0) return 0;
  if (above == 256) return 255;
  const float middle = __fmul_rn(__fadd_rn(map[above - 1], map[above]), 0.5f);
  return x > middle || (x == middle && above % 2 == 0) ? above : above - 1;
}

// One thread block per 256 scales.
__global__ void __launch_bounds__(kNestedBlock)
    encode_scales(uint8_t* codes, float* nested_absmax, const float* scales, const float* map,
                  float offset, int64_t blocks) {
  __shared__ unsigned shared[32];
  const int64_t block = int64_t{blockIdx.x} * kNestedBlock + threadIdx.x;
  const float residual = block < blocks ? __fsub_rn(scales[block], offset) : 0.0f;
  const unsigned magnitude = isnan(residual) ? 0u : __float_as_uint(fabsf(residual));
  const float largest = __uint_as_float(
      block_reduce(magnitude, 0u, shared, [](unsigned a, unsigned b) { return max(a, b); }));
  if (threadIdx.x == 0) nested_absmax[blockIdx.x] = largest;
  if (block >= blocks) return;
  const float inverse = largest < FLT_MIN ? 0.0f : __frcp_rn(largest);
  codes[block] = static_cast<uint8_t>(nearest_entry(map, __fmul_rn(residual, inverse)));
}

// Codes and scales of w, in blocks of `block_size` from its first element on.
void encode(const Tensor& codes, const Tensor& scales, const Tensor& w, int64_t block_size,
            Stream& stream) {
  const int64_t blocks = scales.numel();
  if (blocks == 0) return;
  Thresholds thresholds;
  for (int i = 0; i < 15; ++i) thresholds.of_code[i] = nf4_thresholds()[i];
  encode_blocks<<<static_cast<unsigned>(ceil_div(blocks, kWarps)), kThreads, 0, native(stream)>>>(
      codes.data<uint8_t>(), scales.data<float>(), w.data<float>(), w.numel(), block_size, blocks,
      thresholds);
  check_launch("quantize_nf4");
}

void quantize_scales(QuantizedTensor& out, const Tensor& scales, Stream& stream) {
  std::vector<float> on_host(static_cast<size_t>(scales.numel()));
  download(on_host.data(), scales, stream);
  out.nested_offset = mean_scale(std::span<const float>(on_host));
  upload(out.nested_map, signed_dynamic_map().data(), stream);
  const auto groups = static_cast<unsigned>(ceil_div(scales.numel(), kNestedBlock));
  encode_scales<<<groups, kNestedBlock, 0, native(stream)>>>(
      out.absmax.data<uint8_t>(), out.nested_absmax.data<float>(), scales.data<float>(),
      out.nested_map.data<float>(), out.nested_offset, scales.numel());
  check_launch("quantize_nf4");
}

}  // namespace

void quantize_nf4(QuantizedTensor& out, const Tensor& w, Stream& stream) {
  const int64_t blocks = out.blocks();
  Tensor scales = out.absmax;
  if (out.nested()) {
    void* scratch = stream.scratch(static_cast<size_t>(blocks) * sizeof(float));
    scales = Tensor(scratch, DType::kF32, {blocks}, stream.device());
  }
  if (stream.measuring() || blocks == 0) return;
  encode(out.codes, scales, w, out.block_size, stream);
  if (out.nested()) quantize_scales(out, scales, stream);
}

void quantize_nf4_blocks(const Tensor& codes, const Tensor& scales, const Tensor& w,
                         Stream& stream) {
  encode(codes, scales, w, kNf4Block, stream);
}

}  // namespace rankwise::cuda
