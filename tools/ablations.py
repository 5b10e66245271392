"""
The whole comparison in the made-up shop: `python -m tools.ablations` (--quick, --help). Three parts, and other worlds:

    variants   SkillMaster, itself without one part at a time, and its baselines: success against tokens and seconds
    rarity     when does a bank pay? SkillMaster and plain GRPO from checkpoints that do what the skills say, unasked,
               seldom or often (the shoppers' BASE)
    claims     what is left when the bank is taken away after 5, 10, 20 iterations; trained on four families, what do
               the weights and the bank do for the other three?
    alfworld   SkillMaster and plain GRPO in generated ALFWorld games
    real_shop  the same in the real WebShop; its data in $WEBSHOP_DATA

All runs of the wanted parts are made two side by side, each on one core, seeds first. A run that is finished is not
made again, a killed one is resumed. Afterwards (with --jobs 0: at once) the tables are printed and written to
OUT/ablations.json, the figures with matplotlib to OUT/variants.png, parts.png, rarity.png, alfworld.png and
real_shop.png, from what is finished.

Tokens are all sampled ones: acting, reviewing, probing, confirming. Seconds are those of the iterations on one core.

OUT/runs.json holds the points of the finished runs of these parts, a line each. With --known FILE such points,
measured earlier or elsewhere, are taken instead of making those runs; `--jobs 0 --known worlds/webshop/tiny/runs.json`
gives the README's first table and figure.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import train
from lib.files import read_json, write_atomic
from lib.models import shipped
from skillbank import Skill, SkillBank
from tools.flags import presets_of
from tools.report import SECONDS, lines_of
from worlds.webshop.shopper import WAYS

ROOT = Path(__file__).parents[1]
# Variant -> (seeds, iterations, flags). BANK is the hand-written bank. An iteration of plain GRPO samples about an
# eighth of the tokens, so it gets more of them. The first is evaluated after each, so that its way up is seen.
VARIANTS = {
    "SkillMaster, graded utility": (5, 20, "--utility graded --eval_every 1"),
    "SkillMaster": (5, 20, "--utility success"),
    "plain GRPO": (5, 40, "--reviews off"),
    "plain GRPO, graded reward": (5, 40, "--reviews off --reward graded"),
    "GiGPO": (3, 40, "--reviews off --advantage gigpo"),
    "GiGPO, graded reward": (3, 40, "--reviews off --advantage gigpo --reward graded"),
    "single advantage": (5, 10, "--advantage single"),
    "reviews not trained": (3, 10, "--advantage act_only"),
    "all edits, unprobed": (3, 10, "--commit all"),
    "no confirmation": (3, 10, "--confirm 0"),
    "clipped U, alpha 0.2": (3, 10, "--clip_utility --alpha 0.2"),
    "unpaired probes": (3, 10, "--unpaired"),
    "bank only": (3, 10, "--lr 0"),
    "hand-written bank, frozen": (3, 10, "--reviews off --bank BANK"),
}
QUICK, MAIN = tuple(VARIANTS)[:4], tuple(VARIANTS)[:6]  # MAIN: the baselines are in it; the rest are parts left out
RARITY = (0.05, 0.1, 0.2, 0.35, 0.5)  # BASE
FURTHER = ("--cold_start 1200 --sft_batch 2 --sft_lr 1e-3 --sft_muon 0.005 --sft_copy 5 --seed 8 --context 3072 "
           "--act_tokens 96 --review_tokens 160 --eval_every 0")  # half as many as worlds/webshop/tiny/make.sh's last
RIVALS = {"SkillMaster": (10, "--utility graded"), "plain GRPO": (40, "--reviews off"),
          "plain GRPO, graded reward": (40, "--reviews off --reward graded")}
# World -> its rivals, (seeds, iterations, flags).
WORLDS = {
    "alfworld": {"SkillMaster": (3, 10, "--env alfworld"), "plain GRPO": (3, 20, "--env alfworld --reviews off")},
    "real_shop": {"SkillMaster": (3, 20, ""), "plain GRPO": (3, 40, "--reviews off")},
}
STAGES = (5, 10, 20)  # iterations after which the bank is taken away
SEEN = "accessories,apparel,electronics,footwear"
KNOWN: dict = {}  # --known: name of a run or test -> its points()


def hand_written():
    """A bank with every useful skill of every family, in the words of the scripted shoppers."""
    bank = SkillBank()
    for family in WAYS.families:
        texts = [text for text in WAYS.texts(family) if text["kind"] == "useful"]
        bank.task_specific_skills[family] = [
            Skill(f"dyn_{len(bank.skills()) + i + 1:03d}", text["title"], text["principle"], text["when_to_apply"])
            for i, text in enumerate(texts)]
    return bank


@dataclass
class Train:
    """A run of train.py up to an iteration; 0: the cold start alone. asked: is its curve an answer?"""

    run: Path
    steps: int
    flags: list
    asked: bool = True

    @property
    def name(self):
        return self.run.name

    def known(self):
        """Its points where --known has them as far as the run is to go, else None."""
        points = KNOWN.get(self.name)
        return points if points and points[-1][0] >= self.steps else None

    def done(self):
        latest = self.run / "latest"
        made = int(latest.read_text().strip().removeprefix("step_")) if latest.is_file() else -1
        return self.known() is not None or made >= self.steps

    def argv(self):
        resume = ["--resume"] if (self.run / "config.json").is_file() else []
        return ["train.py", "--env", "webshop", "--out", str(self.run), "--steps", str(self.steps), *self.flags,
                *resume]

    def points(self):
        """[(iteration, sampled tokens so far, seconds so far, held-out success)] of a run that is done."""
        if known := self.known():
            return known
        points, tokens, seconds = [], 0, 0.0
        for row in lines_of(self.run / "metrics.jsonl"):
            tokens += row.get("sampled", 0)
            seconds += sum(row[part] for part in SECONDS) if row["step"] else 0.0
            if "eval_success" in row:
                points.append((row["step"], tokens, round(seconds, 1), row["eval_success"]))
        return points


@dataclass
class Test:
    """An evaluation of a run as it is then: all test goals, with its bank and without."""

    run: Path
    file: Path

    asked = True

    @property
    def name(self):
        return f"{self.run.name}/{self.file.name}"

    def done(self):
        return self.name in KNOWN or self.file.is_file() and len(self.points()) == 2  # one protocol: it was cut off

    def argv(self):
        return ["eval.py", str(self.run), "--split", "test", "--protocols", "none,frozen", "--out", str(self.file)]

    def points(self):
        """{protocol: {family: [games won, games]}}"""
        if self.name in KNOWN:
            return KNOWN[self.name]
        counts: dict = {}
        for protocol, result in json.loads(self.file.read_text())["protocols"].items():
            for e in result["episodes"]:
                count = counts.setdefault(protocol, {}).setdefault(e["family"], [0, 0])
                count[0] += e["won"]
                count[1] += 1
        return counts


def preset():
    """The flags that --model tiny has by itself, for other checkpoints of it."""
    return [text for name, value in presets_of("webshop", train.PRESETS)["tiny"].items() if name != "steps"
            for text in (f"--{name}", str(value))]


def directory(out, name, seed):
    return out / f"{''.join(c if c.isalnum() else '_' for c in name)}_{seed}"


def needed(made):
    """What is asked for, and what leads there where some of it is missing."""
    answers = [one for one in made if one.asked]
    return answers if all(one.done() for one in answers) else made


def compared(args, rivals, prefix=""):
    """[(name, seed, [what is to be made, one after another])] of rivals {name: (seeds, iterations, flags)}."""
    bank = str(args.out / "hand_written.json")
    return [(name, seed, [Train(directory(args.out, prefix + name, seed), args.steps or steps,
                                ["--model", args.model, "--seed", str(seed),
                                 *(bank if word == "BANK" else word for word in flags.split()), *args.flags.split()])])
            for name, (seeds, steps, flags) in rivals.items()
            for seed in range(args.seeds or (1 if args.quick else seeds))]


def variants(args):
    """The jobs of the comparison in the made-up shop."""
    return compared(args, {name: rival for name, rival in VARIANTS.items()
                           if (not args.quick or name in QUICK) and (args.only or "") in name})


def rarity(args):
    """A job per BASE: a checkpoint made from the shipped one, then the rivals' runs from it."""
    jobs, model = [], str(shipped("webshop")) if args.model == "tiny" else args.model
    for base in RARITY:
        start = args.out / f"base_{base}"
        made = [Train(start, 0, ["--model", model, "--base", str(base), *FURTHER.split()], asked=False)]
        for seed in range(args.seeds or (1 if args.quick else 3)):
            for name, (steps, flags) in RIVALS.items():
                run = directory(args.out, f"{name} base {base}", seed)
                made.append(Train(run, args.steps or steps, [
                    "--model", str(start / "reference"), "--seed", str(seed), *preset(), *flags.split(),
                    *args.flags.split()]))
        jobs.append((f"BASE {base}", 0, needed(made)))
    return jobs


