// SPDX-License-Identifier: Apache-2.0
#include <cublasLt.h>

#include <algorithm>
#include <array>
#include <bit>
#include <limits>
#include <map>
#include <optional>
#include <span>

#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/matmul.h"
#include "kernels/cuda/matmul_algorithms.h"
#include "runtime/event.h"

namespace rankwise::cuda {
namespace {

constexpr int kCandidates = 16;
constexpr int kTimedRuns = 3;

void check_library(cublasStatus_t status, const char* operation) {
  if (status == CUBLAS_STATUS_SUCCESS) return;
  const std::string message =
      fmt::format("cuBLASLt: {} failed: {}", operation, cublasLtGetStatusString(status));
  if (status == CUBLAS_STATUS_ALLOC_FAILED) throw OutOfMemoryError(message);
  throw CommunicationError(message);
}

cudaDataType library_type(DType dtype) { return dtype == DType::kF32 ? CUDA_R_32F : CUDA_R_16BF; }

// Largest power of two, up to 256, that the address is a multiple of.
uint32_t alignment_of(const void* address) {
  return 1u << std::min(8, std::countr_zero(reinterpret_cast<uintptr_t>(address)));
}

// What the choice of an algorithm depends on.
using Key = std::array<int64_t, 8>;

Key key_of(const MatmulCall& call) {
  int64_t bits = 0;
  for (const void* address : {call.a, call.b, call.c, static_cast<const void*>(call.d)}) {
    bits = bits * 16 + std::countr_zero(alignment_of(address));
  }
  for (const bool flag : {call.input == DType::kF32, call.output == DType::kF32, call.transpose_a,
                          call.transpose_b, call.beta == 0.0f, call.tuned}) {
    bits = bits * 2 + flag;
  }
  return {call.m, call.n, call.k, call.a_stride, call.b_stride, call.c_stride, call.d_stride, bits};
}

// The library counts in columns: a row-major matrix is the transpose of a column-major one, so it
// gets D^T = op(B)^T op(A)^T, that is B first, rows and columns as stored exchanged.
struct Plan {
  cublasLtMatmulDescOpaque_t operation;
  cublasLtMatrixLayoutOpaque_t a, b, c, d;
  std::optional<cublasLtMatmulAlgo_t> algorithm;

  explicit Plan(const MatmulCall& call) {
    // Plain fp32 sums and, for F32, fp32 products: no TF32.
    check_library(cublasLtMatmulDescInit(&operation, CUBLAS_COMPUTE_32F, CUDA_R_32F), "matmul");
    set_transpose(CUBLASLT_MATMUL_DESC_TRANSA, call.transpose_b);
    set_transpose(CUBLASLT_MATMUL_DESC_TRANSB, call.transpose_a);
    const cudaDataType input = library_type(call.input), output = library_type(call.output);
    set_layout(b, input, call.transpose_b ? call.n : call.k, call.transpose_b ? call.k : call.n,
               call.b_stride);
    set_layout(a, input, call.transpose_a ? call.k : call.m, call.transpose_a ? call.m : call.k,
               call.a_stride);
    set_layout(c, output, call.m, call.n, call.c_stride);
    set_layout(d, output, call.m, call.n, call.d_stride);
  }
  Plan(const Plan&) = delete;
  Plan& operator=(const Plan&) = delete;

 private:
  void set_transpose(cublasLtMatmulDescAttributes_t attribute, bool transposed) {
    const cublasOperation_t value = transposed ? CUBLAS_OP_T : CUBLAS_OP_N;
    check_library(cublasLtMatmulDescSetAttribute(&operation, attribute, &value, sizeof(value)),
                  "matmul");
  }
  static void set_layout(cublasLtMatrixLayoutOpaque_t& layout, cudaDataType type, int64_t rows,
                         int64_t columns, int64_t stride) {
    check_library(cublasLtMatrixLayoutInit(&layout, type, static_cast<uint64_t>(columns),
                                           static_cast<uint64_t>(rows), stride),
                  "matmul");
  }
};

class Preference {
 public:
  explicit Preference(const MatmulCall& call) {
    check_library(cublasLtMatmulPreferenceInit(&preference_), "matmul");
    set(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, uint64_t{kMatmulWorkspaceBytes});
    // Parts of a sum are fp32 and added in a fixed order, in a step of their own.
    set(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
        uint32_t{CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE});
    set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, alignment_of(call.b));
    set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, alignment_of(call.a));
    set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, alignment_of(call.c));
    set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, alignment_of(call.d));
  }
  cublasLtMatmulPreference_t get() { return &preference_; }

 private:
  template <class T>
  void set(cublasLtMatmulPreferenceAttributes_t attribute, T value) {
    check_library(
        cublasLtMatmulPreferenceSetAttribute(&preference_, attribute, &value, sizeof(value)),
        "matmul");
  }
  cublasLtMatmulPreferenceOpaque_t preference_;
};

