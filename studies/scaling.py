"""
Does an iteration keep its speed on more processes? `python -m studies.scaling` (--help), on an idle machine.

Weak scaling: N processes of torchrun with N times the tasks, so that each has as many episodes as one process alone.
Three kinds of run in turns, --pairs times: one process alone on one core; N of those at once, each on its own core,
which share what the machine has (memory's bandwidth, its clock); and the N processes of torchrun. What a part of an
iteration does is its sampled tokens per second (the update trains on those of acting and reviewing). The first
iteration of a run is left out: what is loaded or compiled once is no part of the speed.

    of N alone     tokens/s of torchrun's N over N times those of one alone: what a user gains
    of N at once   over the sum of the N at once: what dealing, waiting and exchange cost

The table has medians over the pairs, and from the lowest to the highest.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from statistics import median

from tools.guard import BROKEN, guard
from tools.report import PARTS, lines_of, seconds_of

ALL = "iteration"


def command(args, processes, seed, out) -> list[str]:
    """One run: `processes` of torchrun, or one without it."""
    program = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    flags = ["--env", args.env, "--model", args.model, "--tasks", str(args.tasks * processes), "--seed", str(seed),
             "--steps", str(args.steps), "--eval_every", "0", "--out", str(out), *args.flags.split()]
    return [*(program if processes > 1 else [sys.executable]), "train.py", *flags]


def play(args, processes, seeds, root) -> list:
    """Rows of metrics.jsonl of runs at once, a list for each seed, without their first iteration.

    Each run has as many cores as processes; the runs do not share cores.
    """
    cores: list = sorted(os.sched_getaffinity(0))
    runs: list = []  # (directory, process)
    for i, seed in enumerate(seeds):
        out, own = root / f"{processes}_{len(seeds)}_{seed}", cores[i * processes:(i + 1) * processes]
        shutil.rmtree(out, ignore_errors=True)
        with open(f"{out}.log", "w") as log:
            runs.append((out, subprocess.Popen(
                command(args, processes, seed, out), stdout=log, stderr=log, cwd=Path(__file__).parents[1],
                env={**os.environ, "OMP_NUM_THREADS": "1"}, preexec_fn=partial(os.sched_setaffinity, 0, own))))
    try:
        for out, process in runs:
            if process.wait():
                said = Path(f"{out}.log").read_text(errors="replace").strip().splitlines()
                raise ValueError(f"a run of train.py has failed: {said[-1] if said else 'it says nothing'}")
    finally:  # one has failed, or this is interrupted: the others hold their cores no longer
        for _, process in runs:
            process.terminate()
            process.wait()
    return [[row for row in lines_of(out / "metrics.jsonl") if row["step"] > 1] for out, _ in runs]


def speeds(rows) -> dict:
    """Part of an iteration -> its sampled tokens per second in all rows; None where a part had nothing to do."""
    tokens = {part: sum(row[f"{part}_sampled"] for row in rows) for part in PARTS if part != "update"}
    tokens["act"] += sum(row["review_sampled"] for row in rows)
    tokens |= {"update": tokens["act"], ALL: sum(row["sampled"] for row in rows)}
    seconds = {part: sum(row[f"{part}_s"] for row in rows) for part in PARTS} | {ALL: sum(map(seconds_of, rows))}
    return {part: tokens[part] / seconds[part] if tokens[part] else None for part in (*PARTS, ALL)}


def summed(speeds_of_runs) -> dict:
    """What several runs at once do together."""
    return {part: None if None in (each := [speed[part] for speed in speeds_of_runs]) else sum(each)
            for part in speeds_of_runs[0]}


def compare(args, root) -> list[dict]:
    """Per part of an iteration: tokens/s of one alone, and the two ratios, of each pair."""
    n, pairs = args.processes, []
    for pair in range(args.pairs):
        first = pair * (n + 1)
        alone = speeds(*play(args, 1, [first], root))
        at_once = summed([speeds(rows) for rows in play(args, 1, list(range(first, first + n)), root)])
        together = speeds(*play(args, n, [first + n], root))
        pairs.append({part: None if None in (alone[part], at_once[part], together[part]) else
                      (alone[part], together[part] / (n * alone[part]), together[part] / at_once[part])
                      for part in together})
        print(f"pair {pair + 1} of {args.pairs}: " + ", ".join(
            f"{part} {value[1]:.2f} {value[2]:.2f}" for part, value in pairs[-1].items() if value), flush=True)
    return pairs


def markdown(pairs, n) -> str:
    """The table that studies/README.md has."""
    def text(values, form):
        return f"{median(values):{form}} ({min(values):{form}}-{max(values):{form}})"

    lines = [f"| | tokens/s of one | {n} processes, of {n} alone | of {n} at once |", "|---|---|---|---|"]
    for part in pairs[0]:
        if known := [pair[part] for pair in pairs if pair[part]]:
            alone, of_alone, of_at_once = zip(*known)
            lines.append(f"| {part} | {text(alone, '.0f')} | {text(of_alone, '.2f')} | {text(of_at_once, '.2f')} |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description="Weak scaling of train.py on the cores of this machine.")
    parser.add_argument("--env", metavar="WORLD", default="webshop", help="default: %(default)s")
    parser.add_argument("--model", metavar="NAME", default="tiny", help="default: %(default)s")
    parser.add_argument("--processes", metavar="N", type=int, default=2, help="default: 2")
    parser.add_argument("--tasks", metavar="N", type=int, default=4, help="tasks per process (default: 4)")
    parser.add_argument("--steps", metavar="N", type=int, default=5, help="iterations of a run; the first is left out")
    parser.add_argument("--pairs", metavar="N", type=int, default=3, help="default: 3")
    parser.add_argument("--flags", metavar="TEXT", default="", help="more flags of train.py, for every run")
    args = parser.parse_args()
    if args.processes < 2 or args.tasks < 1 or args.pairs < 1 or args.steps < 2:
        parser.error("--processes and --steps must be at least 2, --tasks and --pairs at least 1")
    if not hasattr(os, "sched_getaffinity") or len(os.sched_getaffinity(0)) < args.processes:
        parser.error(f"--processes {args.processes}: this machine does not give a program so many cores of its own")
    with tempfile.TemporaryDirectory() as root:
        pairs = compare(args, Path(root))
    print(f"\n{markdown(pairs, args.processes)}")


if __name__ == "__main__":
    with guard("studies.scaling", None, (ValueError, *BROKEN)):
        main()
