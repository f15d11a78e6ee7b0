# SPDX-License-Identifier: Apache-2.0
"""All-reduce of fp32 by torch.distributed over NCCL: bus bandwidth, 2 (n - 1) / n of the bytes over the
time. torchrun --nproc-per-node 2 tests/bench/peers/allreduce.py"""

import os
import statistics

import torch
import torch.distributed as dist


def seconds_of(tensor: torch.Tensor, calls: int) -> float:
    marks = [torch.cuda.Event(enable_timing=True) for _ in range(calls + 1)]
    marks[0].record()
    for mark in marks[1:]:
        dist.all_reduce(tensor)
        mark.record()
    torch.cuda.synchronize()
    times = [a.elapsed_time(b) * 1e-3 for a, b in zip(marks, marks[1:])]
    return statistics.median(times)


def main() -> None:
    torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl")
    ranks = dist.get_world_size()
    for exponent in range(20, 30):
        tensor = torch.zeros(2**exponent // 4, device="cuda")
        seconds_of(tensor, 5)
        dist.barrier()
        seconds = torch.tensor(seconds_of(tensor, 50), device="cuda")
        dist.all_reduce(seconds, dist.ReduceOp.MAX)
        bus = 2 * (ranks - 1) / ranks * 2**exponent / seconds.item() * 1e-9
        if dist.get_rank() == 0:
            print(f"torch all-reduce {2 ** (exponent - 20):>4} MiB {seconds.item() * 1e6:>10.1f} us {bus:>8.1f} GB/s")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
