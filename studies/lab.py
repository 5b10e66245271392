"""
What the made-up worlds and `tiny` rest on, measured: `python -m studies.lab` (--env alfworld, --parts, --help).

    players   success of the scripted players, with no skills in the prompt and with useful, neutral, harmful ones
    replies   tokens of a reply: the page alone, with what we list, with the full list of commands (alfworld)
    skills    success of the policy on held-out games, likewise, with the skills written by hand
    edits     single edits of an empty bank, every habit in every family and wording, judged by success and by the
              graded score: does utility tell them apart, by how much do common random numbers narrow an estimate, how
              well do K probes foretell many others, which share of each kind passes the gate without confirmation and
              with it
"""

import argparse
import os
import random
import statistics
import sys
from math import sqrt

os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # see train.py

import torch

import envs
import policy as policies
import train
from envs import evaluate
from lib.files import try_to_write
from probes import play_pairs, utility, worth
from skillbank import SkillBank
from studies.ablations import hand_written
from tools import results
from tools.coldstart import scripted
from tools.flags import path_of
from tools.guard import BROKEN, guard
from tools.report import summary
from worlds.players import WORDINGS

KINDS = ("useful", "neutral", "harmful")


def families(env):
    return sorted({env.family(task) for task in env.train_tasks})


def bank_of(env, kind):
    """A bank with every skill of a kind, written by hand, in each family. It is a reference; training never sees it."""
    return hand_written(env.ways, families(env), (kind,))


def rate(wins, n):
    """A share of n and its standard error."""
    return f"{wins / n:.3f} +- {sqrt(wins / n * (1 - wins / n) / n):.3f}"


# ---- The parts: each prints its figures and returns them for the JSON -----------------------------------------------


def lab_players(policy, env, args, sampling):
    result, tasks = {}, env.train_tasks[:args.games or 240]
    for kind in ("none", *KINDS):
        bank, won = bank_of(env, kind), 0
        for task in tasks:
            game, shown = env.start(task), bank.task_specific_skills[env.family(task)]
            scripted(env, task, shown, game, env.player(game, task, shown, random.Random(task)))
            won += game.won
        result[kind] = won / len(tasks)
        print(f"players, skills {kind:8} success {rate(won, len(tasks))}  ({len(tasks)} training games)", flush=True)
    return result


def lab_replies(policy, env, args, sampling):
    if not hasattr(env.start(env.tasks[0]), "engine"):
        return None  # the shop's pages hold their own list
    count = {"page": 0, "as we list": 0, "with the full list": 0}
    replies, tasks = 0, env.train_tasks[:args.games or 54]
    for task in tasks:
        game = env.start(task)
        player = env.player(game, task, [], random.Random(task))
        for _ in range(env.limit):
            reply = game.step(player.act(game.observation)[1])
            full = game.observation + "\n" + ", ".join(command for command in game.engine.commands if command != "help")
            for name, text in zip(count, (game.observation, reply, full)):
                count[name] += len(policy.chat.encode(text))
            replies += 1
            if game.done:
                break
    print(f"a reply in tokens of {args.model} ({len(tasks)} training games, {env.source}): "
          + ", ".join(f"{name} {total / replies:.0f}" for name, total in count.items()), flush=True)
    return {name: total / replies for name, total in count.items()}


def lab_skills(policy, env, args, sampling):
    result, games = {}, list(dict.fromkeys(env.dev_tasks + env.tasks))[:args.games or None]
    for kind in ("none", *KINDS):
        result[kind] = summary(evaluate(policy, env, bank_of(env, kind), games, sampling, args.seed, kind))
        row = result[kind]["all"]
        print(f"skills {kind:8} success {rate(row['success'] * row['n'], row['n'])}  score {row['score']:.3f}  steps "
              f"{row['steps']:.1f}  invalid {row['invalid']:.3f}  ({row['n']} held-out games, {env.source})")
        print("  " + ", ".join(f"{family} {row['success']:.2f}" for family, row in result[kind].items()
                               if family != "all"), flush=True)
    return result


