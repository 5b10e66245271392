"""
What did runs at the counter find out, and what were reviews paid for? `python -m studies.induced RUN ...` (--help)

A skill that helps may have been guessed, or known from a transcript of the cold start. Four tables tell:

    banks      parcels sent of the test split, with no bank, with the run's own, with that of another run, with the true
               rules: a bank that helps only in the town where it was written holds what was found out there
    evidence   the policy plays another town, with an empty bank, and reviews its refusals: does it write down what that
               clerk says (it reads the evidence), or what its own town wants (it remembers)?
    unseen     facts whose wording stood in no transcript of the cold start, against all others: how many are known;
               and whether the rule that holds everywhere is known as a general one
    paid       the mean advantage of a review, where the seal was refused (lost) and where it was accepted, by what it
               did: why each job is normalised against its own kind. Runs with one advantage stand beside those with two

Each number is a mean over the runs, with its standard error. `--oracle SEED FILE` writes the true rules of a seed as a
bank, for eval.py's --bank.
"""

import argparse
from collections import Counter, defaultdict
from pathlib import Path
from statistics import mean

import envs
from lib.files import read_json, try_to_write
from lib.streams import mix
from skillbank import SkillBank
from studies.ablations import hand_written, spread
from tools import results, targets
from tools.flags import path_of
from tools.guard import BROKEN, guard
from tools.report import lines_of
from worlds.counter.rules import towns, unseen
from worlds.counter.sender import EVERYBODY

ELSEWHERE = 1000  # added to the number of a run's rules: rules that it never met
EARLY = 10  # iterations of the table `paid`: there most rules are still to be found


def banks(policy, env, bank, other, sampling, limit):
    """{whose bank: share of the test games that are won with it}."""
    games = env.tasks[:limit]
    return {name: mean(e.won for e in envs.evaluate(policy, env, one, games, sampling))
            for name, one in {"none": SkillBank(), "own": bank, "of another run": other,
                              "the true rules": hand_written(env.ways, towns)}.items() if one is not None}


def evidence(policy, env, away, sampling, limit, seed):
    """Of the reviews of a refusal in the town of `away`, the shares that write its clerk's words, and its own town's.

    env is the run's own town. Refusals for which both want the same seal say nothing and do not count.
    """
    counts = dict.fromkeys(("the clerk's words", "its own town's rule", "another rule", "none"), 0)
    games = away.train_tasks[:limit]
    for e in envs.rollout(policy, away, games, SkillBank(), 1, seed, sampling, with_review=True):
        pair = e.family, away.sort(e.task)
        there, here = away.ways.rules[pair], env.ways.rules[pair]
        if e.turns[-1].reply.startswith("Refused") and there != here and e.edit:
            rule = away.ways.meaning(e.edit.arguments) if e.edit.changed else None
            fits = rule and rule[0] in (pair[0], EVERYBODY) and rule[1] == pair[1]
            counts["none" if not rule else "the clerk's words" if fits and rule[2] == there
                   else "its own town's rule" if fits and rule[2] == here else "another rule"] += 1
    total = max(sum(counts.values()), 1)
    return {name: count / total for name, count in counts.items()}


def known(env, bank):
    """{wording unseen in the cold start, or seen: share of these facts that the bank knows}.

    everywhere: is the rule that holds in all towns there as what it is, a general skill?
    """
    found = defaultdict(list)
    for (town, kind), seal in env.ways.rules.items():
        told = env.ways.known(env.told(bank, town), town, kind) == seal
        found["unseen" if unseen(town, kind, seal) else "seen"].append(told)
    general = {env.ways.meaning(one) for one in bank.general_skills}
    right = any(env.ways.kind.get(rule) == "right" and rule[0] == EVERYBODY for rule in general)
    return {name: mean(told) for name, told in found.items()} | {"everywhere": float(right)}


