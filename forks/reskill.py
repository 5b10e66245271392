"""
ReSkill (arXiv 2606.01619): a new bank is tried inside the groups. `python -m forks.reskill --env counter`

A bundle of edits makes a new version. While it is on trial, each rollout takes it with the probability that it is the
better one (Thompson sampling, two Beta posteriors of success). As the policy moves, old games count less: counts shrink
by w = M / (M + games of a step), with the M that predicts the trials before best. After enough steps and games the
version with the higher posterior mean stays. Advantages are normalised in the group, then over the batch's tokens.

Difference from SkillMaster:
- what is tested is a whole new bank, by the games that are trained on, and over several iterations, in which the policy
  learns to use it; SkillMaster probes each edit on other games at once; reviews are not trained.
Ours: a bundle is one edit per task, from one iteration's reviews; the paper's is a larger model's, from assertions; a
game counts by its score with --reward graded. --decide paired: both play --confirm tasks. Measured: nothing yet.
"""

import random
from dataclasses import dataclass
from math import inf, lgamma
from statistics import mean, pstdev

import train
from dualadv_grpo import ACT, group_advantage, per_token, update
from envs import rollout
from lib.streams import mix
from policy import logprobs
from probes import games_of, play_pairs
from skillbank import SkillBank, commit
from tools import report
from tools.flags import flag


@dataclass
class Flags(train.Flags):
    reviews: str = flag("on", "they make a bundle", choices=("on",), group="without effect but on --decide paired")
    trial_steps: int = flag(5, "least iterations of a trial", 1, group="ReSkill")
    trial_games: int = flag(50, "least games of a trial", 1)
    decide: str = flag("posterior", "what ends a trial, see above", choices=("posterior", "paired"))


def reskill(flags, env, policy, reference, optimizer, bank, start, state):
    """Iterations start .. flags.steps - 1. The bank is the old version while a new one is on trial."""
    if flags.decide == "paired" and not flags.confirm:
        raise SystemExit("forks.reskill: --decide paired plays --confirm tasks; give it more than 0")
    objective, sampling = train.objective_of(flags, env), train.sampling_of(flags, flags.temperature)
    worth = "score" if flags.reward == "graded" else "won"  # of a game
    new, edits, M = state.get("new"), state.get("edits", []), state.get("M", inf)  # edits: of new, while on trial
    trials = state.get("trials", [])  # each a list of steps: ((games, wins) of the old one, the same of the new one)
    for step in range(start, flags.steps):
        clock, seed, committed, played = report.Clock(), mix(flags.seed, step), [], []
        rng = random.Random(f"versions/{seed}")
        tasks = [task for task in train.tasks_of(flags, env, step) for _ in range(flags.group)]
        p = chance(*posteriors(trials[-1], M), rng) if edits else 0.0
        takes = [rng.random() < p for _ in tasks]
        episodes = rollout(policy, env, tasks, [new if take else bank for take in takes], 1, seed, sampling,
                           with_review=not edits)
        clock.lap("act")
        R = [sum(e.rewards(flags.reward == "graded")) for e in episodes]
        a_act = group_advantage(R, [i // flags.group for i in range(len(R))], alone="reward")
        segments, single = per_token(episodes, a_act)
        stats = update(policy.model, reference, optimizer, segments, whitened(segments, single), logprobs, objective)
        clock.lap("update")
        if not edits:
            new, M = SkillBank.from_dict(bank.to_dict()), horizon(trials)
            first = {e.task: e.edit for e in reversed(episodes) if e.edit.changed}  # of each task
            edits = commit(new, list(first.values()), "all")
            trials += [[]] if edits else []
        else:
            won = [[getattr(e, worth) for e, take in zip(episodes, takes) if take == which] for which in (False, True)]
            trials[-1].append([(len(some), sum(some)) for some in won])
            if len(trials[-1]) >= flags.trial_steps and len(trials[-1]) * len(episodes) >= flags.trial_games:
                old, other = (a / (a + b) for a, b in posteriors(trials[-1], M))
                if flags.decide == "paired":
                    every = list(dict.fromkeys(env.train_tasks))
                    pairs = [(task, bank, new) for task in rng.sample(every, min(flags.confirm, len(every)))]
                    played = play_pairs(policy, env, pairs, train.probing_of(flags).sampling, seed)
                    old, other = (sum(getattr(pair[which], worth) for pair in played) for which in (0, 1))
                committed = commit(bank, edits, "all") if other > old else []
                edits = []
        clock.lap("decide")
        train.finish(flags, env, policy, optimizer, bank, report.Iteration(
            step + 1, episodes, stats, clock.laps, R, a_act, committed=committed, probe_games=games_of(played),
            notes={"new": mean(takes)}), {"new": new, "edits": edits, "M": M, "trials": trials})


def posteriors(steps, M: float) -> list[tuple[float, float]]:
    """Beta(1 + wins, 1 + losses) of the old version and of the new one, after some steps of a trial."""
    counts = [(0.0, 0.0), (0.0, 0.0)]
    for arms in steps:
        w = 1 / (1 + sum(n for n, _ in arms) / M)  # M / (M + n); 1 for M without bound
        counts = [(w * wins + k, w * losses + n - k) for (wins, losses), (n, k) in zip(counts, arms)]
    return [(1 + wins, 1 + losses) for wins, losses in counts]


def chance(old, new, rng, draws: int = 10_000) -> float:
    """The probability that the new version is the better one, by draws, kept within .15 and .85."""
    better = sum(rng.betavariate(*new) > rng.betavariate(*old) for _ in range(draws))
    return min(max(better / draws, 0.15), 0.85)


def horizon(trials) -> float:
    """M: of 1 .. 2000 what predicts each step of the trials best from the steps before it. No bound before two."""
    def log_beta(a, b):
        return lgamma(a) + lgamma(b) - lgamma(a + b)

    def predicted(M):  # the beta-binomial's logarithm, without the binomial, which is the same for all M
        return sum(log_beta(a + k, b + n - k) - log_beta(a, b) for steps in trials for t, arms in enumerate(steps)
                   for (a, b), (n, k) in zip(posteriors(steps[:t], M), arms))

    return max(range(1, 2001), key=predicted) if len(trials) > 1 else inf


def whitened(segments, advantages) -> list[list[float]]:
    """The acting tokens' advantages less their mean over the batch, by their standard deviation; others stay 0."""
    acting = [a for s, mine in zip(segments, advantages) for a, job in zip(mine, s.job) if job == ACT]
    middle, wide = mean(acting), pstdev(acting) + 1e-6
    return [[(a - middle) / wide * (job == ACT) for a, job in zip(m, s.job)] for s, m in zip(segments, advantages)]


if __name__ == "__main__":
    train.main(Flags, reskill, "forks.reskill")
