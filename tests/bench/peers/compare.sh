#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# One LoRA training step on one GPU, side by side: rankwise (NF4 and bf16 base), then transformers + PEFT
# (bf16 eager and compiled, NF4 where bitsandbytes is installed), on the same shape. Prints the ratios;
# the reports stay in build/gpu-results/peers.
# tests/bench/peers/compare.sh [--build DIR] [--model CONFIG] [--layers N] [--batch B] [--tokens S]
#                              [--rank R] [--recompute none|full] [-- HF_LORA_STEP_ARGUMENT...]
# PYTHON names the interpreter that has torch, transformers and peft (default: python3).
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/../../.."
build=build/gpu
model=tests/bench/shapes/llama_7b.json
layers=
batch=4
tokens=2048
rank=16
recompute=none
while [[ $# -gt 0 ]]; do
  case "$1" in
    --build) build=$2 ;;
    --model) model=$2 ;;
    --layers) layers=$2 ;;
    --batch) batch=$2 ;;
    --tokens) tokens=$2 ;;
    --rank) rank=$2 ;;
    --recompute) recompute=$2 ;;
    --)
      shift
      break
      ;;
    *)
      echo "compare.sh: unknown option $1" >&2
      exit 2
      ;;
  esac
  shift 2
done

python=${PYTHON:-python3}
peers=tests/bench/peers
results=build/gpu-results/peers
mkdir -p "$results"
config=$results/config.json
"$python" - "$model" "$config" "$layers" <<'PYTHON'
import json, sys

values = json.load(open(sys.argv[1]))
if sys.argv[3]:
    values["num_hidden_layers"] = int(sys.argv[3])
json.dump(values, open(sys.argv[2], "w"))
PYTHON

reports=()
for quant in nf4 none; do
  reports+=("$results/rankwise_$quant.json")
  "$build/rankwise" bench step --device cuda --model "$config" --batch "$batch" --tokens "$tokens" \
    --rank "$rank" --quant "$quant" --recompute "$recompute" --seconds 4 \
    --output "$results/rankwise_$quant.json"
done

extra=()
[[ $recompute == none ]] || extra+=(--checkpointing)
"$python" "$peers/hf_lora_step.py" --model "$config" --batch "$batch" --tokens "$tokens" \
  --rank "$rank" --output "$results/hf.json" "${extra[@]}" "$@"
"$python" "$peers/print_ratios.py" "$results/hf.json" "${reports[@]}"
