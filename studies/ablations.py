"""
The whole comparison in the made-up shop: `python -m studies.ablations` (--quick, --help). Its parts, of
which the last four play other worlds:

    variants   SkillMaster, itself without one part at a time, and its baselines: success against tokens and seconds
    rarity     when does a bank pay? SkillMaster and plain GRPO from checkpoints that do what the skills say, unasked,
               seldom or often (the shoppers' BASE)
    claims     what is left when the bank is taken away after 5, 10, 20 iterations; trained on four families, what do
               the weights and the bank do for the other three?
    counter    what each part of the method gains in a world of hidden rules; every rival at its own learning rate
    rates      how these rates were chosen: three of them for each, on two seeds that no other table holds
    alfworld   SkillMaster and plain GRPO in generated ALFWorld games
    real_shop  the same in the real WebShop; its data in $WEBSHOP_DATA

It starts no run. With --list it prints a shell command for each run that is not finished, seeds first, so that early
tables compare the same seeds. Two at a time, each on one core and with a log beside its directory:

    python -m studies.ablations --list | tr '\\n' '\\0' | OMP_NUM_THREADS=1 xargs -0 -t -n 1 -P 2 sh -c

What was killed is listed again, and resumed. Without --list it prints the tables, draws the figures and writes
OUT/ablations.json from what is finished. Tokens are all sampled ones: acting, reviewing, probing, confirming. Seconds
are those of the iterations on one core. OUT/runs.json holds the points of the finished runs of these parts. With
--known FILE such points, measured earlier or elsewhere, are taken instead of making those runs:
`--known worlds/webshop/tiny/runs.json` gives the first table and figure of worlds/webshop/tiny/README.md.
"""

import argparse
import json
import os
import re
import sys
from collections import namedtuple
from dataclasses import replace
from itertools import count
from pathlib import Path
from shlex import quote
from statistics import mean, stdev

from lib.files import read_json, write_atomic
from lib.models import shipped
from skillbank import Skill, SkillBank
from tools.figures import Panel, draw
from tools.flags import path_of
from tools.guard import BROKEN, UNFINISHED, guard
from tools.report import GOOD, lines_of, seconds_of
from worlds.alfworld import world as household
from worlds.webshop.shopper import WAYS

# Row of a table -> (seeds, iterations, command). An iteration of plain GRPO samples about an eighth of the tokens, so
# it gets more of them. The first is evaluated after each iteration, so that its way up is seen.
VARIANTS = {
    "SkillMaster, graded utility": (5, 20, "train.py --utility graded --eval_every 1"),
    "SkillMaster": (5, 20, "train.py --utility success"),
    "plain GRPO": (5, 40, "train.py --reviews off"),
    "plain GRPO, graded reward": (5, 40, "train.py --reviews off --reward graded"),
    "GiGPO": (3, 40, "-m forks.gigpo"),
    "GiGPO, graded reward": (3, 40, "-m forks.gigpo --reward graded"),
    "single advantage": (5, 10, "train.py --advantage single"),
    "reviews not trained": (3, 10, "train.py --skill_weight 0"),
    "all edits, unprobed": (3, 10, "train.py --commit all"),
    "no confirmation": (3, 10, "train.py --confirm 0"),
    "clipped U, alpha 0.2": (3, 10, "train.py --clip_utility --alpha 0.2"),
    "unpaired probes": (3, 10, "train.py --unpaired"),
    "bank only": (3, 10, "train.py --lr 0"),
    "hand-written bank, frozen": (3, 10, "train.py --reviews off --bank {out}/hand_written.json"),
}
QUICK = tuple(VARIANTS)[:4]
MAIN = tuple(VARIANTS)[:6]  # in the first figure; the others leave a part out
RARITY = (0.05, 0.1, 0.2, 0.35, 0.5)  # BASE
RIVALS = {"SkillMaster": (10, "--utility graded"), "plain GRPO": (40, "--reviews off"),
          "plain GRPO, graded reward": (40, "--reviews off --reward graded")}