def single_edits(policy, env, sampling, count, seed):
    """[(kind, games without, with, without under other random numbers)] of `count` probe tasks each."""
    edits = []
    empty = SkillBank()
    for family in families(env):
        probes = [task for task in env.dev_tasks + env.train_tasks if env.family(task) == family][:count]
        for text in (text for wording in range(WORDINGS) for text in env.ways.texts(family, wording)):
            call = {"category": family, "evidence": "-"} | {
                name: text[name] for name in ("title", "principle", "when_to_apply")}
            edit = empty.tried("propose_skill", call, family)
            assert edit.changed
            edits.append((text["kind"], probes, edit.bank))
    games = [(task, empty, bank) for _, probes, bank in edits for task in probes]
    pairs = iter(play_pairs(policy, env, games, sampling, seed))
    tasks = list(dict.fromkeys(task for task, *_ in games))
    others = play_pairs(policy, env, [(task, empty, empty) for task in tasks], sampling, seed + 1)
    other = {task: game for task, (game, _) in zip(tasks, others)}
    return [(kind, *zip(*((*next(pairs), other[task]) for task in probes))) for kind, probes, _ in edits]


def estimates(before, after, k, **more):
    """U of each k probes in a row."""
    return [utility(before[i:i + k], after[i:i + k], **more) for i in range(0, len(before) - k + 1, k)]


def share(values, name):
    return sum(name(value) for value in values) / max(len(values), 1)


def correlation(a, b):
    """Pearson's; 0 where one of the two never varies."""
    return statistics.correlation(a, b) if len(set(a)) > 1 and len(set(b)) > 1 else 0.0


def lab_edits(policy, env, args, sampling):
    edits = single_edits(policy, env, sampling, args.probes, args.seed)
    result = {}
    for name in ("success", "graded") if env.graded else ("success",):
        scores = [(kind, *([worth(game, env.limit, name) for game in some] for some in games))
                  for kind, *games in edits]
        result[name] = judged(scores, name)
    return result


def judged(edits, name):
    """What utility tells apart. edits: [(kind, scores without, with, without under other random numbers)]."""
    result: dict = {}
    print(f"utility of {name}: {len(edits)} single edits, {len(edits[0][1])} probe tasks each, in estimates of K = 4")
    for kind in KINDS:
        mine = [edit for edit in edits if edit[0] == kind]
        parts = [u for _, before, after, _ in mine for u in estimates(before, after, 4)]
        clipped = [u for _, before, after, _ in mine for u in estimates(before, after, 4, alpha=0.2, clip=True)]
        row = {"edits": len(mine), "mean": statistics.mean(utility(before, after) for _, before, after, _ in mine),
               "positive": share(parts, lambda u: u > 0), "negative": share(parts, lambda u: u < 0),
               "spread": statistics.stdev(parts), "clipped mean": statistics.mean(clipped)}
        result[kind] = row
        print(f"{kind:8} {len(mine):3} edits  mean U {row['mean']:+.3f} (clipped, alpha 0.2: "
              f"{row['clipped mean']:+.3f})  U > 0 in {row['positive']:.2f}, U < 0 in {row['negative']:.2f} of "
              f"{len(parts)} estimates, whose spread is {row['spread']:.3f}")
    paired, unpaired = (spread([(edit[i], edit[2]) for edit in edits]) for i in (1, 3))
    result["pairing"] = {"paired": paired, "unpaired": unpaired}
    print(f"spread of one probe's difference: {paired:.3f} with common random numbers, {unpaired:.3f} without: "
          f"{unpaired / max(paired, 1e-9):.2f} times")
    # How well do K probes foretell the other half of the probes?
    half = len(edits[0][1]) // 2
    truth = [utility(before[half:], after[half:]) for _, before, after, _ in edits]
    for k in (k for k in (1, 2, 4, 8, 16) if k <= half):
        row = {}
        for word, place in (("paired", 1), ("unpaired", 3)):
            first = [utility(edit[place][:k], edit[2][:k]) for edit in edits]
            row[word] = {"correlation": correlation(first, truth),
                         "good": share([u for u, mine in zip(truth, first) if mine > 0], lambda u: u > 0),
                         "found": share([mine for u, mine in zip(truth, first) if u > 0], lambda u: u > 0)}
        result[f"K = {k}"] = row
        print(f"K = {k:2}  against {half} other probes of the same edit: " + "; ".join(
            f"{word}: correlation {mine['correlation']:.2f}, of those above 0 {mine['good']:.2f} are, of those that "
            f"are above 0 {mine['found']:.2f} are found" for word, mine in row.items()))
    mean = [utility(before[half:], after[half:], 0.0) for _, before, after, _ in edits]
    alphas = {alpha: correlation([utility(before[:4], after[:4], alpha) for _, before, after, _ in edits], mean)
              for alpha in (0.0, 0.2, 0.3, 1.0)}  # does the bonus for comparisons won help to foretell it?
    result |= {f"alpha {alpha}": value for alpha, value in alphas.items()}
    print("correlation of U at K = 4 with the mean difference of the other probes: " + ", ".join(
        f"alpha {alpha} {value:.3f}" for alpha, value in alphas.items()))
    # The gate: U of four probes, then of eight fresh ones.
    twice = [(kind, utility(before[i:i + 4], after[i:i + 4]), utility(before[i + 4:i + 12], after[i + 4:i + 12]))
             for kind, before, after, _ in edits for i in range(0, len(before) - 11, 12)]
    gates = {"U > 0": [(kind, u > 0) for kind, u, _ in twice],
             "U > 0 and again on 8 fresh probes": [(kind, u > 0 and again > 0) for kind, u, again in twice]}
    for gate, taken in gates.items():
        row = {kind: share([ok for word, ok in taken if word == kind], bool) for kind in KINDS}
        result[f"commit {gate}"] = row
        print(f"commit where {gate}: " + ", ".join(f"{value:.3f} of the {kind}" for kind, value in row.items()))
    return result


