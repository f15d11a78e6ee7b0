#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# What a batch system sees of a preempted job: starts it anew, sends USR1 in the middle of a step,
# and prints the milliseconds until the rename that commits the checkpoint, and until the end.
#   [RANKS=N] tests/bench/preemption.sh BINARY FOLDER RUN.yaml [KEY=VALUE...]
# FOLDER: checkpoint.dir of the run; it is removed first.
set -euo pipefail
# shellcheck source=launch/mpi_environment.sh
source "$(dirname "${BASH_SOURCE[0]}")/../../launch/mpi_environment.sh"
binary=$1 folder=$2
shift 2
rm -rf "$folder"
ranks=${RANKS:-1} launcher=()
[[ $ranks -eq 1 ]] || launcher=(mpirun -np "$ranks" --oversubscribe)
"${launcher[@]}" "$binary" train "$@" checkpoint.dir="$folder" >/dev/null &
job=$!
until [[ -s $folder/metrics.jsonl && $(wc -l <"$folder/metrics.jsonl") -ge 5 ]]; do
  kill -0 "$job" || exit 1
  sleep 0.1
done 2>/dev/null
asked=$(date +%s.%N)
kill -USR1 "$job"
code=0
wait "$job" || code=$?
ended=$(date +%s.%N)
newest=$(find "$folder" -maxdepth 1 -name 'step-*' | sort | tail -n 1)
# (a rename is the last change of the folder that it names)
awk -v asked="$asked" -v renamed="$(stat -c %.9Z "$newest")" -v ended="$ended" -v code="$code" \
  'BEGIN { printf "USR1 to commit %.0f ms, to the end %.0f ms, exit code %d\n",
           1e3 * (renamed - asked), 1e3 * (ended - asked), code }'
grep 'checkpoint of step' "$folder/log.txt" | tail -n 1