def claims(args):
    """Per seed: a run that is tested after 5, 10 and 20 iterations, and one that sees four of the seven families."""
    jobs = []
    for seed in range(args.seeds or (1 if args.quick else 3)):
        flags = ["--model", args.model, "--seed", str(seed), "--eval_every", "0", *args.flags.split()]
        run, made = directory(args.out, "withdrawn", seed), []
        for steps in STAGES:
            made += [Train(run, steps, flags, asked=False), Test(run, run / f"test_{steps}.json")]
        jobs.append(("withdrawn", seed, needed(made)))
        run = directory(args.out, "transfer", seed)
        jobs.append(("transfer", seed, needed([Train(run, STAGES[-1], [*flags, "--families", SEEN], asked=False),
                                               Test(run, run / "test.json")])))
    return jobs


def elsewhere(args, world):
    """The jobs of the comparison in another world."""
    jobs = compared(args, WORLDS[world], f"{world} ")
    if world == "real_shop":
        if not (data := os.environ.get("WEBSHOP_DATA")):
            sys.exit("tools.ablations: --parts real_shop: set WEBSHOP_DATA to the directory of the real products")
        for _, _, (run,) in jobs:
            run.flags += ["--data", data]
    return jobs


PARTS = {"variants": variants, "rarity": rarity, "claims": claims,
         **{world: partial(elsewhere, world=world) for world in WORLDS}}


