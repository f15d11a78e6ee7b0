#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Kills and preempts a small run on several ranks again and again, resumes it, and compares the weights
# at its end with those of a run that nobody disturbed.
#   tests/faults.sh RANKWISE [KILLS] [PREEMPTIONS] [RANKS] [SEED]
# KILLS (200): SIGKILL to one rank or to all, at random times; a build with failpoints gets half of them
# at failpoints. PREEMPTIONS (20): USR1 at random times, of one run. Last line: N passed, N failed, N
# skipped.
set -uo pipefail

rankwise=$1
kills=${2:-200}
preemptions=${3:-20}
ranks=${4:-4}
RANDOM=${5:-1}
passed=0
failed=0
skipped=0
points=(start.folder prove.read_back resume.find resume.restore resume.done step.begin step.updated
  step.report save.begin save.begun save.snapshot save.write save.written save.committed commit.vote
  commit.manifest commit.rename commit.renamed commit.pointed commit.trashed export.begin export.written)
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
export OMP_NUM_THREADS=1 OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1

mkdir "$folder/model"
cat > "$folder/model/config.json" <<'JSON'
{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 67, "hidden_size": 32,
 "intermediate_size": 44, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
 "hidden_act": "silu", "max_position_embeddings": 128, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
 "tie_word_embeddings": false, "initializer_range": 0.2, "bos_token_id": 1, "eos_token_id": 2}
JSON
for ((row = 0; row < 24; ++row)); do
  ids=$((row % 60 + 3))
  for ((i = 0; i < 5 + row % 13; ++i)); do ids+=", $(((row * 31 + i * 17) % 67))"; done
  echo "{\"input_ids\": [$ids], \"labels\": [$ids]}"
done > "$folder/rows.jsonl"
cat > "$folder/run.yaml" <<YAML
device: cpu
model: {path: $folder/model, init: random, quant: none}
adapt: [{match: all-linear, method: lora, rank: 4, alpha: 8, dropout: 0.1}]
data: {train: [{path: $folder/rows.jsonl, format: tokens}], packing: false, seq_len: 64}
train: {steps: ${STEPS:-600}, global_batch: 8, micro_batch: 1, seed: 3}
optim: {lr: 1.0e-3}
checkpoint: {dir: $folder/run, every: 20}
YAML

train() {
  mpirun --oversubscribe --bind-to none -np "$ranks" "$rankwise" train "$folder/run.yaml" --resume auto "$@"
}
weights() { sha256sum < "$folder/$1/adapter/adapter_model.safetensors"; }
newest() { find "$folder/run" -maxdepth 1 -name 'step-????????' 2> /dev/null | sort | tail -1; }
# The ranks of the run in $folder/run.
processes() { pgrep -f -- "^$rankwise train $folder/run.yaml"; }
report() {  # VERDICT TEXT
  if [[ $1 == 0 ]]; then ((++passed)); else ((++failed)) && echo "FAILED: $2" && tail -3 "$folder/log"; fi
}

# What a finished run must be; then a new one begins.
compare_end() {
  [[ $(weights run) == "$expected" ]]
  report $? "other weights at the end"
  rm -rf "$folder/run"
}

# The code of a start that nobody disturbs is 0; what was committed before it stays.
after_kill() {  # CODE NEWEST_BEFORE
  wait "$job"
  local code=$?
  if [[ $code == 0 ]]; then return 1; fi
  # Kills before the first step of a start are no lack of progress.
  rm -f "$folder/run/starts.json"
  [[ ! $(newest) < $1 ]]
  report $? "a committed checkpoint was lost: $1, now $(newest)"
}

begin=$(date +%s%N)
train "checkpoint.dir=$folder/whole" > "$folder/log" 2>&1 || { cat "$folder/log"; exit 1; }
milliseconds=$((($(date +%s%N) - begin) / 1000000))
expected=$(weights whole)
echo "undisturbed: $milliseconds ms on $ranks ranks"

has_failpoints=0
RANKWISE_FAILPOINTS=none "$rankwise" train "$folder/run.yaml" --dry-run > /dev/null 2>&1 || has_failpoints=1
at_points=$((has_failpoints ? kills / 2 : 0))
((has_failpoints)) || ((skipped += ${#points[@]}))

for ((kill = 0; kill < kills; ++kill)); do
  before=$(newest)
  if ((kill < at_points)); then
    point=${points[kill % ${#points[@]}]}
    RANKWISE_FAILPOINTS="$point:$((RANDOM % 2 ? 0 : RANDOM % ranks)):$((RANDOM % 3 + 1)):kill" \
      train > "$folder/log" 2>&1 &
    job=$!
  else
    train > "$folder/log" 2>&1 &
    job=$!
    sleep "$(printf '%d.%03d' $((RANDOM % milliseconds / 1000)) $((RANDOM % 1000)))"
    mapfile -t victims < <(processes)
    if ((${#victims[@]} > 0)); then
      if ((RANDOM % 2)); then victims=("${victims[RANDOM % ${#victims[@]}]}"); fi
      kill -KILL "${victims[@]}" 2> /dev/null
    fi
  fi
  after_kill "$before" || compare_end
done
[[ -d $folder/run ]] && { train > "$folder/log" 2>&1 || report 1 "the last start failed"; compare_end; }

for ((stop = 0; stop < preemptions; ++stop)); do
  : > "$folder/log"
  train > "$folder/log" 2>&1 &
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
  if [[ $code == 0 ]]; then compare_end; else [[ $code == 75 ]]; report $? "exit code $code, not 75"; fi
done
[[ -d $folder/run ]] && { train > "$folder/log" 2>&1 || report 1 "the last start failed"; compare_end; }
echo "$passed passed, $failed failed, $skipped skipped"
exit $((failed > 0))