FURTHER = "--steps 1200 --lr 1e-3 --muon 0.005 --prompt 0 --copy 5 --seed 8"  # half of what made the shipped one
SEEN = "accessories,apparel,electronics,footwear"
# Variant -> (learning rates to try, the chosen one first; iterations, flags). 250 iterations of GRPO are some 139
# thousand tokens, 40 of the others 134 to 163 (unprobed edits: 85): beyond the last of AT, as are 50 where less is
# probed. SkillMaster goes as far as `train.py --env counter` does.
COUNTER = {
    "SkillMaster": ("3e-4 6e-4 1.2e-3", 50, ""),
    "one advantage": ("6e-4 3e-4 1.2e-3", 40, "--advantage single"),
    "reviews not trained": ("6e-4 3e-4 1.2e-3", 40, "--skill_weight 0"),
    "plain GRPO": ("2e-4 1e-4 6e-4", 250, "--reviews off --eval_every 25"),
    "plain GRPO, graded reward": ("1e-4 2e-4 6e-4", 250, "--reviews off --reward graded --eval_every 25"),
    "all edits, unprobed": ("3e-4", 40, "--commit all"),
    "no confirmation": ("3e-4", 50, "--confirm 0"),
    "weights frozen": ("0", 40, ""),
    "lambda 0.2": ("3e-4", 40, "--skill_weight 0.2"),
    "lambda 1": ("3e-4", 40, "--skill_weight 1"),
    "the paper's utility": ("3e-4", 40, "--utility success"),
    "drifting rules": ("3e-4", 40, "--drift 2"),
    "drifting rules: reviews not trained": ("6e-4", 40, "--drift 2 --skill_weight 0"),
    "12 towns": ("3e-4", 25, "--towns 12"),
    "12 towns: one advantage": ("6e-4", 25, "--towns 12 --advantage single"),
    "6 towns": ("3e-4", 15, "--towns 6"),
    "6 towns: one advantage": ("6e-4", 15, "--towns 6 --advantage single"),
}
DESIGNS = {  # the three panels of the counter's figure: what is compared to show one part of the method
    "it learns to review": ("SkillMaster", "reviews not trained", "plain GRPO", "plain GRPO, graded reward"),
    "probes decide what is kept": ("SkillMaster", "all edits, unprobed", "no confirmation"),
    "each job has its own advantage": ("SkillMaster", "one advantage"),
}
AT = (40_000, 80_000, 120_000)  # sampled tokens at which the counter's variants are compared
TUNED_AT = AT[1]  # and their learning rates: 40 iterations are enough for that, of GRPO 150
TUNING = 100  # the first seed of `rates`
PARTS = {
    "variants": VARIANTS,
    "rarity": {f"{name} base {base}": (3, steps, f"train.py {flags} --model {{out}}/base_{base}")
               for base in RARITY for name, (steps, flags) in RIVALS.items()},
    "claims": {**{f"withdrawn {steps}": (3, steps, "train.py --eval_every 0") for steps in (5, 10, 20)},
               "transfer": (3, 20, f"train.py --eval_every 0 --families {SEEN}")},
    "counter": {label: (10 if len(rates.split()) > 1 else 5, steps,
                        f"train.py --env counter --lr {rates.split()[0]} {flags}".strip())
                for label, (rates, steps, flags) in COUNTER.items()},
    "rates": {f"{label}, lr {rate}": (2, 150 if steps > 50 else 40,
                                f"train.py --env counter --lr {rate} {flags}".strip())
              for label, (rates, steps, flags) in COUNTER.items() for rate in rates.split() if len(rates.split()) > 1},
    "alfworld": {"SkillMaster": (3, 10, "train.py --env alfworld"),
                 "plain GRPO": (3, 20, "train.py --env alfworld --reviews off")},
    "real_shop": {"SkillMaster": (3, 20, "train.py --data {data}"),
                  "plain GRPO": (3, 40, "train.py --data {data} --reviews off")},
}

TESTED = ("claims", "tested")  # parts whose runs are played on test goals at their end
Run = namedtuple("Run", "part label seed name steps command")  # label: the row; name: the directory below OUT