def make(args, jobs):
    """Make what is missing, args.jobs at a time; seeds first, so that early tables compare the same seeds."""
    waiting = [job for job in sorted(jobs, key=lambda job: job[1]) if not all(one.done() for one in job[2])]
    environment, running = {**os.environ, "OMP_NUM_THREADS": "1"}, []
    environment.pop("WEBSHOP_DATA", None)  # the made-up shop's runs must not play the real one
    while waiting or running:
        while waiting and len(running) < args.jobs:
            name, seed, made = waiting.pop(0)
            running.append((name, seed, iter(made), None, None))
            print(f"{time.strftime('%H:%M')} {name}, seed {seed} ({len(waiting)} waiting)", flush=True)
        for i, (name, seed, left, one, process) in reversed(list(enumerate(running))):
            if process and process.poll() is None:
                continue
            if process and process.returncode:
                print(f"{name}, seed {seed}: failed, see {one.run}.log", flush=True)
                del running[i]
            elif one := next((one for one in left if not one.done()), None):
                with open(f"{one.run}.log", "a") as log:
                    process = subprocess.Popen([sys.executable, *one.argv()], cwd=ROOT, env=environment, stdout=log,
                                               stderr=log)
                running[i] = name, seed, left, one, process
            else:
                del running[i]
        time.sleep(1)


# ---- The tables and the figures -------------------------------------------------------------------------------------


