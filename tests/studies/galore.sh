#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Pretrains one small Llama (3.4 million weights) from random weights on restaurant texts and the corpus
# of `rankwise demo`, with two CPU ranks: full AdamW, GaLore, GaLore with 8-bit moments, and LoRA beside
# frozen random blocks. Each method runs with each learning rate for the same number of steps; its row shows
# the rate with the lowest evaluation loss, which alone runs with the other seeds too.
#   tests/studies/galore.sh RANKWISE TOKENIZER_FOLDER E2E_FOLDER OUTPUT_FOLDER
# Prints a markdown table, and leaves all rates in OUTPUT_FOLDER/all_rates.txt and the evaluation losses over
# steps in OUTPUT_FOLDER/galore_pretrain.svg. Runs that stand in OUTPUT_FOLDER are not repeated.
set -euo pipefail

rankwise=$1
tokenizer=$2
data=$3
out=$4
steps=300
seeds=(1 2 3)
methods=(adamw galore galore8bit lora)
mkdir -p "$out/model"
# shellcheck source=launch/mpi_environment.sh
source launch/mpi_environment.sh
export OMP_NUM_THREADS=1

hidden=256
rank=$((hidden / 4))
full='{match: "*", method: full}'
galore="{method: galore, galore: {rank: $rank, refresh: 50, scale: 0.25}}"
declare -A rules=(
  [adamw]="[$full]"
  [galore]="[$galore, $full]"
  [galore8bit]="[$galore, $full]"
  [lora]="[{method: lora, rank: $rank, alpha: $rank}, $full]" # embedding, head and norms train fully
)
# GaLore's scale divides the rates of its matrices by four.
declare -A rates=(
  [adamw]="5e-4 1e-3 2e-3" [galore]="8e-3 1.6e-2 3.2e-2" [galore8bit]="8e-3 1.6e-2 3.2e-2" [lora]="2e-3 4e-3 8e-3"
)

write_inputs() {
  local seed
  for seed in 1 2; do # of the texts to train on and to evaluate on
    [[ -d "$out/demo$seed" ]] || "$rankwise" demo "$out/demo$seed" --seed "$seed" >/dev/null
  done
  cp -f "$tokenizer"/tokenizer* "$out/model"
  jq --argjson hidden "$hidden" '. + {hidden_size: $hidden, intermediate_size: 688, num_hidden_layers: 4,
    num_attention_heads: 8, num_key_value_heads: 8, tie_word_embeddings: false, initializer_range: 0.04}' \
    "$tokenizer/config.json" >"$out/model/config.json"
}

# arguments METHOD RATE SEED: of `rankwise train`, in the array `arguments`.
arguments() {
  local optimizer=adamw
  [[ $1 == galore8bit ]] && optimizer=adamw8bit
  arguments=(train configs/pretrain_galore_60m.yaml --overwrite device=cpu "model.path=$out/model"
    "adapt=${rules[$1]}" "optim.name=$optimizer" "optim.lr=$2" optim.min_lr=0 optim.warmup=0.1
    optim.eps=1e-8 optim.max_grad_norm=1 data.seq_len=128 "train.steps=$steps" train.global_batch=8
    train.micro_batch=4 "train.seed=$3" log.every=1
    "data.train=[{path: $data/train.jsonl}, {path: $out/demo1/pretrain.txt, format: text, weight: 0.25}]"
    "data.eval=[{path: $data/eval.jsonl, weight: 0.02}, {path: $out/demo2/pretrain.txt, format: text, weight: 0.006}]"
    data.train_on_prompt=true eval.every=$((steps / 10)) eval.batches=0 "checkpoint.dir=$out/$1-$2-$3")
}

# train METHOD RATE SEED: leaves the run in $out/METHOD-RATE-SEED.
train() {
  [[ -f "$out/$1-$2-$3/summary.txt" ]] && return
  arguments "$1" "$2" "$3"
  mpirun -np 2 "$rankwise" "${arguments[@]}" >"$out/$1-$2-$3.log" 2>&1
}

value() { sed -n "s/^$2  *//p" "$1/summary.txt"; }
loss() { value "$1" "eval loss, last"; }

# memory METHOD PURPOSE: MiB of one rank for it, as planned.
memory() {
  arguments "$1" 1e-3 1
  "$rankwise" "${arguments[@]}" --dry-run |
    awk '$1 == "optimizer" || $1 == "projections" { sum += $3 == "KiB" ? $2 / 1024 : $2 } END { printf "%.1f MiB", sum }'
}

# The median: refreshes are a few of many steps, and other work on the machine disturbs some.
milliseconds() { awk -F, 'NR == 1 { for (i = 1; i <= NF; i++) c[$i] = i; next } { print $c["step_ms"] }' \
  "$1/metrics.csv" | sort -n | awk '{ v[NR] = $1 } END { printf "%.0f", v[int((NR + 1) / 2)] }'; }

