"""
Every fork beside SkillMaster, at equal sampled tokens: `python -m studies.forks` (--help)

In a world of hidden rules (counter) and in the made-up shop (webshop), each method has the learning rate of three that
does best on seeds that the table does not report, with the same tokens. It starts no run: --list prints a command for
each that is not finished, which can be stopped and listed again. Two at a time, each on one core:

    python -m studies.forks --list | tr '\\n' '\\0' | OMP_NUM_THREADS=1 xargs -0 -t -n 1 -P 2 sh -c

Call that line until it lists nothing. How many tokens an iteration takes differs by method and is not known before: a
run is one iteration long at first. By its tokens so far the next list gives it as many as it needs, and ten
evaluations. When the rates of a method are tried, the list has the runs that are reported, and last their test goals.

Without --list it prints a table per world as forks/README.md has it, and writes OUT/forks.json: success at a third, two
thirds and all of --tokens, played as the method is meant to be (with its bank, or without); success on test goals
without the bank and with it; of the edits, and of those in the bank, the share that is right (useful in the shop);
tokens, seconds up to --tokens, lines of the file. OUT/runs.json holds what the table needs of each run; with --known
FILE such runs, made earlier or elsewhere, are taken and not made again.
"""

import argparse
import json
from math import ceil
from pathlib import Path
from shlex import quote
from statistics import mean

import envs
from lib.files import read_json, write_atomic
from studies.ablations import (
    TUNING,
    Run,
    commands,
    curve_of,
    hand_written,
    reached,
    same_flags,
    short,
    spread,
    success_at,
    test_of,
    where,
)
from tools.flags import path_of
from tools.guard import BROKEN, guard
from tools.report import GOOD, edits_in, written
from worlds.webshop.shopper import WAYS

# Row of the table -> command. {bank}: the good skills of the world, given to methods that write none; the others in
# braces: as WORLDS has them. SIRI's defaults are for longer runs; a score of .5 counts as a success where few games
# are won.
METHODS = {
    "SkillMaster": "train.py",
    "plain GRPO": "train.py --reviews off",
    "GiGPO": "-m forks.gigpo --norm {norm}",
    "SIRI": "-m forks.siri --enough 0.5 --tests 4 --ramp 20",
    "SDAR": "-m forks.teachers --term sdar",
    "Skill-SD, OPID": "-m forks.teachers --term opid",
    "RLSD": "-m forks.teachers --term rlsd",
    "SGSD": "-m forks.teachers --term sgsd",
    "SAPO": "-m forks.sapo",
    "SKILLC, bank given": "-m forks.skillc --bank {bank}",
    "SLIM": "-m forks.slim",
    "SKILL0, bank given": "-m forks.skill0 --stage {stage} --bank {bank}",
    "ReSkill": "-m forks.reskill",
    "Evolving-RL": "-m forks.evolving",
    "UniSkill": "-m forks.uniskill",
    "Knowledge Weaver": "-m forks.weaver",
    "its credit in SkillMaster": "-m forks.weaver --acting 1 --alpha 0.3",
    "UniSkill's floor in SkillMaster": "-m forks.weaver --acting 1 --alpha 0.3 --credit 0 --floor 0.01",
    "SkillRL": "-m forks.skillrl",
    "RetroAgent": "-m forks.retro --progress score --prune_every {prune}",
    "UCOB": "-m forks.ucob",
    "SAGE": "-m forks.sage --used quoted --enough 0.5",
    "ACE": "-m forks.prompting --rule ace",
    "GRASP": "-m forks.prompting --rule grasp",
    "EvoSkill": "-m forks.prompting --rule evoskill --score {score}",
}
# World -> flags of every run there, and what differs by world: stage and prune, a third of the iterations that SKILL0
# has for 90 thousand tokens and a quarter of RetroAgent's; score, tasks that score a bank of EvoSkill (at the counter
# 16 would ask for a quarter of the rules); norm, as GiGPO's authors have it for WebShop, and for others.
WORLDS = {"counter": {"flags": "", "stage": 40, "prune": 11, "score": 64, "norm": "std"},
          "webshop": {"flags": "--reward graded", "stage": 5, "prune": 3, "score": 16, "norm": "mean"}}
RATES = ("2e-4", "6e-4", "2e-3")
EVALUATIONS = 10  # of a run, about: of methods that sample much in an iteration, too, the way up is seen


def methods(text) -> list[str]:
    """The method of that name, or else those whose name has it in it."""
    return [text] if text in METHODS else [name for name in METHODS if text in name]


def rates_of(method):
    """The learning rates to choose from; "" of a method that trains nothing."""
    return ("",) if "forks.prompting" in METHODS[method] else RATES