# ---- The runs -------------------------------------------------------------------------------------------------------


def runs_of(args, part):
    """The runs of a part, in the order of its table."""
    runs = []
    for label, (seeds, steps, command) in PARTS[part].items():
        if args.only not in label or part == "variants" and args.quick and label not in QUICK:
            continue
        command = command.format(out=quote(str(args.out)), data=quote(args.data))
        if "--model" not in command:
            command += f" --model {quote(args.model)}"
        title = label if part in ("variants", "rarity", "claims") else f"{part} {label}"
        first = TUNING if part == "rates" else 0
        for seed in range(first, first + (args.seeds or (1 if args.quick else seeds))):
            name = f"{''.join(c if c.isalnum() else '_' for c in title)}_{seed}"
            more = f" --seed {seed} {args.flags}".rstrip()
            runs.append(Run(part, label, seed, name, args.steps or steps, command + more))
    return runs


def commands(args, runs, found):
    """A shell command for each run that is not in `found`; runs that wait for one checkpoint are one command."""
    # The runs of the made-up worlds must not play the real ones.
    unset = [f"{name}=" for name in ("WEBSHOP_DATA", "ALFWORLD_DATA") if os.environ.get(name)]
    python = " ".join([*unset, quote(sys.executable)])
    lines: dict = {}  # what is waited for -> commands, one after another
    for run in sorted((run for run in runs if run.name not in found), key=lambda run: run.seed):
        out = args.out / run.name
        start = args.out / f"base_{run.label.split()[-1]}"
        waits = run.part == "rarity" and not (start / "config.json").is_file()
        line = lines.setdefault(start if waits else out, [])
        if waits and not line:
            line.append(f"{python} {checkpoint(args, start)} >> {quote(f'{start}.log')} 2>&1")
        if reached(out) < run.steps:
            resume = " --resume" if (out / "config.json").is_file() else ""
            line.append(f"{python} {run.command} --out {quote(str(out))} --steps {run.steps}{resume} "
                        f">> {quote(f'{out}.log')} 2>&1")
        if run.part in TESTED:
            line.append(f"{python} eval.py {quote(str(out))} --split test --protocols none,frozen "
                        f"--out {quote(str(out / f'test_{run.steps}.json'))} >> {quote(f'{out}.log')} 2>&1")
    return [" && ".join(line) for line in lines.values()]


def checkpoint(args, start):
    """The command that trains the shipped model further, on shoppers of another BASE: base_<BASE> is its directory."""
    model = quote(str(shipped("webshop") if args.model == "tiny" else args.model))
    resume = " --resume" if (start / UNFINISHED).is_file() else ""
    return (f"-m tools.coldstart --env webshop --model {model} --base {start.name.removeprefix('base_')} {FURTHER} "
            f"--out {quote(str(start))}{resume}")


def hand_written(ways, families, kinds=GOOD):
    """A bank with every good skill of some families: useful, or right, in the words of the world's scripted players.

    kinds: those of other kinds instead, such as ("harmful",).
    """
    number = count(1)
    return SkillBank(task_specific_skills={family: [
        Skill(f"dyn_{next(number):03d}", text["title"], text["principle"], text["when_to_apply"])
        for text in ways.texts(family) if text["kind"] in kinds] for family in families})


def downloaded() -> bool:
    """Are there games of alfworld-download, which are played where generated ones are meant?"""
    root = household.downloads()
    return bool(root and any(root.glob("json_2.1.1/*/*/*/game.tw-pddl")))


def same_flags(args, runs, found):
    """ValueError where OUT has one of the runs with another --model or other --flags, which its name does not tell.

    This is known of runs that --list has listed before they began: they are noted in OUT/asked.json.
    """
    file, now = args.out / "asked.json", f"--model {getattr(args, 'model', 'tiny')} --flags '{args.flags}'"
    asked = read_json(file, "delete it") if file.is_file() else {}
    for run in runs:
        if asked.get(run.name, now) != now and (args.out / run.name).is_dir():
            raise ValueError(f"{args.out / run.name} was begun with {asked[run.name]}, this is {now}; name another "
                             "--out")
    if args.list:
        listed = {run.name: now for run in runs if run.name not in found and not (args.out / run.name).is_dir()}
        write_atomic(file, json.dumps(asked | listed, indent=1) + "\n")


