#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Makes the calls on files that a small run and its resume make in their folder fail, one in each run,
# on one rank, and looks at what the run does then.
#   tests/io_faults.sh RANKWISE FAULTY_IO.so [RANKS] [JOBS] [REPEATS] [SITES]
# RANKS (4), JOBS (1): runs at a time. Of the calls of one name on one file the first one fails, and of
# the further ones every REPEATS-th (1: all). SITES: a pattern of SCENARIO:RANK:ERROR:CALL:FILE (*).
# Every run must
#   - end within DEADLINE (in the environment; 30) seconds with all its processes: with 74 and one
#     line that names rank, path and error, and what helps a full disk, or with 0 and a warning like that;
#     a call that went half way is continued without a word;
#   - leave the newest checkpoint that it reported, so that --resume auto goes on from it, or from a
#     newer one, without a warning, and ends with the weights of a run that nothing disturbed.
# Last line: N passed, N failed, N skipped; skipped are faults that the run did not meet.
set -uo pipefail
# shellcheck source=tests/support/launch.sh
source "$(dirname "$0")/support/launch.sh"

rankwise=$1
library=$2
ranks=${3:-4}
jobs=${4:-1}
repeats=${5:-1}
sites=${6:-*}
deadline=${DEADLINE:-30}
folder=$(realpath "$(mktemp -d)")
trap 'rm -rf "$folder"' EXIT
export OMP_NUM_THREADS=1 OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
export OMPI_MCA_mpi_yield_when_idle=1 # more ranks than cores
export ASAN_OPTIONS=verify_asan_link_order=0:detect_leaks=0

mkdir "$folder/model"
touch "$folder/verdicts"
cat > "$folder/model/config.json" <<'JSON'
{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 67, "hidden_size": 32,
 "intermediate_size": 44, "num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 4,
 "hidden_act": "silu", "max_position_embeddings": 128, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
 "tie_word_embeddings": false, "initializer_range": 0.2, "bos_token_id": 1, "eos_token_id": 2}
JSON
for ((row = 0; row < 8; ++row)); do
  ids=$((row % 60 + 3))
  for ((i = 0; i < 5 + row % 13; ++i)); do ids+=", $(((row * 31 + i * 17) % 67))"; done
  echo "{\"input_ids\": [$ids], \"labels\": [$ids]}"
done > "$folder/rows.jsonl"
# Trained weights are split, so that every rank writes. Old checkpoints go, and both kinds of results are
# written.
cat > "$folder/run.yaml" <<YAML
device: cpu
model: {path: $folder/model, init: random, quant: none}
parallel: {tensor: $ranks}
adapt:
  - {match: "*.q_proj", method: lora, rank: 2, alpha: 4}
  - {match: "*.o_proj", method: full}
data:
  train: [{path: $folder/rows.jsonl, format: tokens}]
  eval: [{path: $folder/rows.jsonl, format: tokens}]
  packing: false
  seq_len: 64
train: {steps: 3, global_batch: 4, micro_batch: 4, seed: 3}
optim: {lr: 1.0e-2}
eval: {every: 1, batches: 1}
checkpoint: {every: 1, keep: 2}
YAML

train() {  # RUN ARGUMENT...: with the library preloaded
  local run=$1
  shift
  launch "$deadline" "$(pattern "$run")" mpirun --oversubscribe --bind-to none -x LD_PRELOAD="$library" \
    -np "$ranks" "$rankwise" train "$folder/run.yaml" "checkpoint.dir=$run" "$@"
}
pattern() { echo "^$(literally "$rankwise") train .*checkpoint\.dir=$(literally "$1")( |\$)"; }
processes() { pgrep -f -- "$(pattern "$1")"; }
weights() { cat "$1/adapter/adapter_model.safetensors" "$1/model/model.safetensors" 2>&1 | sha256sum; }
newest() { find "$1" -maxdepth 1 -name 'step-????????' 2> /dev/null | sort | tail -1; }
last_reported() { sed -n 's/.*checkpoint of step \([0-9]*\):.*/\1/p' "$@" | sort -n | tail -1; }

