"""
SKILLC (arXiv 2605.27899): half of a group with skills, half without. `python -m forks.skillc --env webshop --bank DIR`

A given bank is shown to half of each group. What it is worth for a task is the gap Delta between the halves' mean
rewards. The advantage has two streams: the first ranks the whole group, the second each half against itself. Where the
bank helps, wins without it are raised and wins with it are lowered, so that the weights learn what the skills say. A
family that skills help no longer loses them. The test shows none.

Difference from SkillMaster:
- the bank is given (--bank), nothing is written: reviews are off, and there are no probes;
- the games of a group differ in their prompts, and are compared across them;
- what skills do goes into the weights: success without the bank is the result.
Ours, as it is not public how the streams are weighted: A = A1 + lambda (A2 + w max(Delta, 0) (1 - 2z) 1[won]), z = 1
with skills. The paper's Delta for the curriculum comes from validation games, and sets the share of games with skills,
too; ours is the smoothed one of the family's training groups, and that share is half of a group or none of it.
Measured: nothing yet.
"""

from dataclasses import dataclass
from statistics import mean

import train
from dualadv_grpo import group_advantage, per_token, update
from envs import rollout
from lib.streams import mix
from policy import logprobs
from skillbank import SkillBank
from tools import report
from tools.flags import flag


@dataclass
class Flags(train.Flags):
    reviews: str = flag("off", "SKILLC has none", choices=("off",), group="the bank is given; without effect")
    eval_plain: bool = flag(True, "the test shows no skills")
    second: float = flag(1.0, "lambda: weight of the second stream", 0, group="SKILLC")
    pull: float = flag(0.4, "w: weight of raising wins without skills and lowering wins with them", 0)
    smooth: float = flag(0.9, "share of a family's old Delta that is kept", 0)
    audit_every: int = flag(10, "iterations between two looks at which families keep their skills", 1)
    least: float = flag(0.0, "smoothed Delta, in wins, up to which a family loses its skills", -1)


def skillc(flags, env, policy, reference, optimizer, bank, start, state):
    """Iterations start .. flags.steps - 1."""
    objective, sampling = train.objective_of(flags, env), train.sampling_of(flags, flags.temperature)
    if not bank.skills():
        raise SystemExit("forks.skillc: the bank is empty; give one with --bank")
    gaps, weaned = state.get("gaps", {}), state.get("weaned", [])  # {family: smoothed Delta}, families without skills
    half = flags.group // 2  # of a group plays with skills
    for step in range(start, flags.steps):
        clock = report.Clock()
        tasks = train.tasks_of(flags, env, step)
        guided = [half if env.family(task) not in weaned else 0 for task in tasks]
        banks = [one for n in guided for one in [SkillBank()] * (flags.group - n) + [bank] * n]
        episodes = rollout(policy, env, [task for task in tasks for _ in range(flags.group)], banks, 1,
                           mix(flags.seed, step), sampling, with_review=False)
        clock.lap("act")

        R = [sum(e.rewards(flags.reward == "graded")) for e in episodes]
        a_act = []
        for g, (task, n) in enumerate(zip(tasks, guided)):
            some = slice(g * flags.group, (g + 1) * flags.group)
            z = [0] * (flags.group - n) + [1] * n
            a, gap = two_streams(R[some], z, [e.won for e in episodes[some]], flags.second, flags.pull)
            a_act += a
            if n and any(e.won for e in episodes[some]):  # a group that nobody won does not tell what skills are worth
                family = env.family(task)
                gaps[family] = flags.smooth * gaps[family] + (1 - flags.smooth) * gap if family in gaps else gap
        if (step + 1) % flags.audit_every == 0:
            weaned = sorted({*weaned, *(family for family, gap in gaps.items() if gap <= flags.least)})
        segments, advantages = per_token(episodes, a_act)
        stats = update(policy.model, reference, optimizer, segments, advantages, logprobs, objective,
                       report.bar("update"))
        clock.lap("update")
        train.finish(flags, env, policy, optimizer, bank, report.Iteration(
            step + 1, episodes, stats, clock.laps, R, a_act, notes={
                "gap": mean(gaps.values()) if gaps else 0.0, "weaned": len(weaned)}),
            {"gaps": gaps, "weaned": weaned})


def two_streams(rewards, z, won, second: float = 1.0, pull: float = 0.4) -> tuple[list[float], float]:
    """The advantages of a group, and Delta in wins (reward 10). z: 1 where a game had skills; won: was it won?"""
    sides = [[r for r, side in zip(rewards, z) if side == one] for one in (0, 1)]
    gap = (mean(sides[1]) - mean(sides[0])) / 10 if all(sides) else 0.0
    whole = group_advantage(rewards, [0] * len(rewards), alone="reward").tolist()
    halves = group_advantage(rewards, z, alone="zero").tolist()
    # A = A1 + lambda (A2 + w max(Delta, 0) (1 - 2z) 1[won])
    return [a + second * (b + pull * max(gap, 0.0) * (1 - 2 * side) * w)
            for a, b, side, w in zip(whole, halves, z, won)], gap


if __name__ == "__main__":
    train.main(Flags, skillc, "forks.skillc")