# wire RUN: MB that one rank reduces in a step between refreshes.
wire() { awk -F, 'NR == 1 { for (i = 1; i <= NF; i++) c[$i] = i; next } { print $c["wire_bytes"] }' \
  "$1/metrics.csv" | sort -n | head -1 | awk '{ printf "%.1f", $1 / 1e6 }'; }

# curves RUN...: SVG of their evaluation losses over steps.
curves() {
  local run
  for run in "$@"; do
    awk -F, -v name="$(basename "$run")" 'NR == 1 { for (i = 1; i <= NF; i++) c[$i] = i; next }
      $c["eval_loss"] != "" { print name, $c["step"], $c["eval_loss"] }' "$run/metrics.csv"
  done | awk '
    { if (!($1 in color)) { color[$1] = substr("#1f6fb2#c8501e#2a8f4e#8a4fb0", 7 * runs++ + 1, 7); order[runs] = $1 }
      n[$1]++; step[$1, n[$1]] = $2; loss[$1, n[$1]] = $3; if ($2 > last) last = $2
      if (low == "" || $3 < low) low = $3
      if ($3 > high) high = $3 }
    function x(s) { return 64 + s / last * 640 }
    function y(v) { return 356 - (v - low) / (high - low) * 300 }
    END {
      print "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"720\" height=\"400\" font-family=\"sans-serif\"" \
        " font-size=\"12\"><rect width=\"720\" height=\"400\" fill=\"white\"/>"
      print "<text x=\"64\" y=\"22\" font-size=\"14\">evaluation loss over steps: method, learning rate, seed</text>"
      print "<path d=\"M64 36V356H704\" fill=\"none\" stroke=\"#444\"/>"
      for (i = 0; i <= 5; i++) {
        v = low + (high - low) * i / 5; s = last * i / 5
        printf "<path d=\"M64 %.1fH704\" stroke=\"#ddd\"/><text x=\"58\" y=\"%.1f\" text-anchor=\"end\">%.2f</text>\n", y(v), y(v) + 4, v
        printf "<text x=\"%.1f\" y=\"374\" text-anchor=\"middle\">%d</text>\n", x(s), s
      }
      for (r = 1; r <= runs; r++) {
        name = order[r]; path = ""
        for (i = 1; i <= n[name]; i++)
          path = path sprintf("%s%.1f %.1f", i == 1 ? "M" : "L", x(step[name, i]), y(loss[name, i]))
        printf "<path d=\"%s\" fill=\"none\" stroke=\"%s\" stroke-width=\"1.5\"/>\n", path, color[name]
        printf "<text x=\"690\" y=\"%d\" text-anchor=\"end\" fill=\"%s\">%s %.3f</text>\n", 40 + 18 * r, color[name], name, loss[name, n[name]]
      }
      print "</svg>"
    }'
}

write_inputs
: >"$out/all_rates.txt"
best_runs=()
table=$(mktemp)
trap 'rm -f "$table"*' EXIT
for method in "${methods[@]}"; do
  for rate in ${rates[$method]}; do
    train "$method" "$rate" "${seeds[0]}"
    echo "$method $rate $(loss "$out/$method-$rate-${seeds[0]}")"
  done | tee -a "$out/all_rates.txt" | sort -n -k 3 | head -1 >"$table.best"
  best=$(awk '{ print $2 }' "$table.best")
  losses=()
  for seed in "${seeds[@]}"; do
    train "$method" "$best" "$seed"
    losses+=("$(loss "$out/$method-$best-$seed")")
  done
  run="$out/$method-$best-${seeds[0]}"
  best_runs+=("$run")
  printf '%s\n' "${losses[@]}" | awk -v row=" $method | $best" '{ sum += $1; all = all " " sprintf("%.4f", $1) }
    END { printf "%.6f|%s |%s |\n", sum / NR, row, all }' >"$table.row"
  echo "$(cat "$table.row") $(memory "$method") | $(value "$run" "peak memory per rank") |" \
    "$(wire "$run") | $(milliseconds "$run") |" >>"$table"
done
curves "${best_runs[@]}" >"$out/galore_pretrain.svg"
echo "| method | learning rate | eval loss of each seed | optimizer | whole rank | MB reduced | ms per step | perplexity | over AdamW |"
echo "|---|---|---|---|---|---|---|---|---|"
awk -F'|' 'NR == 1 { base = $1 } { mean = $1; sub(/^[^|]*/, "")
  printf "%s %.3f | %+.1f %% |\n", $0, exp(mean), 100 * (exp(mean - base) - 1) }' "$table"
