#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# From nothing to a fine-tuned model on a machine with two CPU cores, in a few minutes and without any
# download of models or data: makes a small corpus, pretrains a tiny Llama on it with GaLore and two ranks,
# quantises it to NF4, fine-tunes LoRA adapters on the frozen 4-bit weights with two ranks, and grades the
# answers before and after. Everything it writes is in build/ and runs/quickstart; run it again at any
# time.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=launch/mpi_environment.sh
source launch/mpi_environment.sh
export OMP_NUM_THREADS=1 # one core per rank

run=runs/quickstart
rankwise=build/cpu-release/rankwise
ranks=2
must_reach=80 # per cent of exactly right answers after fine-tuning
log=$run/quickstart.log

fail() {
  echo "quickstart: $*" >&2
  exit 1
}

# step TITLE COMMAND...: shows title, time and, of a failed command, the end of its output.
step() {
  local title=$1 begin=$SECONDS
  shift
  printf '%-58s' "$title"
  if ! "$@" >"$log" 2>&1; then
    echo "failed"
    tail -n 30 "$log" >&2
    fail "'$*' failed; its whole output is in $log"
  fi
  printf '%4d s\n' $((SECONDS - begin))
}

build() {
  local jobs
  jobs=$(env -u OMP_NUM_THREADS nproc) # (which would count the threads of a rank)
  cmake --preset cpu-release && cmake --build --preset cpu-release -j "$jobs" --target rankwise
}

on_ranks() {
  mpirun -np "$ranks" "$rankwise" "$@"
}

# score FILE ARGUMENTS...: the answers of a model to the evaluation rows, graded.
score() {
  local file=$1
  shift
  "$rankwise" demo "$run/demo" --score "$@" >"$file"
}

exact_match() {
  sed -n 's/^exact match \([0-9.]*\) %.*/\1/p' "$1"
}

launch/install_packages.sh
begin=$SECONDS
rm -rf "$run"
mkdir -p "$run"

step "build" build
step "write a small corpus, a task and an untrained model" "$rankwise" demo "$run/demo"
step "pretrain the model with GaLore, $ranks ranks" \
  on_ranks train configs/quickstart_pretrain.yaml --overwrite
step "quantise it to NF4" "$rankwise" quantize "$run/pretrain/model" -o "$run/base-nf4.h5"
step "grade it before fine-tuning" score "$run/before.txt" "$run/base-nf4.h5"
step "fine-tune LoRA on the NF4 weights, $ranks ranks" \
  on_ranks train configs/quickstart_qlora.yaml --overwrite
step "grade it after fine-tuning" \
  score "$run/after.txt" "$run/base-nf4.h5" --adapter "$run/qlora/adapter"
step "merge the adapter into the weights" \
  "$rankwise" merge "$run/base-nf4.h5" --adapter "$run/qlora/adapter" -o "$run/merged"
step "grade the merged model" score "$run/merged.txt" "$run/merged"

before=$(exact_match "$run/before.txt")
after=$(exact_match "$run/after.txt")
merged=$(exact_match "$run/merged.txt")
echo
echo "Some answers before:"
sed '/^exact match/d' "$run/before.txt"
echo "The same after:"
sed '/^exact match/d' "$run/after.txt"
echo "before   $(tail -n 1 "$run/before.txt")"
echo "after    $(tail -n 1 "$run/after.txt")"
echo "merged   $(tail -n 1 "$run/merged.txt")"
echo
echo "adapter       $run/qlora/adapter  (PEFT format)"
echo "merged model  $run/merged  (Hugging Face format)"
echo "loss curves   $run/pretrain/loss.svg $run/qlora/loss.svg"
echo "whole time    $((SECONDS - begin)) s after installing packages"

reached() { awk -v value="$1" -v least="$2" 'BEGIN { exit !(value >= least) }'; }
reached "$after" "$must_reach" || fail "only $after % exact after fine-tuning ($before % before)"
reached "$merged" "$must_reach" || fail "only $merged % exact after merging"
