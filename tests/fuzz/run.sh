#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Builds the fuzzer with clang and lets it loose on one reader after the other, on each for SECONDS
# (default 60), from tests/fuzz/corpus, the hostile inputs and what earlier runs found
# (build/fuzz/grown). An input that crashes, leaks, takes over a second of processor time or 512 MiB
# fails its reader; it stays in build/fuzz/found and belongs, once the reader is mended, into
# tests/fuzz/corpus. Every reader gets
# a line with its executions, summed over its processes; the last line is the total:
#   N passed, N failed, N skipped
# tests/fuzz/run.sh [--jobs N] [--runs N] [--build DIR] [SECONDS [READER...]]
#   --jobs N     processes at a time (default 1), all on one reader; they share what they find
#   --runs N     executions per reader, a tenth of them for training_yaml and store; a reader that
#                has not had them after SECONDS fails
#   --build DIR  takes the fuzzer built in DIR/tests/fuzz, and keeps in DIR what it writes
set -uo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
cd "$root" || exit 1
folder=build/fuzz
built=
jobs=1
runs=0
while [[ ${1:-} == --* ]]; do
  case $1 in
    --jobs) jobs=$2 ;;
    --runs) runs=$2 ;;
    --build) folder=$2 built=yes ;;
    *)
      echo "tests/fuzz/run.sh: unknown option $1" >&2
      exit 2
      ;;
  esac
  shift 2
done
seconds=${1:-60}
shift || true

if [[ -z $built ]]; then
  command -v clang++ >/dev/null || {
    echo "tests/fuzz/run.sh: clang++ is missing (package clang)" >&2
    exit 1
  }
  { cmake -S . -B "$folder" -G Ninja -D CMAKE_CXX_COMPILER=clang++ -D CMAKE_BUILD_TYPE=Debug \
    -D RANKWISE_FUZZ=ON -D RANKWISE_CUDA=OFF -D RANKWISE_BENCH=OFF &&
    cmake --build "$folder"; } >"$folder.log" 2>&1 || {
    tail -n 40 "$folder.log"
    exit 1
  }
fi

readers=("$@")
if [[ ${#readers[@]} -eq 0 ]]; then
  for path in tests/fuzz/corpus/*/; do
    readers+=("$(basename "$path")")
  done
fi

# Inputs are files: in memory they cost least.
[[ -d /dev/shm ]] && export TMPDIR=/dev/shm
# What is freed and the stacks of allocations are kept for reports: much of it takes time and memory.
export ASAN_OPTIONS=detect_leaks=1:quarantine_size_mb=32:malloc_context_size=4:${ASAN_OPTIONS:-}
export LSAN_OPTIONS=print_suppressions=0
trap 'kill $(jobs -p) 2>/dev/null' EXIT

# Runs all processes of one reader and prints its line.
fuzz() {
  local reader=$1 wanted=$runs leaks=1 seed=$((RANDOM * 1000)) begin=$SECONDS
  local pids=() result=0 job log
  local work=$folder/grown/$reader
  mkdir -p "$work" "$folder/found" "$folder/logs"
  rm -f "$folder/logs/$reader-"*
  [[ $reader == training_yaml || $reader == store ]] && wanted=$((runs / 10))
  # HDF5's own memory lives from one input to the next: leaks can be told only at the end.
  [[ $reader == store ]] && leaks=0
  for ((job = 0; job < jobs; ++job)); do
    nice -n 10 "$folder/tests/fuzz/fuzz" --reader="$reader" -seed=$((seed + job)) -max_total_time="$seconds" \
      -runs=$((runs == 0 ? -1 : (wanted + jobs - 1) / jobs)) -timeout=60 -rss_limit_mb=512 \
      -max_len=8192 -detect_leaks="$leaks" -print_final_stats=1 -reload=10 \
      -artifact_prefix="$folder/found/$reader-" "$work" "tests/fuzz/corpus/$reader" \
      "$folder/hostile/$reader" >"$folder/logs/$reader-$job" 2>&1 &
    pids+=($!)
  done
  for job in "${!pids[@]}"; do
    log=$folder/logs/$reader-$job
    wait "${pids[job]}" && continue
    result=1
    grep -m 1 -A 12 -E "ERROR|terminate|what\(\)" "$log" || tail -n 3 "$log"
  done
  cat "$folder/logs/$reader-"* | awk -v reader="$reader" -v wall=$((SECONDS - begin)) -v wanted="$wanted" '
    /^stat::number_of_executed_units:/ { executions += $2 }
    /^processor time:/ { time += $3; if ($7 > slowest) slowest = $7 }
    END {
      printf "%s: %d executions, %d s, %.0f s of processor time, slowest input %.3f s\n",
             reader, executions, wall, time, slowest
      if (executions < wanted) printf "%s: %d executions were asked for\n", reader, wanted
      exit executions < wanted
    }' || result=1
  return $result
}

"$folder/tests/fuzz/seed_corpus" --hostile "$folder/hostile" || exit 1
passed=0
failed=0
for reader in "${readers[@]}"; do
  if fuzz "$reader"; then
    passed=$((passed + 1))
  else
    failed=$((failed + 1))
  fi
done
echo "$passed passed, $failed failed, 0 skipped"
[[ $failed -eq 0 ]]