// What candidates are timed on: the call itself, as D is written anyway. Where D = C each run adds
// once more, so the product is scaled down: all runs together add less than 2^-100 of it.
MatmulCall trial_of(const MatmulCall& call) {
  MatmulCall trial = call;
  if (call.c == call.d && call.beta != 0.0f) {
    trial.alpha = std::numeric_limits<float>::min();
    trial.beta = 1.0f;
  }
  return trial;
}

bool is_capturing(Stream& stream) {
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  check(cudaStreamIsCapturing(native(stream), &status), "matmul");
  return status != cudaStreamCaptureStatusNone;
}

}  // namespace

struct MatmulAlgorithms::Library {
  explicit Library(Device device)
      : events{Event(device), Event(device), Event(device), Event(device)} {
    check_library(cublasLtCreate(&handle), "cublasLtCreate");
  }
  ~Library() { cublasLtDestroy(handle); }

  cublasStatus_t launch(Plan& plan, const MatmulCall& call, const cublasLtMatmulAlgo_t& algorithm,
                        void* workspace, Stream& stream) {
    return cublasLtMatmul(handle, &plan.operation, &call.alpha, call.b, &plan.b, call.a, &plan.a,
                          &call.beta, call.c, &plan.c, call.d, &plan.d, &algorithm, workspace,
                          kMatmulWorkspaceBytes, native(stream));
  }

  // Median of a few runs after a first one, which also loads the kernel; infinite when it fails.
  double seconds_of(Plan& plan, const MatmulCall& call, const cublasLtMatmulAlgo_t& algorithm,
                    void* workspace, Stream& stream) {
    if (launch(plan, call, algorithm, workspace, stream) != CUBLAS_STATUS_SUCCESS) {
      static_cast<void>(cudaGetLastError());
      return std::numeric_limits<double>::infinity();
    }
    events[0].record(stream);
    for (int i = 1; i <= kTimedRuns; ++i) {
      check_library(launch(plan, call, algorithm, workspace, stream), "cublasLtMatmul");
      events[i].record(stream);
    }
    events[kTimedRuns].wait();
    std::array<double, kTimedRuns> seconds;
    for (int i = 0; i < kTimedRuns; ++i) {
      seconds[i] = Event::seconds_between(events[i], events[i + 1]);
    }
    std::sort(seconds.begin(), seconds.end());
    return seconds[kTimedRuns / 2];
  }

  void choose(Plan& plan, const MatmulCall& call, void* workspace, Stream& stream) {
    Preference preference(call);
    std::array<cublasLtMatmulHeuristicResult_t, kCandidates> found;
    int count = 0;
    const cublasStatus_t status =
        cublasLtMatmulAlgoGetHeuristic(handle, &plan.operation, &plan.b, &plan.a, &plan.c, &plan.d,
                                       preference.get(), kCandidates, found.data(), &count);
    if (status == CUBLAS_STATUS_NOT_SUPPORTED || count == 0) return;
    check_library(status, "cublasLtMatmulAlgoGetHeuristic");
    plan.algorithm = found[0].algo;
    if (!tuning || !call.tuned || tuned_shapes >= kTunedShapes || is_capturing(stream)) return;
    const MatmulCall trial = trial_of(call);
    double best = std::numeric_limits<double>::infinity();
    for (const auto& candidate : std::span(found).first(static_cast<size_t>(count))) {
      if (candidate.state != CUBLAS_STATUS_SUCCESS) continue;
      const double seconds = seconds_of(plan, trial, candidate.algo, workspace, stream);
      if (seconds >= best) continue;
      best = seconds;
      plan.algorithm = candidate.algo;
    }
    ++tuned_shapes;
  }

  cublasLtHandle_t handle = nullptr;
  Event events[kTimedRuns + 1];
  std::map<Key, Plan> plans;
  bool tuning = true;
  int tuned_shapes = 0;
};

MatmulAlgorithms::MatmulAlgorithms(Stream& stream)
    : library_(std::make_unique<Library>(stream.device())) {}

MatmulAlgorithms::~MatmulAlgorithms() = default;

bool MatmulAlgorithms::run(const MatmulCall& call, void* workspace, Stream& stream) {
  const auto [entry, is_new] = library_->plans.try_emplace(key_of(call), call);
  Plan& plan = entry->second;
  if (is_new) library_->choose(plan, call, workspace, stream);
  if (!plan.algorithm) return false;
  check_library(library_->launch(plan, call, *plan.algorithm, workspace, stream), "cublasLtMatmul");
  return true;
}

void MatmulAlgorithms::set_tuning(bool enabled) {
  if (library_->tuning == enabled) return;
  library_->tuning = enabled;
  library_->tuned_shapes = 0;
  library_->plans.clear();
}

}  // namespace rankwise::cuda
