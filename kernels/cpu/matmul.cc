// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/matmul.h"

#include <algorithm>
#include <string>

#include "kernels/cpu/quantize.h"
#include "kernels/cpu/thin_matmul.h"
#include "kernels/cpu/work_split.h"

#if RANKWISE_HAS_ONEDNN
#include <oneapi/dnnl/dnnl.h>
#else
#include <cblas.h>
#include <omp.h>
#endif

namespace rankwise::cpu {
namespace {

#if RANKWISE_HAS_ONEDNN

void library_gemm(float* c, int64_t c_stride, const GemmOperand& a, const GemmOperand& b,
                  const GemmShape& shape, float alpha, float beta) {
  const dnnl_status_t status =
      dnnl_sgemm(a.transposed ? 'T' : 'N', b.transposed ? 'T' : 'N', shape.m, shape.n, shape.k,
                 alpha, a.data, a.stride, b.data, b.stride, beta, c, c_stride);
  RW_ASSERT(status == dnnl_success, "dnnl_sgemm status {} for ({}, {}, {})",
            static_cast<int>(status), shape.m, shape.n, shape.k);
}

#else

void library_gemm(float* c, int64_t c_stride, const GemmOperand& a, const GemmOperand& b,
                  const GemmShape& shape, float alpha, float beta) {
  // The pthread flavour starts one thread per core whatever OpenMP was told: ranks would fight.
  static const bool threads_set = (openblas_set_num_threads(omp_get_max_threads()), true);
  static_cast<void>(threads_set);
  const auto narrow = [](int64_t value) { return static_cast<blasint>(value); };
  cblas_sgemm(CblasRowMajor, a.transposed ? CblasTrans : CblasNoTrans,
              b.transposed ? CblasTrans : CblasNoTrans, narrow(shape.m), narrow(shape.n),
              narrow(shape.k), alpha, a.data, narrow(a.stride), b.data, narrow(b.stride), beta, c,
              narrow(c_stride));
}

#endif

void scale_rows(float* c, int64_t c_stride, const GemmShape& shape, float beta) {
  for (int64_t i = 0; i < shape.m; ++i) {
    float* row = c + i * c_stride;
    for (int64_t j = 0; j < shape.n; ++j) row[j] = beta == 0.0f ? 0.0f : beta * row[j];
  }
}

// Rows of W expanded at a time. Fewer make the GEMM repack X too often (forward) and pass over dX
// too often (backward); more leave the cache. A constant, so that forward and recomputed forward
// agree bit for bit.
constexpr int64_t kTileRows = 256;

// to (end - begin, in) = rows [begin, end) of diag(row_factors) W.
void multiply_rows(float* to, const Tensor& w, const float* row_factors, int64_t begin,
                   int64_t end) {
  const int64_t in = w.dim(1);
  const auto* from = w.data<float>();
#pragma omp parallel for schedule(static) if ((end - begin) * in > kParallelElements)
  for (int64_t row = begin; row < end; ++row) {
    for (int64_t c = 0; c < in; ++c) {
      to[(row - begin) * in + c] = row_factors[row] * from[row * w.row_stride() + c];
    }
  }
}

// Whether the products must read a changed copy of W.
bool needs_tiles(const Weight& w, const float* row_factors) {
  return is_quantized(w) || row_factors != nullptr;
}

// Calls multiply(tile, begin, end) with rows [begin, end) of diag(row_factors) W in tile
// (end - begin, in).
template <class Multiply>
void for_each_tile(const Weight& w, const float* row_factors, Stream& stream,
                   const Multiply& multiply) {
  const int64_t out = shape_of(w).dim(0);
  const int64_t elements = std::min(kTileRows, out) * shape_of(w).dim(1);
  auto* tile = static_cast<float*>(stream.scratch(static_cast<size_t>(elements) * sizeof(float)));
  for (int64_t begin = 0; begin < out; begin += kTileRows) {
    const int64_t end = std::min(begin + kTileRows, out);
    if (const auto* quantized = std::get_if<QuantizedTensor>(&w)) {
      dequantize_rows(tile, *quantized, begin, end, row_factors);
    } else {
      multiply_rows(tile, std::get<Tensor>(w), row_factors, begin, end);
    }
    multiply(tile, begin, end);
  }
}

}  // namespace

void gemm(float* c, int64_t c_stride, const GemmOperand& a, const GemmOperand& b,
          const GemmShape& shape, float alpha, float beta) {
  if (shape.m == 0 || shape.n == 0) return;
  if (shape.k == 0) return scale_rows(c, c_stride, shape, beta);
  library_gemm(c, c_stride, a, b, shape, alpha, beta);
}

void matmul(const Tensor& c, const Tensor& a, const Tensor& b, const MatmulParams& params) {
  const GemmShape shape = {c.dim(0), c.dim(1), a.dim(params.transpose_a ? 0 : 1)};
  const GemmOperand left = {a.data<float>(), a.row_stride(), params.transpose_a};
  const GemmOperand right = {b.data<float>(), b.row_stride(), params.transpose_b};
  if (thin_gemm(c.data<float>(), c.row_stride(), left, right, shape, params.alpha, params.beta)) {
    return;
  }
  gemm(c.data<float>(), c.row_stride(), left, right, shape, params.alpha, params.beta);
}

void linear(const Tensor& y, const Tensor& x, const Weight& w, const float* row_factors, float beta,
            Stream& stream) {
  if (!needs_tiles(w, row_factors)) {
    return matmul(y, x, std::get<Tensor>(w), {.transpose_b = true, .beta = beta});
  }
  const int64_t in = x.dim(1);
  for_each_tile(w, row_factors, stream, [&](const float* tile, int64_t begin, int64_t end) {
    gemm(y.data<float>() + begin, y.row_stride(), {x.data<float>(), x.row_stride()},
         {tile, in, true}, {x.dim(0), end - begin, in}, 1.0f, beta);
  });
}

void linear_backward_input(const Tensor& dx, const Tensor& dy, const Weight& w,
                           const float* row_factors, float beta, Stream& stream) {
  if (!needs_tiles(w, row_factors)) return matmul(dx, dy, std::get<Tensor>(w), {.beta = beta});
  const int64_t in = dx.dim(1);
  for_each_tile(w, row_factors, stream, [&](const float* tile, int64_t begin, int64_t end) {
    gemm(dx.data<float>(), dx.row_stride(), {dy.data<float>() + begin, dy.row_stride()}, {tile, in},
         {dy.dim(0), in, end - begin}, 1.0f, begin == 0 ? beta : 1.0f);
  });
}

const char* matmul_library() {
#if RANKWISE_HAS_ONEDNN
  static const std::string name = [] {
    const dnnl_version_t* version = dnnl_version();
    return fmt::format("oneDNN {}.{}.{}", version->major, version->minor, version->patch);
  }();
  return name.c_str();
#else
  return "OpenBLAS";
#endif
}

}  // namespace rankwise::cpu