def curves_of(jobs):
    """{name: [curve of a run, ...]} of the runs that are finished; of a job its last run."""
    curves: dict = {}
    for name, _, made in jobs:
        if made[-1].done() and (points := made[-1].points()):
            curves.setdefault(name, []).append(points)
    return curves


def reached(points, success, column):
    """Tokens (column 1) or seconds (2) at which a curve first reaches a success, between evaluations by a line."""
    if points[0][3] >= success:
        return 0
    for before, after in zip(points, points[1:]):
        if before[3] < success <= after[3]:
            share = (success - before[3]) / (after[3] - before[3])
            return before[column] + share * (after[column] - before[column])
    return None


def at(points, tokens):
    """Success of a curve where so many tokens were sampled, between evaluations by a line; None beyond its end."""
    for before, after in zip(points, points[1:]):
        if before[1] <= tokens <= after[1]:
            return before[3] + (tokens - before[1]) / (after[1] - before[1]) * (after[3] - before[3])
    return None


def costs(curves, success):
    """{"tokens to .5": of each curve, "seconds to .5": ...} for success .5; None where a curve does not get there."""
    name = f"{success:.1f}".removeprefix("0")
    there = {unit: [reached(points, success, column) for points in curves]
             for column, unit in ((1, "tokens"), (2, "seconds"))}
    return {f"{unit} to {name}": [value and round(value) for value in values] for unit, values in there.items()}


def success_at(curves, tokens):
    """Mean and standard error of success where so many tokens were sampled, as text; None where a curve ends before."""
    values = [at(points, tokens) for points in curves]
    return None if None in values else spread(values)


def in_common(curves):
    """The iterations after which each of some runs was evaluated."""
    return sorted(set.intersection(*({point[0] for point in points} for points in curves)))


def spread(values):
    """Mean and standard error over seeds, as text; of one seed the value alone."""
    mean = f"{statistics.mean(values):.3f}"
    return f"{mean} +- {statistics.stdev(values) / len(values) ** 0.5:.3f}" if len(values) > 1 else mean


def table(curves, rivals):
    """A row per variant: success over the iterations, tokens and seconds to .5, at equal tokens, tokens in all.

    Equal tokens: what the first variant needs to .5 on average, and where the shortest run of a rival ends.
    """
    rows, equal = [], []
    first = [reached(points, 0.5, 1) for points in next(iter(curves.values()), [])]
    if first and None not in first:
        equal.append(round(statistics.mean(first)))
    if ends := [points[-1][1] for name in rivals for points in curves.get(name, [])]:
        equal.append(min(ends))
    for name, some in curves.items():
        success = {step: spread([p[3] for points in some for p in points if p[0] == step])
                   for step in in_common(some)}
        rows.append({
            "variant": name, "seeds": len(some), "success": success, **costs(some, 0.5),
            "at equal tokens": {tokens: success_at(some, tokens) for tokens in equal},
            "tokens": round(statistics.mean(points[-1][1] for points in some)),
            "seconds": round(statistics.mean(points[-1][2] for points in some))})
        text = ", ".join(f"{step}: {value}" for step, value in success.items() if step in (0, 5, *range(10, 99, 10)))
        same = "".join(f"at {tokens:,} tokens {value}; " for tokens, value in rows[-1]["at equal tokens"].items())
        print(f"{name} ({len(some)} seeds): {text}\n    to .5: {rows[-1]['tokens to .5']} tokens, "
              f"{rows[-1]['seconds to .5']} seconds; {same}in all {rows[-1]['tokens']:,} tokens, "
              f"{rows[-1]['seconds']} s")
    return rows


def pyplot():
    """matplotlib without a screen, or None where it is not installed."""
    try:
        import matplotlib
    except ImportError:
        return print("no figures: pip install matplotlib")
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    return plt


