#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Everything that only a GPU can show, on a machine with one: builds for that GPU, compares every CUDA
# kernel and whole training runs with the CPU, and measures; with two GPUs also two ranks. What has too
# few GPUs is skipped. The last line is the total:
#   N passed, N failed, N skipped
# tests/gpu.sh [--build DIR] [--all] [--no-tests] [--sanitizer] [--no-bench] [-- CMAKE_ARGUMENT...]
#   --build DIR   tests this build folder as it is
#   --all         the CPU's rings as well
#   --no-tests    no parity tests
#   --sanitizer   kernel tests under compute-sanitizer too (memcheck, racecheck)
#   --no-bench    no measurements; else they go to build/gpu-results
#   -- ...        to cmake, such as -D CUDNN_FRONTEND_INCLUDE_DIR=DIR
# shellcheck disable=SC2317  # functions are called through `phase`
set -uo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root" || exit 1
# shellcheck source=launch/mpi_environment.sh
source launch/mpi_environment.sh
logs=build/gpu-logs
# shellcheck source=tests/support/test_report.sh
source tests/support/test_report.sh
export GTEST_COLOR=no
cores=$(env -u OMP_NUM_THREADS nproc)

usage() {
  echo "tests/gpu.sh: $1 (--build DIR, --all, --no-tests, --sanitizer, --no-bench, -- ...)" >&2
  exit 2
}

build=
label='^gpu2?$'
tests=true
sanitizer=false
bench=true
while [[ $# -gt 0 ]]; do
  case "$1" in
    --build)
      build=${2:-}
      [[ -f "$build/CMakeCache.txt" ]] || usage "--build: '$build' is no build folder"
      shift
      ;;
    --all) label=. ;;
    --no-tests) tests=false ;;
    --sanitizer) sanitizer=true ;;
    --no-bench) bench=false ;;
    --)
      shift
      break
      ;;
    *) usage "unknown option $1" ;;
  esac
  shift
done
cmake_arguments=("$@")

[[ -d /usr/local/cuda/bin ]] && export PATH=$PATH:/usr/local/cuda/bin
if ! gpu=$(nvidia-smi --query-gpu=name,compute_cap --format=csv,noheader 2>&1); then
  echo "-- no GPU on this machine: ${gpu##*$'\n'}"
  programs=(tests/{runtime/cuda,kernels/cuda,gpu}/*_test.cc)
  echo "-- left out: ${#programs[@]} test programs and all measurements"
  echo "0 passed, 0 failed, ${#programs[@]} skipped"
  exit 0
fi
gpu_count=$(wc -l <<<"$gpu")
gpu=${gpu%%$'\n'*}
echo "-- $gpu_count x $gpu"
# NVLink multicast needs rights over the whole host, which a container may lack.
export NCCL_NVLS_ENABLE=${NCCL_NVLS_ENABLE:-0}

gpu_programs() { # names of the programs of a configured build
  ctest --test-dir "$build" -N -L "$label" |
    sed -n '/^ *Test *#[0-9]*: /{s///;s/\.np[0-9]*$//;p}'
}

build_here() {
  local architecture=${gpu##*, }
  architecture=${architecture/./}
  # Hopper's own instructions are in the architecture with an a.
  [[ $architecture == 90 ]] && architecture=90a
  build=build/gpu
  quietly "$logs/configure.log" cmake --preset cuda-release -B "$build" -D RANKWISE_BENCH=OFF \
    -D CMAKE_CUDA_ARCHITECTURES="$architecture" "${cmake_arguments[@]}" || return 1
  grep -E '^-- rankwise: ' "$logs/configure.log"
  local targets=(rankwise bench.step_table bench.save_table)
  if [[ $label == . ]]; then
    targets=(all)
  elif $tests || $sanitizer; then
    mapfile -t -O 3 targets < <(gpu_programs)
  fi
  quietly "$logs/build.log" cmake --build "$build" -j "$cores" --target "${targets[@]}"
}

# The test lists of a build made under another path name that path.
adopt_build() {
  local made_in
  made_in=$(sed -n 's/^CMAKE_HOME_DIRECTORY:INTERNAL=//p' "$build/CMakeCache.txt")
  [[ -z $made_in || $made_in == "$root" ]] ||
    find "$build" -name CTestTestfile.cmake -exec sed -i "s#$made_in#$root#g" {} +
}

# The runtime's tests provoke errors of the driver, which memcheck need not tell. racecheck itself fails
# on kernels of cuBLASLt, so it is not given the programs that run them. What these call of our own is
# in programs without the library: matmul_tiled_test (what stands in for it), quantize_test,
# quantize_slices_test and low_rank_linear_terms_test (weights and terms of groups, expanded),
# row_norms_nf4_test, cholesky_step_test, elementwise_test (casts of projections). The rounding of
# add_back_projection has no shared memory, which is all that racecheck looks at.
sanitize_one() { # sanitize_one TOOL PROGRAM
  local arguments=(--tool "$1" --error-exitcode 86 --require-cuda-init no)
  case $1 in
    memcheck) arguments+=(--report-api-errors no) ;;
    racecheck)
      case ${2##*.} in
        *_matmul_test | matmul_test | low_rank_linear_test | row_norms_test) return ;;
        projection_test | add_back_projection_test | orthonormalize_test) return ;;
      esac
      arguments+=(--kernel-name kernel_substring=rankwise)
      ;;
  esac
  local log=$logs/$1-${2##*/}.log
  if timeout 1800 compute-sanitizer "${arguments[@]}" "$2" >"$log" 2>&1; then
    echo "$1 ${2##*/}" >>"$logs/sanitizer-passed.txt"
    return
  fi
  echo "   $1 ${2##*/}: FAILED, $log"
  grep -E '=========|FAILED' "$log" | head -n 12
  echo "$1 ${2##*/}" >>"$logs/sanitizer-failed.txt"
}

