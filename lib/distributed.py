"""One run on several processes: `torchrun --standalone --nproc_per_node N train.py ...`, on torch.distributed.

Every process goes through the whole program, and all decide the same, because every decision is a function of what all
have gathered. Two things are dealt out: the episodes of a rollout and the micro-batches of an update. Rank 0, the
leader, alone writes and prints. In a process that torchrun did not start nothing here does anything.
"""

import os
import pickle
import random
import signal
import socket
import sys
import threading
import time
from contextlib import contextmanager
from datetime import timedelta
from types import SimpleNamespace

import torch

from lib.packing import dumps

# rank, size: this process, all; local, here: the same on this machine; team: (machine, process id) of each rank.
this = SimpleNamespace(rank=0, size=1, local=0, here=1, started=False, store=None, team=[], stderr=sys.stderr)
PATIENCE = timedelta(hours=6)  # with the others: longer than a rollout or a cold start, shorter than a night


class Lost(OSError):
    """Another process of the run is gone, or computes something else."""


def launched() -> bool:
    """Did torchrun start this process?"""
    return "TORCHELASTIC_RUN_ID" in os.environ


def leader() -> bool:
    return this.rank == 0


def start():
    """Join the other processes that torchrun started. Whoever is not the leader is silent from now on."""
    if not launched() or this.started:
        return
    import torch.distributed as dist
    words = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    this.rank, this.size, this.local, this.here = (int(os.environ[word]) for word in words)
    this.started, this.stderr, parent = True, sys.stderr, os.getppid()
    if this.size == 1:
        return
    if this.rank:
        sys.stdout = sys.stderr = open(os.devnull, "w")
    # The store is torchrun's: it is there as long as any process of the run.
    own = leader() and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    store = dist.TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=own)
    this.store = dist.PrefixStore(f"run{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", store)
    # What is on the CPU goes by gloo, what is on a card by nccl.
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, store=this.store, rank=this.rank, world_size=this.size, timeout=PATIENCE)
    this.team = exchange((socket.gethostname(), os.getpid()))
    threading.Thread(target=watch, args=(parent,), daemon=True).start()


def watch(parent):
    """End this process when torchrun is gone: by SIGTERM, and by force where it waits for others and does not hear."""
    while os.getppid() == parent:
        time.sleep(1)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(6)
    os._exit(143)


def mine(count: int) -> list[int]:
    """Which of `count` episodes are this process's: of N neighbours one at random, as neighbours are about as long."""
    rng, numbers = random.Random(f"deal/{count}"), []
    for first in range(0, count, this.size):
        number = first + rng.sample(range(this.size), this.size)[this.rank]
        numbers += [number] * (number < count)
    return numbers


def deal(costs: list) -> list[int]:
    """Which of some portions of known cost are this process's: the longest first, to whoever has least to do."""
    loads, numbers = [0] * this.size, []
    for number in sorted(range(len(costs)), key=lambda i: -costs[i]):
        rank = loads.index(min(loads))
        loads[rank] += costs[number]
        numbers += [number] * (rank == this.rank)
    return sorted(numbers)


def together(collective, *tensors):
    """Call a function of torch.distributed. Lost where another process has gone."""
    try:
        collective(*tensors)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:  # gloo's and nccl's, of a connection that was closed
        raise Lost(f"another process of this run has gone ({error!s:.200})") from None


def exchange(thing, leave=()) -> list:
    """What each process has to say, in the order of ranks. leave: names of fields of records that are not sent."""
    if this.size == 1:
        return [thing]
    import torch.distributed as dist
    said = torch.frombuffer(bytearray(dumps(thing, leave)), dtype=torch.uint8)
    sizes = [torch.zeros(1, dtype=torch.long) for _ in range(this.size)]
    together(dist.all_gather, sizes, torch.tensor([len(said)]))
    most = int(max(sizes))
    parts = [torch.zeros(most, dtype=torch.uint8) for _ in range(this.size)]
    together(dist.all_gather, parts, torch.nn.functional.pad(said, (0, most - len(said))))
    return [thing if rank == this.rank else pickle.loads(part.numpy()[:size].tobytes())
            for rank, (part, size) in enumerate(zip(parts, map(int, sizes)))]


def gather(things: dict, leave=()) -> list:
    """All the things of all processes, {number: thing} of each, in the order of their numbers."""
    every = {number: thing for some in exchange(things, leave) for number, thing in some.items()}
    return [every[number] for number in sorted(every)]


def from_leader(function, *arguments):
    """What the function returns to the leader, who alone calls it."""
    return exchange(function(*arguments) if leader() else None)[0]


@contextmanager
def leader_first():
    """The leader goes through this block before the others do. Inside, nothing may be exchanged."""
    if not leader():
        exchange(None)
    yield
    if leader():
        exchange(None)


def add_up(optimizer, things: dict) -> list:
    """Add the gradients of a dualadv_grpo.AdamW up over all processes, and `gather` what else they have.

    A process without a micro-batch adds zeros.
    """
    for i, (param, master) in enumerate(zip(optimizer.params, optimizer.master)):
        if master is param:
            param.grad = torch.zeros_like(param) if param.grad is None else param.grad
        elif i not in optimizer.sums:
            optimizer.sums[i] = torch.zeros_like(param, dtype=torch.float32)
        together(torch.distributed.all_reduce, optimizer.sums.get(i, param.grad))
    return gather(things)