def draw(plt, curves, file):
    """Success against tokens and against seconds: a line through the means, a band of the smallest and largest."""
    fig, axes = plt.subplots(1, 2, figsize=(11, 4), sharey=True, constrained_layout=True)
    for number, (name, some) in enumerate(curves.items()):
        steps, at_step = in_common(some), [{point[0]: point for point in points} for points in some]
        look = {"color": f"C{number % 10}"}
        for axis, column in zip(axes, (1, 2)):
            x = [statistics.mean(points[step][column] for points in at_step) for step in steps]
            y = [[points[step][3] for points in at_step] for step in steps]
            style = "o-" if number < 10 else "o--"
            axis.plot(x, [statistics.mean(values) for values in y], style, label=name, markersize=3, **look)
            axis.fill_between(x, list(map(min, y)), list(map(max, y)), alpha=0.15, **look)
    axes[0].set(xlabel="sampled tokens, all of them", ylabel="success on held-out goals", ylim=(0, 1))
    axes[1].set(xlabel="seconds of iterations on one core")
    axes[0].legend(fontsize=8)
    fig.savefig(file, dpi=80)
    plt.close(fig)


def crossing(jobs, plt, file):
    """When a bank pays, per BASE: success before training, at the end, and where the shortest run ends; cost of .7."""
    rows = []
    for name, _, made in jobs:
        curves = {}
        for rival in RIVALS:
            mine = directory(Path(), f"{rival} {name.lower()}", "").name
            if some := [one.points() for one in made if one.name.startswith(mine) and one.done()]:
                curves[rival] = some
        equal = min((points[-1][1] for some in curves.values() for points in some), default=0)
        for rival, some in curves.items():
            rows.append({"base": float(name.split()[1]), "rival": rival, "seeds": len(some),
                         "before": some[0][0][3], "last": spread([points[-1][3] for points in some]),
                         "successes": [points[-1][3] for points in some],
                         "at equal tokens": {equal: success_at(some, equal)}, **costs(some, 0.7)})
            print(rows[-1])
    if plt and rows:
        fig, axes = plt.subplots(1, 2, figsize=(11, 4), constrained_layout=True)
        for number, rival in enumerate(RIVALS):
            mine = [row for row in rows if row["rival"] == rival]
            x, y = [row["base"] for row in mine], [row["successes"] for row in mine]
            axes[0].plot(x, list(map(statistics.mean, y)), "o-", color=f"C{number}",
                         label=f"{rival}, {RIVALS[rival][0]} iterations")
            axes[0].fill_between(x, list(map(min, y)), list(map(max, y)), alpha=0.15, color=f"C{number}")
            for row in mine:
                there = [value for value in row["tokens to .7"] if value is not None]
                axes[1].plot([row["base"]] * len(there), there, "o", color=f"C{number}")
        axes[0].set(xlabel="BASE: how often the shoppers did by themselves what a skill says", ylim=(0, 1),
                    ylabel="success on held-out goals at the end")
        axes[1].set(xlabel="BASE; a dot per seed, none where it was not reached", ylabel="sampled tokens until .7")
        axes[0].legend(fontsize=8)
        fig.savefig(file, dpi=80)
        plt.close(fig)
    return rows


def tested(jobs):
    """Success on test goals without and with the bank, over the families a run has seen and those it has not."""
    rows: dict = {}
    for name, _, made in jobs:
        for one in made:
            if isinstance(one, Test) and one.done():
                for protocol, families in one.points().items():
                    groups = {"all": families} if name == "withdrawn" else {
                        word: [family for family in families if (family in SEEN.split(",")) == seen]
                        for word, seen in (("families seen", True), ("families not seen", False))}
                    for group, some in groups.items():
                        won, games = map(sum, zip(*(families[family] for family in some)))
                        rows.setdefault((f"{name} {one.file.stem}", group, protocol), []).append(won / games)
    for (name, group, protocol), values in rows.items():
        print(f"{name}, {group}, {'without bank' if protocol == 'none' else 'with bank'}: {spread(values)} "
              f"({len(values)} seeds)")
    return [{"run": name, "games": group, "protocol": protocol, "success": spread(values)}
            for (name, group, protocol), values in rows.items()]


