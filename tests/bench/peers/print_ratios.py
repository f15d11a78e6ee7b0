#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Table of the step reports of rankwise (arguments 2..) and of a peer (argument 1), with ratios."""

import json
import sys


def read(path):
    with open(path, encoding="utf-8") as file:
        return json.load(file)


def rows_of_rankwise(report):
    for row in report["rows"]:
        base = "nf4" if report["quant"] == "nf4" else report["compute"]
        yield {
            "name": f"rankwise, {base} base, recompute {report['recompute']}",
            "milliseconds": row["microseconds"] / 1e3,
            "tokens_per_s": row["tokens_per_s"],
            "peak_bytes": row["peak_bytes"],
        }


def main():
    peer, own = read(sys.argv[1]), [read(path) for path in sys.argv[2:]]
    rows = [row for report in own for row in rows_of_rankwise(report)]
    first = rows[0]
    shape = f"B {peer['batch']}, S {peer['tokens']}, LoRA rank {peer['lora_rank']}"
    versions = ", ".join(f"{k} {v}" for k, v in peer["versions"].items() if v)
    print(f"{peer['model']} ({own[0]['layers']} layers), {shape} on {peer['device']}")
    print(f"{versions}, cuDNN {peer['cudnn']}, attention {peer['attention']}, "
          f"adapters {peer['adapters']}, checkpointing {peer['checkpointing']}")
    print(f"{'step':<48}{'ms':>10}{'tokens/s':>11}{'peak GiB':>10}{'first/this':>12}")
    for row in rows + peer["rows"]:
        if "error" in row:
            print(f"{row['name']:<48}  {row['error']}")
            continue
        ratio = first["tokens_per_s"] / row["tokens_per_s"]
        print(f"{row['name']:<48}{row['milliseconds']:>10.1f}{row['tokens_per_s']:>11.0f}"
              f"{row['peak_bytes'] / 2**30:>10.2f}{ratio:>12.2f}")


if __name__ == "__main__":
    main()
