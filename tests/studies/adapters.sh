#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Compares adapter methods on one task: a small pretrained Llama (stories260k) learns E2E restaurant
# texts. Each method runs with several learning rates and seeds; its row shows the rate with the best mean.
#   tests/studies/adapters.sh RANKWISE MODEL_FOLDER E2E_FOLDER OUTPUT_FOLDER
# Prints a markdown table: evaluation loss over the seeds, time of a step, trained parameters. Runs that
# stand in OUTPUT_FOLDER are not repeated.
set -euo pipefail

rankwise=$1
model=$2
data=$3
out=$4
seeds=(0 1 2)
steps=300
mkdir -p "$out"
export OMP_NUM_THREADS=1

lora="rank: 8, alpha: 16"
declare -A rules=(
  [lora]="{$lora}"
  [dora]="{method: dora, $lora}"
  [rslora]="{$lora, rslora: true}"
  [loraplus]="{$lora, lr_ratio_b: 16}"
  [adalora]="{method: adalora, alpha: 32, adalora: {init_rank: 16, target_rank: 8, orth_weight: 0.1}}"
  [full]="{method: full}"
)
# LoRA+ moves B by 16 times the rate.
declare -A rates=(
  [lora]="1e-3 2e-3 4e-3 8e-3" [dora]="1e-3 2e-3 4e-3 8e-3" [rslora]="1e-3 2e-3 4e-3 8e-3"
  [loraplus]="2e-4 4e-4 8e-4 1.6e-3" [adalora]="2e-3 4e-3 8e-3 1.6e-2" [full]="5e-4 1e-3 2e-3 4e-3"
)

# train METHOD RATE SEED: leaves the run in $out/METHOD-RATE-SEED.
train() {
  local run="$out/$1-$2-$3" quant=nf4
  [[ $1 == full ]] && quant=none
  [[ -f "$run/summary.txt" ]] && return
  mpirun -np 2 "$rankwise" train configs/stories260k_e2e.yaml --overwrite \
    "model.path=$model" "model.quant=$quant" "adapt.0=${rules[$1]}" "train.steps=$steps" \
    "train.seed=$3" "optim.lr=$2" "data.train.0.path=$data/train.jsonl" \
    "data.eval.0.path=$data/eval.jsonl" eval.every=0 eval.batches=64 \
    "checkpoint.dir=$run" >"$run.log" 2>&1
}

value() { sed -n "s/^$2  *//p" "$1/summary.txt"; }
loss() { value "$1" "eval loss, last"; }
milliseconds() { awk -F, 'NR == 1 { for (i = 1; i <= NF; i++) c[$i] = i; next } { s += $c["step_ms"]; n++ }
  END { printf "%.1f", s / n }' "$1/metrics.csv"; }

echo "| method | learning rate | eval loss, mean of ${#seeds[@]} seeds | lowest to highest | ms per step | trained |"
echo "|---|---|---|---|---|---|"
for method in lora rslora loraplus dora adalora full; do
  for rate in ${rates[$method]}; do
    losses=()
    for seed in "${seeds[@]}"; do
      train "$method" "$rate" "$seed"
      losses+=("$(loss "$out/$method-$rate-$seed")")
    done
    run="$out/$method-$rate-${seeds[0]}"
    trained=$(sed -n 's/.*: \([0-9]*\) of .* elements trained.*/\1/p' "$run/log.txt" | head -1)
    printf '%s\n' "${losses[@]}" | sort -n | awk -v m="$method" -v r="$rate" -v t="$trained" \
      -v s="$(milliseconds "$run")" '{ v[NR] = $1; sum += $1 } END {
        printf "%.4f| %s | %s | %.4f | %.4f to %.4f | %s | %d |\n", sum / NR, m, r, sum / NR, v[1], v[NR], s, t }'
  done | tee -a "$out/all_rates.txt" | sort -n | head -1 | sed 's/^[^|]*//'
done
