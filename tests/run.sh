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

passed=0
failed=0
skipped=0
jobs=$(nproc)
logs=build/test-logs
mkdir -p "$logs"
: >"$logs/skipped.txt"

finish() {
  if [[ -s "$logs/skipped.txt" ]]; then
    echo "-- skipped:"
    sort -u "$logs/skipped.txt"
  fi
  echo "-- whole run: ${SECONDS} s, logs in $logs"
  echo "$passed passed, $failed failed, $skipped skipped"
  [[ $failed -eq 0 && $passed -gt 0 ]]
  exit
}

# phase TITLE COMMAND...: runs it, says how long it took; a failed phase counts as one failed test.
phase() {
  local title=$1 begin=$SECONDS
  shift
  echo "-- $title"
  if "$@"; then
    echo "-- $title: $((SECONDS - begin)) s"
  else
    echo "-- $title: FAILED after $((SECONDS - begin)) s"
    failed=$((failed + 1))
    return 1
  fi
}

quietly() {  # quietly LOG COMMAND...: shows the log only when the command fails
  local log=$1
  shift
  "$@" >"$log" 2>&1 || {
    tail -n 60 "$log"
    return 1
  }
}

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

# Counts the single cases out of ctest's verbose output. A case that ran on several ranks counts
# once, with its worst result; a program that ended without naming a failed case (crash, time-out, no
# case at all) counts as one failed.
count_cases() {
  awk -v skipped_list="$logs/skipped.txt" '
    match($0, /^[0-9]+: \[ +(OK|FAILED|SKIPPED) +\] [A-Za-z0-9_\/]+\.[A-Za-z0-9_\/]+/) {
      line = substr($0, RSTART, RLENGTH)
      number = line; sub(/:.*/, "", number)
      name = line; sub(/^.*\] /, "", name)
      value = line ~ /FAILED/ ? 3 : line ~ /SKIPPED/ ? 2 : 1
      key = number SUBSEP name
      if (value > worst[key]) worst[key] = value
    }
    # "3/90 Test  #3: runtime.rng_test ......   Passed    0.02 sec"
    match($0, /^ *[0-9]+\/[0-9]+ Test +#[0-9]+: [^ ]+/) {
      split(substr($0, RSTART, RLENGTH), parts, "#"); split(parts[2], half, ": ")
      program[half[1]] = half[2]
      bad[half[1]] = $0 !~ / Passed /
    }
    END {
      for (key in worst) {
        split(key, half, SUBSEP); cases[half[1]]++
        if (worst[key] == 1) passed++
        if (worst[key] == 2) {
          skipped++; print "   " program[half[1]] " " half[2] >> skipped_list
        }
        if (worst[key] == 3) { failed++; named[half[1]] = 1 }
      }
      for (number in program) {
        if ((bad[number] && !named[number]) || (!bad[number] && !cases[number])) failed++
      }
      print passed + 0, failed + 0, skipped + 0
    }' "$1"
}

run_ctest() {  # run_ctest PRESET LOG ARGUMENTS...
  local preset=$1 log=$2
  shift 2
  local status=0
  ctest --preset "$preset" -V -j "$jobs" "$@" >"$log" 2>&1 || status=$?
  local p f s
  read -r p f s < <(count_cases "$log")
  passed=$((passed + p))
  skipped=$((skipped + s))
  # The verdict of ctest stands even where counting saw nothing wrong.
  [[ $status -ne 0 && $f -eq 0 ]] && f=1
  failed=$((failed + f))
  echo "   $p passed, $f failed, $s skipped"
  [[ $f -eq 0 ]] || show_failures "$log"
}

show_failures() {  # what each failed program said, without its cases that passed
  local number
  sed -n '/The following tests FAILED/,/^Errors while/p' "$1"
  sed -n '/The following tests FAILED/,$s/^[[:blank:]]*\([0-9]*\) - .*/\1/p' "$1" |
    while read -r number; do
      grep "^$number: " "$1" | grep -vE '\[ +(OK|RUN) +\]|\[-+\]|^[0-9]+: *$' | tail -n 40
    done
}

ring() {  # ring PRESET LABEL
  local begin=$SECONDS
  echo "-- $1: ring $2"
  run_ctest "$1" "$logs/$1-$2.log" -L "^$2\$"
  echo "-- $1: ring $2: $((SECONDS - begin)) s"
}

build_cuda() {
  quietly "$logs/cuda-configure.log" cmake --preset cuda-release -D RANKWISE_TESTS=OFF || return 1
  quietly "$logs/cuda-build.log" cmake --build --preset cuda-release -j "$jobs"
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
    run_ctest cpu-debug "$logs/cpu-debug.log"
    echo "-- cpu-debug: whole suite: $((SECONDS - begin)) s"
  fi
fi
finish