# ---- What is finished -----------------------------------------------------------------------------------------------


def results(out, runs, known):
    """{name: points} of the finished runs: known, where that is as far as they are to go, or measured in OUT."""
    found = {}
    for run in runs:
        points = known.get(run.name)
        if not points or run.part != "claims" and points[-1][0] < run.steps:
            path = out / run.name
            points = test_of(path / f"test_{run.steps}.json") if run.part == "claims" else curve_of(path, run.steps)
        if points:
            found[run.name] = points
    return found


def reached(run):
    """The iteration of a run's last checkpoint; -1 without one."""
    latest = run / "latest"
    return int(latest.read_text().strip().removeprefix("step_")) if latest.is_file() else -1


def curve_of(run, steps):
    """[(iteration, sampled tokens so far, seconds so far, held-out success)]; [] before iteration `steps`.

    Of a world of hidden rules there are two more columns: since the point before the share of right reviews, of those
    that had something to write down, and the share of the facts that the bank knows.
    """
    points, tokens, seconds, reviews = [], 0, 0.0, []
    for row in lines_of(run / "metrics.jsonl") if reached(run) >= steps else ():
        tokens += row.get("sampled", 0)
        seconds += seconds_of(row)
        reviews += [(row["right_reviews"] * row["refused"], row["refused"])] if row.get("refused") else []
        if "eval_success" in row:
            right, lost = map(sum, zip(*reviews)) if reviews else (0, 0)
            hidden = (round(right / lost, 3) if lost else None, row["facts"]) if "facts" in row else ()
            points.append((row["step"], tokens, round(seconds, 1), row["eval_success"], *hidden))
            reviews = []
    return points


def test_of(file):
    """{protocol: {family, or all: [success, games]}} without the bank and with it; {} where it is not finished."""
    protocols = read_json(file, "delete it, and it is played again").get("protocols", {}) if file.is_file() else {}
    return {protocol: {family: [row["success"], row["n"]] for family, row in result["families"].items()}
            for protocol, result in protocols.items() if len(protocols) == 2}


# ---- The tables and the figures. curves: {label: [points of a run, ...]} --------------------------------------------


def where(points, x, value, y):
    """Column y of a curve where its column x first reaches a value, between evaluations by a line; None: nowhere."""
    if points[0][x] >= value:
        return points[0][y]
    for before, after in zip(points, points[1:]):
        if before[x] < value <= after[x]:
            return before[y] + (value - before[x]) / (after[x] - before[x]) * (after[y] - before[y])
    return None


def costs(some, success):
    """{"tokens to .5": of each curve, "seconds to .5": ...} for success .5; None where a curve does not get there."""
    goal = f"{success:.1f}".removeprefix("0")
    there = {f"{unit} to {goal}": [where(points, 3, success, column) for points in some]
             for column, unit in ((1, "tokens"), (2, "seconds"))}
    return {name: [None if value is None else round(value) for value in values] for name, values in there.items()}


def success_at(some, tokens):
    """Mean and standard error of success where so many tokens were sampled, as text; None where a curve ends before."""
    values = [where(points, 1, tokens, 3) for points in some]
    return None if None in values else spread(values)


def spread(values):
    """Mean and standard error over seeds, as text; of one seed the value alone."""
    error = f" +- {stdev(values) / len(values) ** 0.5:.3f}" if len(values) > 1 else ""
    return f"{mean(values):.3f}{error}"


def by_iteration(some):
    """{iteration: its point in each curve} of the iterations after which all of some runs were evaluated."""
    points = [{point[0]: point for point in points} for points in some]
    return {step: [mine[step] for mine in points] for step in sorted(set.intersection(*map(set, points)))}