def run_of(args, world, method, rate, seed):
    """A run, as long as it has to be by what is known of it now. Its part is "tested" when only that is left."""
    words = f"{world} {method} {rate} {seed}"
    name = "".join(c if c.isalnum() else "_" for c in words)
    own = dict(WORLDS[world])
    own |= {name: max(1, round(own[name] * args.tokens / 90_000)) for name in ("stage", "prune")}
    command = METHODS[method].format(bank=quote(str(args.out / f"{world}_{seed}_bank.json")), **own)
    points = record_of(args, name)["points"]
    enough, every = enough_of(points, args.tokens), every_of(points, args.tokens)
    command += f" --env {world} --model tiny --eval_every {every} --save_every {every}"
    more = f"{own['flags']} {f'--lr {rate}' if rate else ''} --seed {seed} {args.flags}"
    steps = points[-1][0] if enough else steps_of(points, args.tokens, every, reached(args.out / name))
    return Run("tested" if enough and seed < TUNING else "trained", f"{world} {method}", seed, name, steps,
               " ".join(f"{command} {more}".split()))


def record_of(args, name):
    """What the table needs of a run, as --known has it or, where that is further, as its directory has it.

    "points": those of ablations.curve_of; "test": success {without the bank, with it}, {} before it was played;
    "edits": [of all, of those in the bank] how many are right and how many there are.
    """
    run = args.out / name
    points, known = curve_of(run, 1), args.known.get(name)
    points = [point for point in points if point[0] <= reached(run)]  # what was played after it is played again
    if known and (not points or known["points"][-1][1] >= points[-1][1]):
        return known
    test = test_of(run / f"test_{points[-1][0]}.json") if points else {}
    edits = edits_in(run) if points else []
    return {"points": points, "test": {protocol: families["all"][0] for protocol, families in test.items()},
            "edits": [[sum(edit["kind"] in GOOD for edit in some), len(some)]
                      for some in (written(edits), [edit for edit in edits if edit["committed"]])]}


def enough_of(points, tokens) -> bool:
    """Has a run been evaluated after so many tokens?"""
    return bool(points) and points[-1][1] >= tokens


def every_of(points, tokens) -> int:
    """Iterations between two evaluations, by the tokens of those so far; 1 in a new run."""
    step, spent = points[-1][:2] if points else (0, 0)
    return max(1, round(tokens * step / spent / EVALUATIONS)) if spent else 1


def steps_of(points, tokens, every: int, begun: int = 0) -> int:
    """The iterations that a run needs for so many tokens, by what it took so far; a multiple of `every`.

    At most four times those so far, as later iterations may sample more, and more than have `begun`.
    """
    step, spent = points[-1][:2] if points else (0, 0)
    return every * ceil(max(min(tokens * step / spent, 4 * step) if spent else 1, begun + 1) / every)


def chosen(args, world, method):
    """The best of a method's rates at the tokens, by their mean over the tuning seeds; None before all are known."""
    rates = rates_of(method)
    if len(rates) == 1:
        return rates[0]
    curves = [[record_of(args, run_of(args, world, method, rate, seed).name)["points"] for seed in args.tuning]
              for rate in rates]
    if not all(enough_of(points, args.tokens) for some in curves for points in some):
        return None
    means = [mean(where(points, 1, args.tokens, 3) for points in some) for some in curves]
    return rates[means.index(max(means))]


def runs_of(args):
    """The runs that can be made now: those that try rates, and of a method whose rate is chosen those reported."""
    runs = []
    for world in args.worlds:
        for method in methods(args.only):
            rates = rates_of(method)
            if len(rates) > 1:
                runs += [run_of(args, world, method, rate, seed) for seed in args.tuning for rate in rates]
            rate = chosen(args, world, method)
            if rate is not None:
                runs += [run_of(args, world, method, rate, seed) for seed in range(args.seeds)]
    return runs


def finished(args, run) -> bool:
    """Is nothing left to do for a run?"""
    record = record_of(args, run.name)
    return bool(record["test"]) if run.seed < TUNING else enough_of(record["points"], args.tokens)


def banks(args, runs):
    """Write the banks that some runs are given: every good skill, of a world of hidden rules those of the seed."""
    for world, seed in sorted({(run.label.split()[0], run.seed) for run in runs if "_bank.json" in run.command}):
        if world == "webshop":
            bank = hand_written(WAYS, WAYS.families)
        else:
            env = envs.make(world, seed=seed)
            bank = hand_written(env.ways, sorted({env.family(task) for task in env.tasks}))
        bank.save(args.out / f"{world}_{seed}_bank.json")


