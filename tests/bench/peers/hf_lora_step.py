#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A LoRA training step of transformers and PEFT on random weights and data, timed on one GPU.

The shape is that of `rankwise bench step --model CONFIG`: all tokens of B documents of S tokens are
trained, LoRA on every linear layer of the blocks, AdamW on the adapters, gradients clipped. Writes one
JSON file; what cannot run here (a package, a kernel) is named in it and on standard error.
"""

import argparse
import contextlib
import gc
import importlib.metadata
import json
import statistics
import sys
import time

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

BACKENDS = {
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "flash": SDPBackend.FLASH_ATTENTION,
}


def read_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="config.json of a Llama")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=2048, help="of one document")
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--base", nargs="+", choices=["bf16", "nf4"], default=["bf16", "nf4"],
                        help="nf4 needs bitsandbytes and is left out without it")
    parser.add_argument("--mode", nargs="+", choices=["eager", "compile"],
                        default=["eager", "compile"], help="of the bf16 base; nf4 runs eager")
    parser.add_argument("--attention", choices=[*BACKENDS, "any"], default="cudnn")
    parser.add_argument("--adapters", choices=["bf16", "fp32"], default="bf16",
                        help="fp32 (PEFT's default) runs under autocast")
    parser.add_argument("--checkpointing", action="store_true")
    parser.add_argument("--warmup", type=int, default=3)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--output", required=True, help="JSON file")
    return parser.parse_args()


def version_of(package):
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def make_base(arguments):
    """A Llama with random bf16 weights, made on the GPU."""
    from transformers import LlamaConfig, LlamaForCausalLM

    with open(arguments.model, encoding="utf-8") as file:
        values = json.load(file)
    config = LlamaConfig.from_dict(values, attn_implementation="sdpa")
    config.use_cache = False
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device("cuda"):
            model = LlamaForCausalLM(config)
    finally:
        torch.set_default_dtype(torch.float32)
    return model


def quantise_nf4(model):
    """Every linear layer of the blocks becomes bitsandbytes' 4-bit one, scales quantised too."""
    import bitsandbytes

    for block in model.model.layers:
        for name, module in list(block.named_modules()):
            if not isinstance(module, torch.nn.Linear):
                continue
            coded = bitsandbytes.nn.Linear4bit(
                module.in_features, module.out_features, bias=module.bias is not None,
                compute_dtype=torch.bfloat16, compress_statistics=True, quant_type="nf4",
                device="meta")
            coded.weight = bitsandbytes.nn.Params4bit(
                module.weight.data, requires_grad=False, compress_statistics=True,
                quant_type="nf4").to("cuda")
            if module.bias is not None:
                coded.bias = module.bias
            parent, _, leaf = name.rpartition(".")
            setattr(block.get_submodule(parent), leaf, coded)
    model.is_loaded_in_4bit = True  # how PEFT knows


def add_adapters(model, arguments):
    from peft import LoraConfig, get_peft_model

    adapters = LoraConfig(r=arguments.rank, lora_alpha=2 * arguments.rank, lora_dropout=0.0,
                          target_modules="all-linear", task_type="CAUSAL_LM")
    if arguments.checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    model = get_peft_model(model, adapters, autocast_adapter_dtype=arguments.adapters == "fp32")
    if arguments.adapters == "bf16":
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.to(torch.bfloat16)
    model.train()
    return model


def time_steps(model, arguments):
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=2e-4, fused=True)
    vocabulary = model.config.vocab_size
    generator = torch.Generator(device="cuda").manual_seed(1)
    ids = torch.randint(vocabulary, (arguments.batch, arguments.tokens), device="cuda",
                        generator=generator)
    attention = (contextlib.nullcontext() if arguments.attention == "any"
                 else sdpa_kernel(BACKENDS[arguments.attention]))
    autocast = torch.autocast("cuda", torch.bfloat16, enabled=arguments.adapters == "fp32")

    def step():
        with autocast:
            loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss

    with attention:
        begin = time.monotonic()
        for _ in range(arguments.warmup):
            loss = step()
        loss = loss.item()
        warmup_seconds = time.monotonic() - begin
        torch.cuda.reset_peak_memory_stats()
        marks = [torch.cuda.Event(enable_timing=True) for _ in range(arguments.steps + 1)]
        marks[0].record()
        for mark in marks[1:]:
            step()
            mark.record()
        torch.cuda.synchronize()
    times = [a.elapsed_time(b) for a, b in zip(marks, marks[1:])]
    milliseconds = statistics.median(times)
    return {
        "milliseconds": milliseconds,
        "best_milliseconds": min(times),
        "tokens_per_s": arguments.batch * arguments.tokens / milliseconds * 1e3,
        "peak_bytes": torch.cuda.max_memory_allocated(),
        "reserved_bytes": torch.cuda.max_memory_reserved(),
        "first_loss": loss,
        "warmup_seconds": warmup_seconds,
    }


def describe(error):
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"


def measure_base(base, arguments):
    model = make_base(arguments)
    if base == "nf4":
        quantise_nf4(model)
        gc.collect()
        torch.cuda.empty_cache()
    model = add_adapters(model, arguments)
    rows = []
    for mode in arguments.mode if base == "bf16" else ["eager"]:
        row = {"name": f"transformers + PEFT, {base} base, {mode}", "base": base, "mode": mode}
        try:
            runnable = torch.compile(model, dynamic=False) if mode == "compile" else model
            row.update(time_steps(runnable, arguments))
        except Exception as error:  # one failed row must not cost the others
            row["error"] = describe(error)
        print(json.dumps(row), file=sys.stderr)
        rows.append(row)
        gc.collect()
        torch.cuda.empty_cache()
    return rows


def main():
    arguments = read_arguments()
    missing = [package for package in ("transformers", "peft") if version_of(package) is None]
    if missing or not torch.cuda.is_available():
        sys.exit(f"hf_lora_step: needs {', '.join(missing) or 'a GPU'}")
    packages = ["torch", "transformers", "peft", "bitsandbytes"]
    report = {
        "device": torch.cuda.get_device_name(),
        "versions": {package: version_of(package) for package in packages},
        "cudnn": torch.backends.cudnn.version(),
        "model": arguments.model,
        "batch": arguments.batch,
        "tokens": arguments.tokens,
        "lora_rank": arguments.rank,
        "attention": arguments.attention,
        "adapters": arguments.adapters,
        "checkpointing": arguments.checkpointing,
        "rows": [],
    }
    for base in arguments.base:
        if base == "nf4" and version_of("bitsandbytes") is None:
            report["rows"].append({"name": "transformers + PEFT, nf4 base", "base": base,
                                   "error": "bitsandbytes is not installed"})
            continue
        try:
            report["rows"] += measure_base(base, arguments)
        except Exception as error:
            report["rows"].append({"name": f"transformers + PEFT, {base} base", "base": base,
                                   "error": describe(error)})
        gc.collect()
        torch.cuda.empty_cache()
    with open(arguments.output, "w", encoding="utf-8") as file:
        json.dump(report, file, indent=2)


if __name__ == "__main__":
    main()