def table(curves, rivals):
    """A row per variant: success over the iterations, tokens and seconds to .5, at equal tokens, tokens in all.

    Equal tokens: what the first variant needs to .5 on average, and where the shortest run of a rival ends.
    """
    rows, equal = [], []
    first = [where(points, 3, 0.5, 1) for points in next(iter(curves.values()), [])]
    if first and None not in first:
        equal.append(round(mean(first)))
    if ends := [points[-1][1] for name in rivals for points in curves.get(name, [])]:
        equal.append(min(ends))
    for name, some in curves.items():
        success = {step: spread([point[3] for point in points]) for step, points in by_iteration(some).items()}
        row = {"variant": name, "seeds": len(some), "success": success, **costs(some, 0.5),
               "at equal tokens": {tokens: success_at(some, tokens) for tokens in equal},
               "tokens": round(mean(points[-1][1] for points in some)),
               "seconds": round(mean(points[-1][2] for points in some))}
        rows.append(row)
        text = ", ".join(f"{step}: {value}" for step, value in success.items() if step in (0, 5, *range(10, 99, 10)))
        same = "".join(f"at {tokens:,} tokens {value}; " for tokens, value in row["at equal tokens"].items())
        print(f"{name} ({len(some)} seeds): {text}\n    to .5: {row['tokens to .5']} tokens, {row['seconds to .5']} "
              f"seconds; {same}in all {row['tokens']:,} tokens, {row['seconds']} s")
    return rows


def crossing(curves):
    """When a bank pays, per BASE: success before training, at the end, and where the shortest run ends; cost of .7."""
    rows = []
    for base in RARITY:
        mine = {rival: curves[f"{rival} base {base}"] for rival in RIVALS if f"{rival} base {base}" in curves}
        equal = min((points[-1][1] for some in mine.values() for points in some), default=0)
        for rival, some in mine.items():
            last = [points[-1][3] for points in some]
            rows.append({"base": base, "rival": rival, "seeds": len(some), "before": some[0][0][3],
                         "last": spread(last), "successes": last,
                         "at equal tokens": {equal: success_at(some, equal)}, **costs(some, 0.7)})
            print(rows[-1])
    return rows


def gains(curves):
    """A row per variant of the counter. curves: {label: {seed: points}}.

    Success at so many tokens and at the end; how much SkillMaster has more, paired by seed, in the same towns and
    rules ("12 towns" for "12 towns: one advantage"); right reviews since the evaluation before the last; facts; costs.
    """
    rows = []
    for name, some in curves.items():
        first = curves.get(rival(name), {})
        ends = [points[-1] for points in some.values()]
        row = {"variant": name, "seeds": len(ends), "before": spread([points[0][3] for points in some.values()]),
               "at the end": spread([end[3] for end in ends])}
        for tokens in AT:
            at, whole = ({seed: where(points, 1, tokens, 3) for seed, points in runs.items()} for runs in (some, first))
            if None not in at.values():
                row[f"at {tokens}"] = spread(list(at.values()))
                more = [whole[seed] - at[seed] for seed in at if whole.get(seed) is not None]  # of seeds that both have
                row[f"SkillMaster more at {tokens}"] = spread(more) if more else None
        right = [end[4] for end in ends if end[4] is not None]
        rows.append({**row, "right reviews": spread(right) if right else None,
                     "facts": spread([end[5] for end in ends]) if right else None,
                     "tokens": round(mean(end[1] for end in ends)), "seconds": round(mean(end[2] for end in ends))})
    print(markdown(rows))
    return rows


