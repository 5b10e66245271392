"""
The whole comparison in the made-up shop: `python -m tools.ablations` (--quick, --help).

Every variant is a run of train.py with other flags; the runs of all variants and seeds are made two side by side, each
on one core. A run that is finished is not made again, a killed one is resumed. Afterwards (or with --jobs 0, at once)
a table is printed, and written to OUT/ablations.json; with matplotlib also OUT/ablations.png: held-out success against
sampled tokens and against seconds, one line per variant with its spread over seeds.

Tokens are all sampled ones: acting, reviewing, probing, confirming. Seconds are those of the iterations on one core.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

from lib.files import write_atomic
from skillbank import Skill, SkillBank
from tools.report import SECONDS, lines_of
from worlds.webshop.shopper import WAYS

ROOT = Path(__file__).parents[1]
# Variant -> (seeds, flags). BANK is the hand-written bank.
VARIANTS = {
    "SkillMaster": (5, ""),
    "SkillMaster, graded utility": (5, "--utility graded"),
    "plain GRPO": (5, "--reviews off"),
    "plain GRPO, graded reward": (5, "--reviews off --reward graded"),
    "GiGPO": (3, "--reviews off --advantage gigpo"),
    "GiGPO, graded reward": (3, "--reviews off --advantage gigpo --reward graded"),
    "single advantage": (3, "--advantage single"),
    "single advantage, graded utility": (3, "--advantage single --utility graded"),
    "reviews not trained": (3, "--advantage act_only"),
    "all edits, unprobed": (3, "--commit all"),
    "no confirmation": (3, "--confirm 0"),
    "clipped U, alpha 0.2": (3, "--clip_utility --alpha 0.2"),
    "unpaired probes": (3, "--unpaired"),
    "bank only": (3, "--lr 0"),
    "hand-written bank, frozen": (3, "--reviews off --bank BANK"),
}
QUICK = ("SkillMaster", "SkillMaster, graded utility", "plain GRPO", "plain GRPO, graded reward")


def hand_written():
    """A bank with every useful skill of every family, in the words of the scripted shoppers."""
    bank = SkillBank()
    for family in WAYS.families:
        texts = [text for text in WAYS.texts(family) if text["kind"] == "useful"]
        bank.task_specific_skills[family] = [
            Skill(f"dyn_{len(bank.skills()) + i + 1:03d}", text["title"], text["principle"], text["when_to_apply"])
            for i, text in enumerate(texts)]
    return bank


def directory(out, name, seed):
    return out / f"{''.join(c if c.isalnum() else '_' for c in name)}_{seed}"


def command(args, name, seed):
    """The command line of one run, --resume where it was begun."""
    run = directory(args.out, name, seed)
    flags = VARIANTS[name][1].replace("BANK", str(args.out / "hand_written.json")).split()
    resume = ["--resume"] if (run / "config.json").is_file() else []
    return [sys.executable, "train.py", "--env", "webshop", "--seed", str(seed), "--steps", str(args.steps), "--model",
            args.model, "--out", str(run), *flags, *args.flags.split(), *resume]


def finished(args, name, seed):
    run = directory(args.out, name, seed)
    return (run / "latest").is_file() and (run / "latest").read_text().strip() == f"step_{args.steps:05d}"


def make(args, wanted):
    """Make the runs that are missing, args.jobs at a time; seeds first, so that early tables compare the same seeds."""
    hand_written().save(args.out / "hand_written.json")
    waiting, running = [one for one in sorted(wanted, key=lambda one: one[1]) if not finished(args, *one)], {}
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    while waiting or running:
        while waiting and len(running) < args.jobs:
            name, seed = waiting.pop(0)
            log = open(f"{directory(args.out, name, seed)}.log", "a")
            running[name, seed] = subprocess.Popen(command(args, name, seed), cwd=ROOT, env=environment, stdout=log,
                                                   stderr=log)
            print(f"{time.strftime('%H:%M')} {name}, seed {seed} ({len(waiting)} waiting)", flush=True)
        time.sleep(1)
        for one, process in list(running.items()):
            if process.poll() is not None:
                del running[one]
                if process.returncode:
                    print(f"{one[0]}, seed {one[1]}: failed, see {directory(args.out, *one)}.log", flush=True)


def curve(args, name, seed):
    """[(iteration, sampled tokens so far, seconds so far, held-out success)] of a run, as far as it is."""
    points, tokens, seconds = [], 0, 0.0
    for row in lines_of(directory(args.out, name, seed) / "metrics.jsonl"):
        tokens += row.get("sampled", 0)
        seconds += sum(row[part] for part in SECONDS) if row["step"] else 0.0
        if "eval_success" in row:
            points.append((row["step"], tokens, seconds, row["eval_success"]))
    return points


def reached(points, success, column):
    """Tokens (column 1) or seconds (2) at which a curve first reaches a success, between evaluations by a line."""
    for before, after in zip(points, points[1:]):
        if before[3] < success <= after[3]:
            share = (success - before[3]) / (after[3] - before[3])
            return before[column] + share * (after[column] - before[column])
    return None


def spread(values):
    """Mean and standard error over seeds, as text."""
    error = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else 0.0
    return f"{statistics.mean(values):.3f} +- {error:.3f}"


def table(args, curves):
    """A row per variant: success over the iterations, tokens and seconds to .5, tokens and seconds in all."""
    rows = []
    for name, some in curves.items():
        steps = sorted({point[0] for points in some for point in points})
        at = {step: [p[3] for points in some for p in points if p[0] == step] for step in steps}
        half = [[reached(points, 0.5, column) for points in some] for column in (1, 2)]
        rows.append({
            "variant": name, "seeds": len(some), "success": {step: spread(values) for step, values in at.items()},
            "tokens to .5": [value and round(value) for value in half[0]],
            "seconds to .5": [value and round(value) for value in half[1]],
            "tokens": round(statistics.mean(points[-1][1] for points in some)),
            "seconds": round(statistics.mean(points[-1][2] for points in some))})
        text = ", ".join(f"{step}: {value}" for step, value in rows[-1]["success"].items())
        print(f"{name} ({len(some)} seeds): {text}\n    to .5: {rows[-1]['tokens to .5']} tokens, "
              f"{rows[-1]['seconds to .5']} seconds; in all {rows[-1]['tokens']:,} tokens, {rows[-1]['seconds']} s")
    return rows


def draw(args, curves):
    """Success against tokens and against seconds: a line through the means, a band of the smallest and largest."""
    try:
        import matplotlib
    except ImportError:
        return print("no figure: pip install matplotlib")
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    fig, axes = plt.subplots(1, 2, figsize=(11, 4), sharey=True, constrained_layout=True)
    for number, (name, some) in enumerate(curves.items()):
        length = min(map(len, some))
        for axis, column in zip(axes, (1, 2)):
            x = [statistics.mean(points[i][column] for points in some) for i in range(length)]
            y = [[points[i][3] for points in some] for i in range(length)]
            axis.plot(x, [statistics.mean(values) for values in y], "o-", color=f"C{number}", label=name, markersize=3)
            axis.fill_between(x, list(map(min, y)), list(map(max, y)), color=f"C{number}", alpha=0.15)
    axes[0].set(xlabel="sampled tokens, all of them", ylabel="success on held-out goals", ylim=(0, 1))
    axes[1].set(xlabel="seconds of iterations on one core")
    axes[0].legend(fontsize=8)
    fig.savefig(args.out / "ablations.png", dpi=110)
    plt.close(fig)


def main():
    parser = argparse.ArgumentParser(description="Compare SkillMaster with its ablations and with plain GRPO.")
    parser.add_argument("--quick", action="store_true", help=f"one seed of {', '.join(QUICK)}")
    parser.add_argument("--only", metavar="TEXT", help="only the variants whose name has this in it")
    parser.add_argument("--seeds", metavar="N", type=int, help="so many seeds of every variant (default: 5 or 3)")
    parser.add_argument("--steps", metavar="N", type=int, default=20, help="iterations of a run (default: 20)")
    parser.add_argument("--model", metavar="TEXT", default="tiny", help="checkpoint to begin with (default: tiny)")
    parser.add_argument("--flags", metavar="TEXT", default="", help="more flags of train.py, for every variant")
    parser.add_argument("--jobs", metavar="N", type=int, default=2, help="runs side by side; 0: only the table")
    parser.add_argument("--out", metavar="DIR", type=Path, default=Path("runs/ablations"), help="default: %(default)s")
    args = parser.parse_args()
    args.out = args.out.resolve()
    names = [name for name in VARIANTS if (not args.quick or name in QUICK) and (args.only or "") in name]
    if not names:
        parser.error(f"--only {args.only}: no variant has that in its name: {', '.join(VARIANTS)}")
    wanted = [(name, seed) for name in names for seed in range(args.seeds or (1 if args.quick else VARIANTS[name][0]))]
    args.out.mkdir(parents=True, exist_ok=True)
    if args.jobs:
        make(args, wanted)
    curves: dict = {}
    for name, seed in wanted:
        if (directory(args.out, name, seed) / "metrics.jsonl").is_file() and (points := curve(args, name, seed)):
            curves.setdefault(name, []).append(points)
    rows = table(args, curves)
    write_atomic(args.out / "ablations.json", json.dumps({"flags": VARIANTS, "rows": rows}, indent=1) + "\n")
    draw(args, curves)


if __name__ == "__main__":
    main()
