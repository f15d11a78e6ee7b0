#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Builds the fuzzers with clang and runs one after the other, each for SECONDS (default 60), from
# tests/fuzz/corpus, the hostile inputs and what earlier runs found (build/fuzz/grown). An input that
# crashes, leaks, takes over a second of processor time or 512 MiB fails its fuzzer; it stays in
# build/fuzz/found and belongs, once the reader is mended, into tests/fuzz/corpus. The last line is
# the total:
#   N passed, N failed, N skipped
# tests/fuzz/run.sh [SECONDS [READER...]]
set -uo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
cd "$root" || exit 1
seconds=${1:-60}
shift || true
folder=build/fuzz

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

readers=("$@")
if [[ ${#readers[@]} -eq 0 ]]; then
  for path in tests/fuzz/read_*.cc; do
    name=${path##*/read_}
    readers+=("${name%.cc}")
  done
fi

# Inputs are files: in memory they cost least.
[[ -d /dev/shm ]] && export TMPDIR=/dev/shm
"$folder/tests/fuzz/seed_corpus" --hostile "$folder/hostile" || exit 1
passed=0
failed=0
for reader in "${readers[@]}"; do
  mkdir -p "$folder/grown/$reader" "$folder/found"
  log=$folder/$reader.log
  # HDF5 itself forgets some bytes when it refuses a damaged file.
  leaks=1
  [[ $reader == store ]] && leaks=0
  if ASAN_OPTIONS=detect_leaks=$leaks nice -n 10 "$folder/tests/fuzz/fuzz_$reader" -max_total_time="$seconds" -timeout=60 \
    -rss_limit_mb=512 -max_len=8192 -detect_leaks="$leaks" -print_final_stats=1 -artifact_prefix="$folder/found/$reader-" \
    "$folder/grown/$reader" "tests/fuzz/corpus/$reader" "$folder/hostile/$reader" >"$log" 2>&1; then
    passed=$((passed + 1))
  else
    failed=$((failed + 1))
    grep -m 1 -A 12 -E "ERROR|terminate|what\(\)" "$log"
  fi
  executions=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
  echo "$reader: ${executions:-0} executions"
done
echo "$passed passed, $failed failed, 0 skipped"
[[ $failed -eq 0 ]]