def spread(pairs):
    """Standard deviation of one probe's difference within an edit, pooled over edits."""
    return sqrt(statistics.mean(statistics.variance([b - a for a, b in zip(*pair)]) for pair in pairs))


PARTS = {"players": lab_players, "replies": lab_replies, "skills": lab_skills, "edits": lab_edits}


def main():
    parser = argparse.ArgumentParser(description="Measure success by kind of skill, and what utility tells apart.")
    parser.add_argument("--env", default="webshop", choices=("webshop", "alfworld"), help="default: webshop")
    parser.add_argument("--data", type=path_of, help="directory of real games (default: the world's own)")
    parser.add_argument("--base", type=float, help="how often players have a useful habit that no skill names "
                                                   "(default: the world's)")
    parser.add_argument("--model", type=path_of, default="tiny", help="checkpoint (default: the shipped one)")
    parser.add_argument("--parts", default="skills,edits", help=f"of {', '.join(PARTS)} (default: %(default)s)")
    parser.add_argument("--games", type=int, default=0, help="games of a part (default: all held-out ones; 240 of "
                                                             "players, 54 of replies)")
    parser.add_argument("--probes", type=int, default=12, help="probe tasks per edit (default: 12)")
    parser.add_argument("--seed", type=int, default=0, help="of the episodes' random streams (default: 0)")
    parser.add_argument("--out", type=path_of, help="write the figures there as JSON")
    args = parser.parse_args()
    if unknown := set(args.parts.split(",")) - set(PARTS):
        parser.error(f"--parts {','.join(sorted(unknown))}: choose from {', '.join(PARTS)}")
    if args.probes < 12:
        parser.error(f"--probes {args.probes}: must be at least 12, the K = 4 of an estimate and 8 fresh ones")
    if args.games < 0:
        parser.error(f"--games {args.games}: must be at least 0")
    torch.set_flush_denormal(True)
    try:
        if args.out:
            try_to_write(args.out)
        env = envs.make(args.env, "test", args.data, **({} if args.base is None else {"base": args.base}))
        policy = policies.load(args.model, world=env.home)
    except (ValueError, OSError, ImportError) as error:
        sys.exit(f"studies.lab: {error}")
    # The lengths of tiny, for every model.
    sampling = train.sampling_of(train.read_flags(["--env", args.env, "--model", "tiny"]), 0.4)
    result = {part: PARTS[part](policy, env, args, sampling) for part in args.parts.split(",")}
    if args.out:
        results.write(args.out, {"settings": results.flags_of(args, env), **result})


if __name__ == "__main__":
    with guard("studies.lab", None, BROKEN):
        main()