# Calls that may fail without a word: HDF5 looks whether the file is there before it makes it; without
# its count of starts a run counts from one; and a lease that is left is taken over by the next start.
is_harmless() {  # CALL FILE
  case $1:$2 in
    open:*.h5.tmp-\* | open:*/starts.json | read:*/starts.json) ;;
    open:*/lease.json | read:*/lease.json | unlink:*/lease.json*) ;;
    *) false ;;
  esac
}

# What a scenario starts from, and how.
prepare() {  # SCENARIO RUN
  if [[ $1 == resume ]]; then cp -r "$folder/stopped" "$2"; fi
}
arguments() { if [[ $1 == resume ]]; then echo --resume auto; fi; }

# How a call may fail.
errors_of() {
  case $1 in
    write | pwrite) echo ENOSPC EIO SHORT ;;
    read | pread) echo EIO SHORT ;;
    create | mkdir | rename* | ftruncate | link) echo ENOSPC EIO ;;
    *) echo EIO ;;
  esac
}

# Numbers of processes and names of hosts differ from run to run.
as_pattern() { sed -E 's/(lease\.json\.)[^ ]*-[0-9]+/\1*/; s/\.tmp-(p?[0-9]+(-[0-9]+)?)/.tmp-*/g'; }

# Lines "SCENARIO RANK ERROR NUMBER CALL FILE", NUMBER among the calls of that name on that file.
list_cases() {  # SCENARIO
  local rank number call file error
  declare -A number_of
  for ((rank = 0; rank < ranks; ++rank)); do
    number_of=()
    while read -r call file; do
      number=$((number_of["$call $file"] += 1))
      (((number - 1) % repeats == 0)) || continue
      for error in $(errors_of "$call"); do
        # shellcheck disable=SC2053  # a pattern
        [[ $1:$rank:$error:$call:${file#*/} == $sites ]] && echo "$1 $rank $error $number $call $file"
      done
    done < <(cut -d' ' -f2- "$folder/listed.$1.$rank.calls" | sed "s#$folder/listed.$1.$rank#RUN#" | as_pattern)
  done
}

say_failed() {  # TEXT
  local text
  text=$(grep -h -i -e "error" -e "warning" -e "^hung: " "$run.out" "$run.err" "$run.next" 2> /dev/null |
    cut -c -400 | sed 's/^/    /')
  printf '%s\n' "FAILED: $case: $1" "$text"
}

# The message about the fault: of the rank, the file and the error, with advice where that helps.
names_fault() {  # FILE WITH THE MESSAGE
  local text="Input/output error" path
  [[ $error == ENOSPC ]] && text="No space left on device"
  path=$(sed -n "s/^$number $call //p" "$run.calls" | head -1)
  [[ $call == unlinkat ]] && path=${path%/*} # a folder is removed as a whole
  grep -F -- "$text" "$1" | grep -F -- "${path%.tmp-*}" |
    if ((ranks > 1)); then grep -E "ranks? ([0-9]+, )*$rank\b"; else grep .; fi |
    if [[ $error == ENOSPC ]]; then grep -q "; free space or quota there, "; else grep -q .; fi
}

end_is_right() {  # CODE
  case $1 in
    0) grep -i -h warning "$run.out" "$run.err" > "$run.warnings"
      [[ $error == SHORT ]] || is_harmless "$call" "$file" ||
        names_fault "$run.warnings" ;;
    74) grep "^rankwise: error: " "$run.err" > "$run.error"
      [[ $(wc -l < "$run.error") == 1 ]] && names_fault "$run.error" ;;
    *) false ;;
  esac
}

run_case() {  # SCENARIO RANK ERROR NUMBER CALL FILE
  local scenario=$1 rank=$2 error=$3 number=$4 call=$5 file=$6 case="$*" run=$folder/case$BASHPID
  local begin=$SECONDS code reported kept
  prepare "$scenario" "$run"
  # shellcheck disable=SC2046  # words
  FAULTY_IO_ROOT=$run FAULTY_IO_RANK=$rank FAULTY_IO_CALL=$number FAULTY_IO_ERROR=$error \
    FAULTY_IO_MATCH="$call $run${file#RUN}" FAULTY_IO_LIST=$run.calls \
    train "$run" $(arguments "$scenario") > "$run.out" 2> "$run.err"
  code=$?
  grep -q "^$number " "$run.calls" 2> /dev/null || { echo "SKIPPED: $case"; rm -rf "$run"*; return; }
  while [[ -n $(processes "$run") ]] && ((SECONDS - begin < deadline)); do sleep 0.1; done
  if [[ $code == 12[45] || $code == 137 || -n $(processes "$run") ]]; then
    say_failed "does not end"
    processes "$run" | xargs -r kill -KILL
  elif ! end_is_right "$code"; then
    say_failed "exit code $code"
  else
    reported=$(last_reported "$run.out" "$run/log.txt" 2> /dev/null)
    [[ -z $reported && $scenario == resume ]] && reported=2 # stopped
    kept=$(newest "$run")
    if [[ -n $reported && ! ${kept##*-} -ge $((reported)) ]]; then
      say_failed "step $reported was committed, the newest is $kept"
    elif ! train "$run" --resume auto > "$run.next" 2>&1; then
      say_failed "cannot be resumed"
    elif [[ $(weights "$run") != "$expected" ]]; then
      say_failed "other weights at the end"
    elif grep -q "WARNING: .*checkpoint" "$run.next"; then
      say_failed "a checkpoint is passed over"
    else
      echo "passed: $case"
    fi
  fi
  rm -rf "$run"*
}

list_calls() {  # SCENARIO RANK
  local run=$folder/listed.$1.$2
  prepare "$1" "$run"
  # shellcheck disable=SC2046  # words
  FAULTY_IO_ROOT=$run FAULTY_IO_RANK=$2 FAULTY_IO_LIST=$run.calls train "$run" $(arguments "$1") > "$run.out" 2>&1 ||
    cat "$run.out"
}

list_all_calls() {  # SCENARIO
  local rank
  for ((rank = 0; rank < ranks; ++rank)); do
    list_calls "$1" "$rank" &
    ((jobs > 1)) || wait
  done
  wait
  for ((rank = 0; rank < ranks; ++rank)); do
    [[ $(weights "$folder/listed.$1.$rank") == "${expected:=$(weights "$folder/listed.$1.$rank")}" ]] || exit 1
  done
}

list_all_calls new
# A run that ended when step 3 was to be saved, what killed runs leave beside it, and its old lease.
FAULTY_IO_ROOT=$folder/stopped FAULTY_IO_RANK=0 FAULTY_IO_CALL=1 FAULTY_IO_ERROR=EIO \
  FAULTY_IO_MATCH="mkdir $folder/stopped/step-00000003.tmp-*" train "$folder/stopped" > "$folder/out" 2>&1
[[ $(newest "$folder/stopped") == */step-00000002 ]] || { cat "$folder/out"; exit 1; }
mkdir "$folder/stopped/"{step-00000003.tmp-p1-0,.trash-step-00000000,adapter}
touch "$folder/stopped/"{step-00000003.tmp-p1-0,.trash-step-00000000,adapter}/left
list_all_calls resume

{ list_cases new; list_cases resume; } > "$folder/cases"
echo "$(wc -l < "$folder/cases") faults on $ranks ranks"
running=0
while read -r -a case; do
  ((running >= jobs)) && { wait -n; ((--running)); }
  run_case "${case[@]}" >> "$folder/verdicts" 2>&1 &
  ((++running))
done < "$folder/cases"
wait

count() { grep -c "^$1: " "$folder/verdicts"; }
grep -v "^passed: " "$folder/verdicts"
awk '/^(passed|FAILED|SKIPPED): / { of = $2 ", rank " $3; ++all[of]; ++number[of $1] }
  END { for (of in all) print of ": " number[of "passed:"] + 0 " passed, " number[of "FAILED:"] + 0 \
    " failed, " number[of "SKIPPED:"] + 0 " skipped" }' "$folder/verdicts" | sort
echo "wall time: $SECONDS s"
echo "$(count passed) passed, $(count FAILED) failed, $(count SKIPPED) skipped"
exit $(($(count FAILED) > 0))