def read_runs(file):
    """{name: points()} of a runs.json. ValueError names the file, and the run whose points are none."""
    advice = "give the runs.json of earlier runs"
    runs = read_json(file, advice)
    for name, points in runs.items():
        curve = isinstance(points, list) and all(isinstance(point, list) and len(point) == 4 for point in points)
        if not points or not (curve or isinstance(points, dict)):
            raise ValueError(f"{file}: {name} holds no points; {advice}")
    return runs


def main():
    parser = argparse.ArgumentParser(description="Compare SkillMaster with its ablations and with plain GRPO.")
    parser.add_argument("--parts", metavar="LIST", default="variants", help=f"of {','.join(PARTS)} (default: variants)")
    parser.add_argument("--quick", action="store_true", help=f"one seed; of the variants {'; '.join(QUICK)}")
    parser.add_argument("--only", metavar="TEXT", help="only the variants whose name has this in it")
    parser.add_argument("--seeds", metavar="N", type=int, help="so many seeds of everything (default: 5 or 3)")
    parser.add_argument("--steps", metavar="N", type=int, help="iterations of every run (default: each its own)")
    parser.add_argument("--model", metavar="TEXT", default="tiny", help="checkpoint to begin with (default: tiny)")
    parser.add_argument("--flags", metavar="TEXT", default="", help="more flags of train.py, for every run")
    parser.add_argument("--jobs", metavar="N", type=int, default=2, help="runs side by side; 0: only the tables")
    parser.add_argument("--known", metavar="FILE", type=Path, help="runs.json of runs that need not be made")
    parser.add_argument("--out", metavar="DIR", type=Path, default=Path("runs/ablations"), help="default: %(default)s")
    args = parser.parse_args()
    args.out = args.out.resolve()
    for name, least in {"seeds": 1, "steps": 1, "jobs": 0}.items():
        if getattr(args, name) is not None and getattr(args, name) < least:
            parser.error(f"--{name} {getattr(args, name)}: must be at least {least}")
    if unknown := set(args.parts.split(",")) - PARTS.keys():
        parser.error(f"--parts {','.join(sorted(unknown))}: choose from {', '.join(PARTS)}")
    if args.known:
        if args.model != "tiny" or args.flags:
            parser.error("--known: its runs are those of tiny, without --model and --flags")
        try:
            KNOWN.update(read_runs(args.known))
        except (OSError, ValueError) as error:
            parser.error(f"--known: {error}")
    jobs = {part: PARTS[part](args) for part in args.parts.split(",")}
    made = [one for some in jobs.values() for _, _, chain in some for one in chain]
    if args.known and not KNOWN.keys() & {one.name for one in made}:
        parser.error(f"--known {args.known}: holds none of these runs")
    if not any(jobs.values()):
        parser.error(f"--only {args.only}: no variant has that in its name: {', '.join(VARIANTS)}")
    args.out.mkdir(parents=True, exist_ok=True)
    hand_written().save(args.out / "hand_written.json")
    if args.jobs:
        make(args, [job for some in jobs.values() for job in some])
    plt, result = pyplot(), {}
    for part, some in jobs.items():
        if part == "variants":
            curves = curves_of(some)
            result[part] = table(curves, MAIN)
            for file, names in (("variants.png", MAIN), ("parts.png", [QUICK[0], *(set(VARIANTS) - set(MAIN))])):
                if plt and (these := {name: curves[name] for name in VARIANTS if name in names and name in curves}):
                    draw(plt, these, args.out / file)
        elif part in WORLDS:
            if curves := curves_of(some):
                result[part] = table(curves, curves)
                if plt:
                    draw(plt, curves, args.out / f"{part}.png")
        else:
            result[part] = crossing(some, plt, args.out / "rarity.png") if part == "rarity" else tested(some)
    write_atomic(args.out / "ablations.json", json.dumps(result, indent=1) + "\n")
    found = KNOWN | {one.name: one.points() for one in made if one.asked and one.done()}
    lines = [f"{json.dumps(name)}: {json.dumps(points)}" for name, points in found.items()]
    write_atomic(args.out / "runs.json", "{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
