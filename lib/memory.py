"""A rollout's memory, computed before the rollout starts.

The KV cache of the episodes that are played together is allocated at once and in full. So the free memory decides how
many episodes are played together. Where not even one fits, one line says how much memory it takes.
"""

import sys
from dataclasses import dataclass
from functools import cache

import torch

from lib import distributed

SHARE = 0.9  # of the free memory that a rollout may take


class TooSmall(ValueError):
    """There is not enough memory for what is to be done next. The message is one line with the numbers."""


@dataclass
class Rows:
    """How many episodes a run plays at once.

    Numbers that are computed with other rows beside them round otherwise. So what memory once made fewer stays so, or
    no resumed run would be the one that was not stopped.
    """

    kept: int = 0  # at most so many; 0: memory has sufficed
    played: int = 0  # the most since the last line of metrics.jsonl


def of_rollout(cfg, rows, context, itemsize, prefill):
    """Bytes of `rows` episodes of `context` tokens: the cache, and the most that one step needs on top of it.

    cfg: checkpoints.Config; itemsize: bytes per number; prefill: tokens of one prefill batch (Session.PREFILL).
    """
    cache = 2 * cfg.layers * rows * cfg.kv_heads * (context + 1) * cfg.head_dim * itemsize
    # Prefill: activations of one layer, the mask, the rows' keys and values of that layer.
    mask = context * (1 + itemsize + cfg.heads // cfg.kv_heads * itemsize)  # bools, numbers, numbers per query head
    read = prefill * ((4 * cfg.dim + 3 * cfg.ffn) * itemsize + mask)
    decode = 6 * rows * cfg.vocab_size * 4  # logits and Gumbel noise, float32 and int32
    return cache + cache // cfg.layers + max(read, decode) + decode  # the last term: the memory of recorded steps


def free(device):
    """Bytes that are free on a device; on a CPU those that the system calls available."""
    device = torch.device(device)
    if device.type == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + cached
    try:
        with open("/proc/meminfo") as file:
            available = next(int(line.split()[1]) * 1024 for line in file if line.startswith("MemAvailable"))
            return available // distributed.this.here  # the processes of a run share it
    except (OSError, StopIteration):  # not Linux: no figure, no limit
        return 2**60


def peak_mb():
    """The most memory that this process has held, in MB; 0 where the system does not say (Windows)."""
    try:
        import resource
    except ImportError:
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak // (2**20 if sys.platform == "darwin" else 2**10)  # bytes on macOS, else KB


def gpu_peak_mb():
    """The most memory that tensors had on the card since the last call, in MB; 0 without a card."""
    if not torch.cuda.is_available():
        return 0
    peak = torch.cuda.max_memory_allocated() // 2**20
    torch.cuda.reset_peak_memory_stats()
    return peak


def rows_that_fit(policy, rows, context, prefill):
    """How many of `rows` episodes can be played at once; ValueError with the numbers where not one can."""
    run = getattr(policy, "rows", None) or Rows()
    rows = min(rows, run.kept or rows)
    # A number that is kept may take the memory that it once left free, or it would become smaller again and again.
    played, needed, available = fitting(policy, rows, context, prefill, 1.0 if run.kept else SHARE)
    if not played:
        raise TooSmall(f"one episode of {context} tokens takes {needed(1) / 1e9:.1f} GB, {available / 1e9:.1f} GB "
                       f"are free on {policy.device}; lower --context")
    if played < rows:
        note(rows, context, round(needed(rows) / 1e9, 1), round(available / 1e9), played)
        run.kept = played
    run.played = max(run.played, played)
    return played


def fitting(policy, rows, context, prefill, share=SHARE):
    """(how many of `rows` episodes fit the memory, the bytes that a number of them takes, the bytes that are free)."""
    cfg, weight, available = policy.model.cfg, policy.model.model["embed_tokens"].weight, free(policy.device)
    if buffers := getattr(policy, "kept", None):  # they are used again, or freed before new ones are made
        available += 2 * buffers.cache.k.numel() * buffers.cache.k.element_size()

    def needed(rows):
        return of_rollout(cfg, rows, context, weight.element_size(), prefill)

    return most(rows, lambda rows: needed(rows) <= share * available), needed, available


def most(rows, fits):
    """The largest number up to `rows` that fits, 0 where not even 1 does: halve the interval."""
    least = 0
    while least < rows:
        middle = (least + rows + 1) // 2
        least, rows = (middle, rows) if fits(middle) else (least, middle - 1)
    return least


@cache
def note(rows, context, gigabytes, available, fit):
    """Printed once for the same numbers."""
    print(f"rollout: {rows} episodes of {context} tokens would take {gigabytes} GB, about {available} GB are free: "
          f"{fit} at a time", flush=True)
