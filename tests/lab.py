"""
What the laptop's numbers rest on, measured: `python -m tests.lab` (a few minutes on 2 cores).

    1. success on held-out goals with no skills, and with useful, neutral and harmful ones written by hand
    2. single edits of an empty bank, every habit in every family and wording: does utility tell them apart?
    3. by how much common random numbers narrow an estimate
    4. what would be committed with and without confirmation, if all habits were proposed equally often
"""

import argparse
import json
import os
import statistics
import sys
from math import sqrt

os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # see train.py

import torch

import envs
import policy as policies
from envs import Sampling, rollout
from eval import evaluate, summary
from policy import mix
from probes import score, utility
from skillbank import Skill, SkillBank
from worlds import catalogue, habits

KINDS = ("useful", "neutral", "harmful")


def bank_of(kind):
    """A bank with every skill of a kind, written by hand, in each family. It is a reference; training never sees it."""
    bank = SkillBank()
    for family in catalogue.FAMILIES:
        texts = [text for text in catalogue.WAYS.texts(family) if text["kind"] == kind]
        bank.task_specific_skills[family] = [
            Skill(f"{family}_{i}", text["title"], text["principle"], text["when_to_apply"])
            for i, text in enumerate(texts)]
    return bank


def play(policy, env, tasks, banks, how, seed):
    """Scores s of probe runs, one per (task, bank); the stream is named by (seed, task) alone."""
    episodes = rollout(policy, env, tasks, banks, seed=seed, how=how, with_review=False,
                       keys=[mix(task) for task in tasks], desc="probes")
    return [score(e.won, e.steps, env.limit) for e in episodes]


def single_edits(policy, env, how, count, seed):
    """[(kind, scores without, with, and without under other random numbers)], `count` probe tasks each."""
    edits, tasks, banks = [], [], []
    for family in catalogue.FAMILIES:
        probes = [task for task in env.dev_tasks + env.train_tasks if env.family(task) == family][:count]
        for wording in range(habits.WORDINGS):
            for text in catalogue.WAYS.texts(family, wording):
                bank = SkillBank()
                call = {"category": family, "evidence": "-", **{k: text[k] for k in
                                                                ("title", "principle", "when_to_apply")}}
                assert bank.apply("propose_skill", call, family)["status"] == "added"
                edits.append((text["kind"], probes))
                tasks, banks = tasks + probes, banks + [bank] * len(probes)
    plain = list(dict.fromkeys(tasks))
    empty = [SkillBank()] * len(plain)
    before, other = (dict(zip(plain, play(policy, env, plain, empty, how, seed + i))) for i in (0, 1))
    after = iter(play(policy, env, tasks, banks, how, seed))
    return [(kind, [before[task] for task in probes], [next(after) for _ in probes], [other[task] for task in probes])
            for kind, probes in edits]


def spread(pairs):
    """Standard deviation of one probe's difference within an edit, pooled over edits."""
    return sqrt(statistics.mean(statistics.variance([b - a for a, b in zip(*pair)]) for pair in pairs))


def main():
    parser = argparse.ArgumentParser(description="Measure success by kind of skill, and what utility tells apart.")
    parser.add_argument("--model", default="tiny", help="checkpoint (default: the shipped one)")
    parser.add_argument("--games", type=int, default=0, help="held-out goals (default: all of dev and test)")
    parser.add_argument("--probes", type=int, default=12, help="probe tasks per edit (default: 12)")
    parser.add_argument("--seed", type=int, default=0, help="of the episodes' random streams (default: 0)")
    parser.add_argument("--out", help="write the figures there as JSON")
    args = parser.parse_args()
    torch.set_flush_denormal(True)
    try:
        env = envs.make("webshop", "test")
        policy = policies.load(args.model)
    except (ValueError, OSError) as error:
        sys.exit(f"tests.lab: {error}")
    how = Sampling(temperature=0.4, act_tokens=96, review_tokens=160, context=3072, top_k=4)
    result = {}
    games = (env.dev_tasks + env.tasks)[:args.games or None]
    for kind in ("none", *KINDS):
        row = summary(evaluate(policy, env, bank_of(kind), games, how, args.seed, kind))["all"]
        p, n = row["success"], row["n"]
        result[f"success {kind}"] = row
        print(f"skills {kind:8} success {p:.3f} +- {sqrt(p * (1 - p) / n):.3f}  score {row['score']:.3f}  steps "
              f"{row['steps']:.1f}  invalid {row['invalid']:.3f}  ({n} held-out goals)", flush=True)

    edits = single_edits(policy, env, how, args.probes, args.seed)
    print(f"{len(edits)} single edits, {args.probes} probe tasks each, in estimates of K = 4")
    for kind in KINDS:
        mine = [edit for edit in edits if edit[0] == kind]
        whole = [utility(before, after) for _, before, after, _ in mine]
        parts = [utility(before[i:i + 4], after[i:i + 4]) for _, before, after, _ in mine
                 for i in range(0, args.probes - 3, 4)]
        row = {"edits": len(mine), "mean": statistics.mean(whole), "positive": sum(u > 0 for u in parts) / len(parts),
               "negative": sum(u < 0 for u in parts) / len(parts), "spread": statistics.stdev(parts)}
        result[f"utility {kind}"] = row
        print(f"{kind:8} {len(mine):3} edits  mean U {row['mean']:+.3f}  U > 0 in {row['positive']:.2f}, U < 0 in "
              f"{row['negative']:.2f} of {len(parts)} estimates, whose spread is {row['spread']:.3f}")
    paired, unpaired = (spread([(edit[i], edit[2]) for edit in edits]) for i in (1, 3))
    result["pairing"] = {"paired": paired, "unpaired": unpaired}
    print(f"spread of one probe's difference: {paired:.3f} with common random numbers, {unpaired:.3f} without: "
          f"{unpaired / paired:.2f} times")
    for name, rule in (("U > 0", lambda first, fresh: first > 0),
                       ("U > 0 and again on 8 fresh probes", lambda first, fresh: first > 0 and fresh > 0)):
        taken = [kind for kind, before, after, _ in edits
                 if rule(utility(before[:4], after[:4]), utility(before[4:12], after[4:12]))]
        bad = sum(kind != "useful" for kind in taken)
        useful = sum(kind == "useful" for kind in taken) / sum(kind == "useful" for kind, *_ in edits)
        result[f"commit {name}"] = {"committed": len(taken), "neutral or harmful": bad, "useful found": useful}
        print(f"commit where {name}: {len(taken)} edits, {bad} of them neutral or harmful "
              f"({bad / max(len(taken), 1):.2f}); {useful:.2f} of the useful ones")
    if args.out:
        with open(args.out, "w", encoding="utf-8") as file:
            json.dump(result, file, indent=1)


if __name__ == "__main__":
    main()