def paid(run):
    """{(game, what the review did): (mean advantage, share of the reviews)} of the first iterations."""
    rows = [row for row in lines_of(run / "reviews.jsonl") if 0 < row["step"] <= EARLY]
    found = defaultdict(list)
    for row in rows:
        did = "right edit" if row["kind"] == "right" else "other edit" if row["kind"] else \
            "keep" if row["status"] == "kept" else "invalid"
        found["lost" if not row["score"] else "accepted", did].append(row["a_skill"])
    return {key: (mean(some), len(some) / len(rows)) for key, some in found.items()}


def study(args):
    """Play everything; returns {table: {column: [a value per run]}}."""
    tables = {name: defaultdict(list) for name in ("banks", "evidence", "unseen")}
    opened = [targets.read(targets.parser_of("studies.induced", __doc__), [str(run), "--split", "test"])
              for run in args.runs]
    theirs = [SkillBank.load(one.bank) for one in opened]
    for i, one in enumerate(opened):
        policy, env, bank, sampling = targets.open_target(one)
        away = envs.make("counter", "train", **{**one.options, "rules": env.number + ELSEWHERE})
        other = theirs[i - 1] if len(theirs) > 1 else None
        for name, row in {"banks": banks(policy, env, bank, other, sampling, args.games),
                          "evidence": evidence(policy, env, away, sampling, args.games, mix(0, i)),
                          "unseen": known(env, bank)}.items():
            for column, value in row.items():
                tables[name][column].append(value)
            shares = ", ".join(f"{key} {value:.3f}" for key, value in row.items())
            print(f"{args.runs[i]} {name}: {shares}", flush=True)
    return tables


def payments(runs):
    """{"dual, lost, right edit": mean advantage +- error over runs (mean share of the reviews)}."""
    found, count = defaultdict(list), Counter()
    for run in runs:
        kind = read_json(run / "config.json", "name run directories of train.py").get("advantage", "dual")
        count[kind] += 1
        for (game, did), values in paid(run).items():
            found[f"{kind}, {game}, {did}"].append(values)
    return {name: f"{spread([value for value, _ in some])} "
                  f"({sum(share for _, share in some) / count[name.split(',')[0]]:.2f}, {len(some)} runs)"
            for name, some in sorted(found.items())}


def main():
    parser = argparse.ArgumentParser(prog="studies.induced", description="What runs at the counter found out.")
    parser.add_argument("runs", nargs="*", metavar="RUN", type=path_of, help="finished runs of train.py --env counter")
    parser.add_argument("--games", metavar="N", type=int, help="games per bank (default: all of the test split)")
    parser.add_argument("--paid", action="store_true", help="only the table of advantages, which plays nothing")
    parser.add_argument("--out", metavar="JSON", type=path_of, default="runs/induced.json", help="default: %(default)s")
    parser.add_argument("--oracle", nargs=2, metavar=("SEED", "FILE"), help="write the true rules of a seed as a bank")
    args = parser.parse_args()
    if not args.runs and not args.oracle:
        parser.error("name runs of train.py --env counter, or --oracle SEED FILE")
    args.runs = [Path(run) for run in args.runs]
    with guard("studies.induced", None, (ValueError, *BROKEN)):
        if args.oracle:
            hand_written(envs.make("counter", rules=int(args.oracle[0])).ways, towns).save(args.oracle[1])
            return
        for run in args.runs:
            if not (run / "latest").is_file() or read_json(run / "config.json", "").get("env") != "counter":
                raise ValueError(f"{run} is no finished run of train.py --env counter; name such directories")
        try_to_write(args.out)
        result = {} if args.paid else {name: {column: spread(values) for column, values in table.items()}
                                       for name, table in study(args).items()}
        result["paid"] = payments(args.runs)
        for name, table in result.items():
            print(f"\n{name}: success, or shares, over {len(args.runs)} runs" if name != "paid" else
                  f"\npaid: mean advantage of a review in iterations 1 to {EARLY} (share of all reviews)")
            for column, value in table.items():
                print(f"  {column}: {value}")
        settings = {"runs": [str(run.resolve()) for run in args.runs], "games": args.games, "paid": args.paid}
        results.write(args.out, {"settings": settings, **result})


if __name__ == "__main__":
    main()