def markdown(rows) -> str:
    """The counter's rows as its README has them."""
    more = [f"SkillMaster more at {tokens}" for tokens in AT[1:]]
    names = ["seeds", *(f"at {tokens}" for tokens in AT), *more, "right reviews", "facts"]
    titles = ["variant", "lr", *(re.sub("000$", "k", name) for name in names), "tokens", "minutes"]
    lines = [f"| {' | '.join(titles)} |", "|" + "---|" * len(titles)]
    for row in rows:
        rate, _, _ = COUNTER[row["variant"]]
        shown = row | dict.fromkeys(more) if row["variant"] == rival(row["variant"]) else row
        cells = [row["variant"], rate.split()[0], *(short(shown.get(name)) for name in names),
                 f"{row['tokens'] / 1000:.0f}k", f"{row['seconds'] / 60:.0f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def rival(name) -> str:
    """The variant that one of the counter's is compared with: the whole method with the same towns and rules."""
    world = name.partition(":")[0]
    return world if ":" in name or "towns" in name else "SkillMaster"


def short(value) -> str:
    """A number as READMEs write it; "-" of None."""
    return "-" if value is None else re.sub(r"\b0\.", ".", str(value)).replace("+-", "±")


def chosen(curves):
    """Success at TUNED_AT per variant and learning rate, on the seeds of `rates`: the best is to be taken."""
    rows = []
    for name, some in curves.items():
        label, _, rate = name.partition(", lr ")
        ends = [where(points, 1, TUNED_AT, 3) for points in some.values()]
        ends = [points[-1][3] if end is None else end for end, points in zip(ends, some.values())]
        rows.append({"variant": label, "lr": rate, "seeds": len(ends), "success": spread(ends)})
        print(f"{label}, lr {rate}: {rows[-1]['success']} ({len(ends)} seeds)")
    return rows


def tested(tests):
    """Success on test goals without and with the bank, over the families a run has seen and those it has not."""
    rows = []
    for name, some in tests.items():
        every = some[0]["none"].keys() - {"all"}
        seen = every & set(SEEN.split(","))
        groups = {"families seen": seen, "families not seen": every - seen} if name == "transfer" else {"all": every}
        for group, protocol in ((group, protocol) for group in groups for protocol in ("none", "frozen")):
            games = [[points[protocol][family] for family in groups[group]] for points in some]
            success = spread([sum(share * n for share, n in mine) / sum(n for _, n in mine) for mine in games])
            rows.append({"run": name, "games": group, "protocol": protocol, "success": success})
            print(f"{name}, {group}, {'without bank' if protocol == 'none' else 'with bank'}: {success} "
                  f"({len(some)} seeds)")
    return rows


def banded(x, values):
    """A point of a curve with a band: mean, smallest and largest."""
    return x, mean(values), min(values), max(values)


def success_panels(curves):
    """Success against tokens and against seconds: a line through the means, a band of the smallest and largest."""
    tokens = Panel({}, "thousand sampled tokens, all of them", "success on held-out goals", top=1)
    seconds = Panel({}, "seconds of iterations on one core", top=1)
    for panel, column, unit in ((tokens, 1, 1000), (seconds, 2, 1)):
        for label, some in curves.items():
            panel.curves[label] = [banded(mean(point[column] / unit for point in points),
                                          [point[3] for point in points]) for points in by_iteration(some).values()]
    return [tokens, seconds]


def crossing_panels(rows):
    """Success at the end and tokens to .7, against BASE."""
    end = Panel({}, "BASE: how often habits show unasked", "success on held-out goals at the end", top=1)
    cost = Panel({}, "BASE; a dot per seed that got there", "thousand sampled tokens until .7", lines=False)
    for row in rows:
        label = f"{row['rival']}, {RIVALS[row['rival']][0]} iterations"
        end.curves.setdefault(label, []).append(banded(row["base"], row["successes"]))
        there = [(row["base"], tokens / 1000) for tokens in row["tokens to .7"] if tokens is not None]
        cost.curves.setdefault(label, []).extend(there)
    return [end, cost]


def tell(part, seeds, out):
    """Print a part's table and draw its figures; returns the rows. seeds: {label: {seed: points}}"""
    curves = {label: list(some.values()) for label, some in seeds.items()}
    if part in ("claims", "rates"):
        return tested(curves) if part == "claims" else chosen(seeds)
    if part == "rarity":
        rows = crossing(curves)
        figures = {part: crossing_panels(rows)}
    elif part == "counter":
        rows = gains(seeds)
        figures = {part: [replace(success_panels({label: curves[label] for label in labels if label in curves})[0],
                                  title=title) for title, labels in DESIGNS.items()
                          if len(curves.keys() & set(labels)) > 1]}
    else:
        main = MAIN if part == "variants" else tuple(curves)
        rows = table(curves, main)
        figures = {part: success_panels({label: curves[label] for label in curves if label in main}),
                   "parts": success_panels({label: curves[label] for label in curves if label not in main[1:]})}
    for name, panels in figures.items():
        if panels and panels[0].curves and (name == part or part == "variants"):
            try:
                draw(panels, out / f"{name}.png")
            except ValueError as error:  # no matplotlib
                print(error)
    return rows


def main():
    parser = argparse.ArgumentParser(description="Compare SkillMaster with its ablations and with plain GRPO.")
    parser.add_argument("--list", action="store_true", help="print the commands of the runs that are not finished")
    parser.add_argument("--parts", metavar="LIST", default="variants", help=f"of {','.join(PARTS)} (default: variants)")
    parser.add_argument("--quick", action="store_true", help=f"one seed; of the variants {'; '.join(QUICK)}")
    parser.add_argument("--only", metavar="TEXT", default="", help="only the variants whose name has this in it")
    parser.add_argument("--seeds", metavar="N", type=int, help="so many seeds of everything (default: each its own)")
    parser.add_argument("--steps", metavar="N", type=int, help="iterations of every run (default: each its own)")
    parser.add_argument("--model", metavar="TEXT", type=path_of, default="tiny",
                        help="checkpoint to begin with (default: tiny)")
    parser.add_argument("--flags", metavar="TEXT", default="", help="more flags of train.py, for every run")
    parser.add_argument("--known", metavar="FILE", type=path_of, help="runs.json of runs that need not be made")
    parser.add_argument("--out", metavar="DIR", type=path_of, default="runs/ablations", help="default: %(default)s")
    args = parser.parse_args()
    args.out = Path(args.out)
    args.data, args.parts = os.environ.get("WEBSHOP_DATA", ""), args.parts.split(",")
    if unknown := set(args.parts) - PARTS.keys():
        parser.error(f"--parts {','.join(sorted(unknown))}: choose from {', '.join(PARTS)}")
    if "real_shop" in args.parts and not args.data:
        parser.error("--parts real_shop: set WEBSHOP_DATA to the directory of the real products")
    if args.known and (args.model != "tiny" or args.flags):
        parser.error("--known: its runs are those of tiny, without --model and --flags")
    if args.seeds is not None and args.seeds < 1 or args.steps is not None and args.steps < 1:
        parser.error("--seeds and --steps must be at least 1")
    if args.list and "alfworld" in args.parts and downloaded():
        parser.error(f"--parts alfworld is of generated games, and those in {household.DOWNLOAD} would be played; move "
                     "them for that time")
    runs = [run for part in args.parts for run in runs_of(args, part)]
    if not runs:
        parser.error(f"--only {args.only}: no variant has that in its name: {', '.join(VARIANTS)}")
    try:
        known = read_json(args.known, "give the runs.json of earlier runs") if args.known else {}
    except (OSError, ValueError) as error:
        parser.error(f"--known: {error}")
    if args.known and not known.keys() & {run.name for run in runs}:
        parser.error(f"--known {args.known}: holds none of these runs")
    args.out.mkdir(parents=True, exist_ok=True)
    hand_written(WAYS, WAYS.families).save(args.out / "hand_written.json")
    found, result = results(args.out, runs, known), {}
    same_flags(args, runs, found)
    if args.list:
        for line in commands(args, runs, found):
            print(line)
        return
    for part in args.parts:
        curves: dict = {}
        for run in runs:
            if run.part == part and run.name in found:
                curves.setdefault(run.label, {})[run.seed] = found[run.name]
        result[part] = tell(part, curves, args.out)
    write_atomic(args.out / "ablations.json", json.dumps(result, indent=1) + "\n")
    lines = [f"{json.dumps(name)}: {json.dumps(points)}" for name, points in (known | found).items()]
    write_atomic(args.out / "runs.json", "{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    with guard("studies.ablations", None, (ValueError, *BROKEN)):
        main()