# One case per program and tool, several at a time.
sanitize() {
  export -f sanitize_one
  export logs
  : >"$logs/sanitizer-failed.txt"
  : >"$logs/sanitizer-passed.txt"
  # (gpu_ceiling_test measures rates, and memory that no one else takes meanwhile)
  local program programs=()
  for program in "$build"/tests/{runtime,kernels}.cuda.*; do
    [[ $program == *gpu_ceiling_test ]] || programs+=("$program")
  done
  printf '%s\n' "${programs[@]}" | sed 's/.*/memcheck &\nracecheck &/' |
    xargs -P "$(((cores + 1) / 2))" -L 1 bash -c 'sanitize_one "$@"' _
  failed=$((failed + $(wc -l <"$logs/sanitizer-failed.txt")))
  passed=$((passed + $(wc -l <"$logs/sanitizer-passed.txt")))
}

results=build/gpu-results
ranks=1
measure() { # measure NAME MODEL ARGUMENTS...: counts as one case
  local name=$1 model=$2 program=("$build/rankwise" bench)
  shift 2
  if [[ $1 == *_table ]]; then
    program=("$build/bench/bench.$1")
    shift
  fi
  echo "-- bench $name"
  if [[ $ranks -gt $gpu_count ]]; then
    echo "   bench $name: needs $ranks GPUs" | tee -a "$logs/skipped.txt"
    skipped=$((skipped + 1))
    return
  fi
  [[ $ranks -eq 1 ]] || program=(mpirun -np "$ranks" "${program[@]}")
  if "${program[@]}" "$@" --device cuda --rank 16 \
    --model "tests/bench/shapes/$model.json" --output "$results/$name.json" | tee "$results/$name.txt"; then
    passed=$((passed + 1))
  else
    echo "   bench $name: FAILED"
    failed=$((failed + 1))
  fi
}

measure_all() {
  mkdir -p "$results"
  nvidia-smi --query-gpu=name,driver_version,clocks.sm,clocks.mem,power.limit,temperature.gpu \
    --format=csv | tee "$results/gpu.txt"
  local quick=(--seconds 0.1) step=(--seconds 3)
  measure operations_7b llama_7b matmul nf4 attention --batch 4 --tokens 2048 "${quick[@]}"
  measure kernels_7b llama_7b step_table --batch 4 --tokens 2048 "${quick[@]}"
  measure step_7b_nf4 llama_7b step --batch 4 --tokens 2048 "${step[@]}"
  measure step_7b_bf16 llama_7b step --batch 4 --tokens 2048 --quant none "${step[@]}"
  measure step_7b_small llama_7b step --batch 1 --tokens 2048 --recompute full "${step[@]}"
  measure step_8b_nf4 llama3_8b step --batch 2 --tokens 4096 "${step[@]}"
  measure step_13b_nf4 llama_13b step --batch 4 --tokens 2048 "${step[@]}"
  measure step_65b_nf4 llama_65b step --batch 2 --tokens 2048 "${step[@]}"
  measure save_7b llama_7b save_table --batch 4 --tokens 2048 --folder "$results"
  ranks=2 measure allreduce llama_7b allreduce "${quick[@]}"
}

if [[ -z $build ]]; then
  phase "build for this GPU" build_here || finish
else
  phase "build folder $build" adopt_build || finish
fi
if $tests; then
  begin=$SECONDS
  echo "-- tests"
  run_ctest "$logs/tests.log" --test-dir "$build" -L "$label" -j 4
  echo "-- tests: $((SECONDS - begin)) s"
fi
if $sanitizer; then phase "compute-sanitizer" sanitize; fi
if $bench; then phase "measurements" measure_all; fi
finish
