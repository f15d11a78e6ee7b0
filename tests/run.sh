#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Builds and tests everything on this machine: the optimised build ring by ring, then the whole suite
# under the address, leak and undefined-behaviour sanitizers. The last line is the total:
#   N passed, N failed, N skipped
# tests/run.sh [--fast] [--no-sanitize] [--cuda]
#   --fast         only the fast ring of the optimised build
#   --no-sanitize  without the sanitizer build
#   --cuda         also compile and link the CUDA build (running it needs a GPU)
# shellcheck disable=SC2317  # functions are called through `phase`
set -uo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root" || exit 1
# shellcheck source=launch/mpi_environment.sh
source launch/mpi_environment.sh
logs=build/test-logs
# shellcheck source=tests/support/test_report.sh
source tests/support/test_report.sh
export GTEST_COLOR=no # mpirun gives ranks a terminal, and colours would hide the results from us

fast_only=false
sanitize=true
cuda=false
for argument in "$@"; do
  case "$argument" in
    --fast) fast_only=true ;;
    --no-sanitize) sanitize=false ;;
    --cuda) cuda=true ;;
    *)
      echo "tests/run.sh: unknown option $argument (--fast, --no-sanitize, --cuda)" >&2
      exit 2
      ;;
  esac
done

jobs=$(env -u OMP_NUM_THREADS nproc)

build() {  # build PRESET [TARGET...]
  local preset=$1
  shift
  quietly "$logs/$preset-configure.log" cmake --preset "$preset" || return 1
  quietly "$logs/$preset-build.log" cmake --build --preset "$preset" -j "$jobs" || return 1
  local target
  for target in "$@"; do
    quietly "$logs/$preset-$target.log" \
      cmake --build --preset "$preset" -j "$jobs" --target "$target" || return 1
  done
}

ring() {  # ring PRESET LABEL
  local begin=$SECONDS
  echo "-- $1: ring $2"
  run_ctest "$logs/$1-$2.log" --preset "$1" -j "$jobs" -L "^$2\$"
  echo "-- $1: ring $2: $((SECONDS - begin)) s"
}

build_cuda() {  # the program, and the tests that need a GPU to run (tests/gpu.sh)
  quietly "$logs/cuda-configure.log" cmake --preset cuda-release -D RANKWISE_BENCH=OFF || return 1
  local targets
  mapfile -t targets < <(ctest --preset cuda-release -N -L '^gpu2?$' |
    sed -n '/^ *Test *#[0-9]*: /{s///;s/\.np[0-9]*$//;p}')
  [[ ${#targets[@]} -gt 0 ]] || return 1
  quietly "$logs/cuda-build.log" \
    cmake --build --preset cuda-release -j "$jobs" --target rankwise "${targets[@]}"
}

nothing_is_left_out() {  # every test carries one of the labels that this script runs
  local unlabelled
  unlabelled=$(ctest --preset cpu-release -N -LE '^(fast|parity|distributed|end_to_end)$' |
    sed -n 's/^ *Test *#[0-9]*: //p')
  [[ -z "$unlabelled" ]] || {
    echo "tests in no ring: $unlabelled"
    return 1
  }
}

phase "packages" launch/install_packages.sh || finish
if $cuda; then phase "build cuda-release" build_cuda; fi
if $fast_only; then
  phase "build cpu-release" build cpu-release || finish
  ring cpu-release fast
  finish
fi

phase "build cpu-release, every header on its own" \
  build cpu-release all_verify_interface_header_sets || finish
phase "every test belongs to a ring" nothing_is_left_out
for label in fast parity distributed end_to_end; do
  ring cpu-release "$label"
done

if $sanitize; then
  if phase "build cpu-debug (sanitizers)" build cpu-debug; then
    begin=$SECONDS
    echo "-- cpu-debug: whole suite"
    run_ctest "$logs/cpu-debug.log" --preset cpu-debug -j "$jobs"
    echo "-- cpu-debug: whole suite: $((SECONDS - begin)) s"
  fi
fi
finish
