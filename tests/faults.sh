#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Kills and preempts a small run on several ranks again and again, resumes it, and compares the weights
# at its end with those of a run that nobody disturbed.
#   tests/faults.sh RANKWISE [KILLS] [PREEMPTIONS] [RANKS] [SEED] [JOBS]
# KILLS (200): SIGKILL to one rank or to all, at random times; a build with failpoints gets half of them
# at failpoints, each on every rank that reaches it. PREEMPTIONS (20): USR1 at random times, of one run.
# JOBS (1): so many runs at a time, each with its share of the kills; the first has the preemptions.
# In the environment: STEPS (600) of a run; TENSOR (RANKS), its parallel.tensor; DEADLINE (300), the seconds
# in which each start must end, with all its ranks. A launcher that lives on when all its ranks have been
# killed is shown and counted, but it is PMIx that failed then. Last line: N passed, N failed,
# N skipped; skipped are kills at failpoints that were not reached.
set -uo pipefail
# shellcheck source=tests/support/launch.sh
source "$(dirname "$0")/support/launch.sh"

rankwise=$1
kills=${2:-200}
preemptions=${3:-20}
ranks=${4:-4}
seed=${5:-1}
jobs=${6:-1}
deadline=${DEADLINE:-300}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

if ((jobs > 1)); then
  for ((job = 0; job < jobs; ++job)); do
    SHARE="$job $jobs" "$0" "$rankwise" "$kills" "$preemptions" "$ranks" "$((seed + job))" \
      > "$folder/$job" 2>&1 &
  done
  wait
  sed -s '$d' "$folder"/*
  awk -v seconds="$SECONDS" -v jobs="$jobs" '
    /^kills at failpoints: / { points += $4; times += $8; stops += $10; resumes += $12; ends += $15
      hung += $18 }
    / passed, / { passed += $1; failed += $3; skipped += $5; --jobs }
    END {
      printf "all: kills at failpoints: %d, at random times: %d, preemptions: %d, ", points, times, stops
      printf "resumes: %d, ends compared: %d, launchers hung: %d, %d s\n", resumes, ends, hung, seconds
      printf "%d passed, %d failed, %d skipped\n", passed, failed + jobs, skipped
      exit (failed + jobs > 0)
    }' "$folder"/*
  exit
fi

read -r share shares <<< "${SHARE:-0 1}"
RANDOM=$seed
passed=0
failed=0
skipped=0
declare -A count=([points]=0 [times]=0 [stops]=0 [resumes]=0 [ends]=0 [hung]=0)
export OMP_NUM_THREADS=1 OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
export OMPI_MCA_mpi_yield_when_idle=1 # more ranks than cores

# What every rank reaches, and what only rank 0.
on_all=(prove.read_back resume.find resume.restore resume.done step.begin step.updated step.report save.begin
  save.begun save.snapshot save.write save.written save.committed commit.vote export.begin)
on_first=(start.folder commit.manifest commit.rename commit.renamed commit.pointed commit.trashed
  export.written)
points=()
for ((rank = 0; rank < ranks; ++rank)); do points+=("${on_all[@]/%/:$rank}"); done
points+=("${on_first[@]/%/:0}")

mkdir "$folder/model"
cat > "$folder/model/config.json" <<'JSON'
{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 67, "hidden_size": 32,
 "intermediate_size": 44, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 4,
 "hidden_act": "silu", "max_position_embeddings": 128, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
 "tie_word_embeddings": false, "initializer_range": 0.2, "bos_token_id": 1, "eos_token_id": 2}
JSON
for ((row = 0; row < 24; ++row)); do
  ids=$((row % 60 + 3))
  for ((i = 0; i < 5 + row % 13; ++i)); do ids+=", $(((row * 31 + i * 17) % 67))"; done
  echo "{\"input_ids\": [$ids], \"labels\": [$ids]}"
done > "$folder/rows.jsonl"
# Trained weights are split among tensor ranks, so that each of them writes.
cat > "$folder/run.yaml" <<YAML
device: cpu
model: {path: $folder/model, init: random, quant: none}
parallel: {tensor: ${TENSOR:-$ranks}}
adapt:
  - {match: "*.o_proj", method: full}
  - {match: all-linear, method: lora, rank: 4, alpha: 8, dropout: 0.1}
data:
  train: [{path: $folder/rows.jsonl, format: tokens}]
  eval: [{path: $folder/rows.jsonl, format: tokens}]
  packing: false
  seq_len: 64
eval: {every: 7, batches: 2}
train: {steps: ${STEPS:-600}, global_batch: 8, micro_batch: 2, seed: 3}
optim: {lr: 1.0e-3}
checkpoint: {dir: $folder/run, every: 20}
YAML

pattern="^$(literally "$rankwise train $folder/run.yaml")"
train() {
  launch "$deadline" "$pattern" mpirun --oversubscribe --bind-to none -np "$ranks" \
    "$rankwise" train "$folder/run.yaml" --resume auto "$@" > "$folder/log" 2>&1
}
weights() {
  cat "$folder/$1/adapter/adapter_model.safetensors" "$folder/$1/model/model.safetensors" 2>&1 | sha256sum
}
newest() { find "$folder/run" -maxdepth 1 -name 'step-????????' 2> /dev/null | sort | tail -1; }
# The ranks of the run in $folder/run.
processes() { pgrep -f -- "$pattern"; }
report() {  # VERDICT TEXT
  if [[ $1 == 0 ]]; then
    ((++passed))
  else
    ((++failed))
    echo "FAILED: $2"
    grep "^hung: " "$folder/log" || tail -3 "$folder/log"
  fi
}
note_resume() { grep -q "goes on after" "$folder/log" && ((++count[resumes])); }

# What a finished run must be; then a new one begins.
compare_end() {
  [[ $(weights run) == "$expected" ]]
  report $? "other weights at the end"
  ((++count[ends]))
  rm -rf "$folder/run"
}

finish_run() {
  [[ -d $folder/run ]] || return
  train || report 1 "a start that nobody disturbed ends with $?"
  note_resume
  compare_end
}

# Whether the start in the background was killed; one that was not has ended. What was committed stays.
was_killed() {  # NEWEST_BEFORE
  wait "$job"
  local code=$?
  note_resume
  if [[ $code == 0 ]]; then
    compare_end
    return 1
  fi
  # Kills before the first step of a start are no lack of progress.
  rm -f "$folder/run/starts.json"
  [[ $code == 137 || ($code == 125 && ${#victims[@]} -gt 0) ]]
  report $? "exit code $code, not 137, after a kill"
  [[ $code == 125 ]] && grep "^hung: " "$folder/log" && ((++count[hung]))
  [[ ! $(newest) < $1 ]]
  report $? "a committed checkpoint was lost: $1, now $(newest)"
}

kill_at_point() {  # NAME:RANK
  local hit=$((RANDOM % 3 + 1)) before victims=("$1")
  case $1 in
    start.* | prove.*) hit=1 && finish_run ;;
    resume.* | export.*) hit=1 ;;
  esac
  if [[ $1 == resume.[rd]* && -z $(newest) ]]; then RANKWISE_FAILPOINTS=step.report:0:1:kill train; fi
  before=$(newest)
  RANKWISE_FAILPOINTS="$1:$hit:kill" train &
  job=$!
  was_killed "$before" && ((++count[points]))
}

kill_at_random() {
  local before victims
  before=$(newest)
  train &
  job=$!
  sleep "$(printf '%d.%03d' $((RANDOM % milliseconds / 1000)) $((RANDOM % 1000)))"
  mapfile -t victims < <(processes)
  if ((${#victims[@]} > 0)); then
    if ((RANDOM % 2)); then victims=("${victims[RANDOM % ${#victims[@]}]}"); fi
    kill -KILL "${victims[@]}" 2> /dev/null
  fi
  was_killed "$before" && ((++count[times]))
}

preempt() {
  local victims code
  : > "$folder/log"
  train &
  job=$!
  until grep -q -e "goes on after" -e "checkpoint of step 0" "$folder/log"; do
    kill -0 "$job" 2> /dev/null || break
    sleep 0.05
  done
  sleep "0.0$((RANDOM % 10))"
  mapfile -t victims < <(processes)
  ((${#victims[@]} > 0)) && kill -USR1 "${victims[RANDOM % ${#victims[@]}]}"
  wait "$job"
  code=$?
  note_resume
  if [[ $code == 0 ]]; then
    compare_end
    return 1
  fi
  rm -f "$folder/run/starts.json"  # nor are stops before it
  [[ $code == 75 ]]
  report $? "exit code $code, not 75"
  ((++count[stops]))
}

begin=$(date +%s%N)
train "checkpoint.dir=$folder/whole" || { cat "$folder/log"; exit 1; }
milliseconds=$((($(date +%s%N) - begin) / 1000000))
expected=$(weights whole)
echo "undisturbed: $milliseconds ms on $ranks ranks"

has_failpoints=0
RANKWISE_FAILPOINTS=none "$rankwise" train "$folder/run.yaml" parallel.tensor=1 --dry-run > /dev/null 2>&1 ||
  has_failpoints=1

# A start that ends before its kill has no more steps to be killed in: the next one begins anew.
for ((kill = share; kill < kills; kill += shares)); do
  if ((has_failpoints && kill < kills / 2)); then
    point=${points[kill % ${#points[@]}]}
    kill_at_point "$point" || kill_at_point "$point" || { ((++skipped)); echo "not reached: $point"; }
  else
    tries=10
    until kill_at_random; do ((--tries)) || { ((++skipped)); echo "not killed"; break; }; done
  fi
done
finish_run
if ((share == 0)); then
  for ((stop = 0; stop < preemptions; ++stop)); do preempt || preempt; done
  finish_run
fi
echo "kills at failpoints: ${count[points]}, at random times: ${count[times]}, preemptions: ${count[stops]}," \
  "resumes: ${count[resumes]}, ends compared: ${count[ends]}," \
  "launchers hung: ${count[hung]}, $SECONDS s"
echo "$passed passed, $failed failed, $skipped skipped"
exit $((failed > 0))