def rows_of(args):
    """The table: a row per world and method of which a run is finished."""
    rows = []
    for world in args.worlds:
        for method in methods(args.only):
            rate = chosen(args, world, method)
            runs = [run_of(args, world, method, rate, seed) for seed in range(args.seeds)] if rate is not None else []
            runs = [run for run in runs if finished(args, run)]
            if runs:
                records = [record_of(args, run.name) for run in runs]
                curves, tests = [record["points"] for record in records], [record["test"] for record in records]
                right, right_in_bank = (share(*map(sum, zip(*some))) for some in zip(*(
                    record["edits"] for record in records)))
                rows.append({
                    "world": world, "method": method, "lr": rate, "seeds": len(runs),
                    "success": {args.tokens * n // 3: success_at(curves, args.tokens * n // 3) for n in (1, 2, 3)},
                    "test": {name: spread([test[name] for test in tests]) for name in ("none", "frozen")},
                    "right": right, "right in bank": right_in_bank,
                    "tokens": round(mean(points[-1][1] for points in curves)),
                    "seconds": round(mean(where(points, 1, args.tokens, 2) for points in curves)),
                    "lines": lines_of_code(method)})
    return rows


def share(right, count):
    """The share of the edits that is right; None where there are no edits."""
    return right / count if count else None


def lines_of_code(method) -> int:
    """The lines of the file that has a method's loop."""
    words = METHODS[method].split()
    file = words[0] if words[0] == "train.py" else words[1].replace(".", "/") + ".py"
    return len((Path(__file__).parents[1] / file).read_text(encoding="utf-8").splitlines())


def markdown(rows, world) -> str:
    """A world's rows as forks/README.md has them."""
    mine = [row for row in rows if row["world"] == world]
    at = [f"{int(tokens) / 1000:.0f}k" for tokens in mine[0]["success"]] if mine else []
    lines = [f"| method | seeds | lr | at {', '.join(at)} tokens | test without, with bank | right edits, in the bank "
             "| tokens | seconds | lines |", "|" + "---|" * 9]
    for row in mine:
        right = [None if row[name] is None else f"{row[name]:.2f}" for name in ("right", "right in bank")]
        cells = [row["method"], str(row["seeds"]), row["lr"] or "-", ", ".join(map(short, row["success"].values())),
                 ", ".join(map(short, row["test"].values())), ", ".join(map(short, right)),
                 f"{row['tokens'] / 1000:.0f}k", str(row["seconds"]), str(row["lines"])]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description="Compare the forks with SkillMaster at equal sampled tokens.")
    parser.add_argument("--list", action="store_true", help="print the commands of the runs that are not finished")
    parser.add_argument("--worlds", metavar="LIST", default=",".join(WORLDS), help="default: %(default)s")
    parser.add_argument("--only", metavar="TEXT", default="", help="one method, or all with this in their name")
    parser.add_argument("--seeds", metavar="N", type=int, default=3, help="seeds that are reported (default: 3)")
    parser.add_argument("--tune", metavar="N", type=int, default=1, help="seeds that choose a rate (default: 1)")
    parser.add_argument("--tokens", metavar="N", type=int, default=90_000, help="of every run (default: 90000)")
    parser.add_argument("--flags", metavar="TEXT", default="", help="more flags, for every run")
    parser.add_argument("--known", metavar="FILE", type=path_of, help="runs.json of runs that need not be made")
    parser.add_argument("--out", metavar="DIR", type=path_of, default="runs/forks", help="default: %(default)s")
    args = parser.parse_args()
    args.out, args.worlds, args.tuning = Path(args.out), args.worlds.split(","), range(TUNING, TUNING + args.tune)
    if unknown := set(args.worlds) - WORLDS.keys():
        parser.error(f"--worlds {','.join(sorted(unknown))}: choose from {', '.join(WORLDS)}")
    if not methods(args.only):
        parser.error(f"--only {args.only}: no method has that in its name: {', '.join(METHODS)}")
    if not (args.seeds > 0 and 0 < args.tune and args.tokens > 0):
        parser.error("--seeds, --tune and --tokens must be at least 1")
    if args.known and args.flags:
        parser.error("--known: its runs are those without --flags")
    try:
        args.known = read_json(args.known, "give the runs.json of earlier runs") if args.known else {}
    except (OSError, ValueError) as error:
        parser.error(f"--known: {error}")
    args.out.mkdir(parents=True, exist_ok=True)
    runs = runs_of(args)
    done = {run.name for run in runs if finished(args, run)}
    same_flags(args, runs, done)
    if args.list:
        banks(args, runs)
        for line in commands(args, runs, done):
            print(line)
        return
    rows = rows_of(args)
    for world in args.worlds:
        print(f"{world}\n\n{markdown(rows, world)}\n")
    write_atomic(args.out / "forks.json", json.dumps(rows, indent=1) + "\n")
    records = args.known | {run.name: record_of(args, run.name) for run in runs if run.name in done}
    lines = [f"{json.dumps(name)}: {json.dumps(record)}" for name, record in records.items()]
    write_atomic(args.out / "runs.json", "{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    with guard("studies.forks", None, (ValueError, *BROKEN)):
        main()
