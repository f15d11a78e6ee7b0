// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/svd.h"

#include <cblas.h>
#include <omp.h>

#include <algorithm>
#include <cmath>
#include <limits>

// LAPACK of OpenBLAS; its packages have no header for it. Fortran passes the length of a text last.
extern "C" void sgesdd_(const char* job, const blasint* m, const blasint* n, float* a,
                        const blasint* a_stride, float* s, float* u, const blasint* u_stride,
                        float* vt, const blasint* vt_stride, float* work, const blasint* work_size,
                        blasint* integer_work, blasint* info, size_t job_length);

namespace rankwise::cpu {

void svd(const Tensor& u, const Tensor& s, const Tensor& vt, const Tensor& a, Stream& stream) {
  if (stream.measuring()) return;
  RW_ASSERT(a.numel() < std::numeric_limits<blasint>::max(), "svd of {}", to_string(a.shape()));
  openblas_set_num_threads(omp_get_max_threads());
  // Columns are contiguous in LAPACK, so that it sees the transposes: a^T = vt^T diag(s) u^T.
  const auto m = static_cast<blasint>(a.dim(1));
  const auto n = static_cast<blasint>(a.dim(0));
  const blasint k = std::min(m, n);
  blasint info = 0;
  const auto decompose = [&](float* values, float* work, blasint work_size, blasint* integers) {
    sgesdd_("S", &m, &n, values, &m, s.data<float>(), vt.data<float>(), &m, u.data<float>(), &k,
            work, &work_size, integers, &info, 1);
    RW_ASSERT(info == 0, "sgesdd info {} for {}", info, to_string(a.shape()));
  };
  float wanted = 0.0f;
  blasint unused = 0;
  decompose(a.data<float>(), &wanted, -1, &unused);
  // The size comes as a float, which may have been rounded down.
  const auto work_size = static_cast<blasint>(std::nextafter(wanted, INFINITY));
  const size_t integer_bytes = 8 * static_cast<size_t>(k) * sizeof(blasint);
  const size_t floats = static_cast<size_t>(a.numel()) + static_cast<size_t>(work_size);
  auto* integers = static_cast<blasint*>(stream.scratch(integer_bytes + floats * sizeof(float)));
  auto* values = reinterpret_cast<float*>(integers + 8 * k);
  std::copy_n(a.data<float>(), a.numel(), values);
  decompose(values, values + a.numel(), work_size, integers);
}

}  // namespace rankwise::cpu
