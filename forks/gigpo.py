"""
GiGPO (arXiv 2505.10978): GRPO whose turns are compared, too. `python -m forks.gigpo --env webshop`

GRPO gives every token of an episode one advantage. GiGPO adds one per turn: turns of a group that saw the same page
before they acted (their anchor) are compared by the discounted return that followed them.

Difference from SkillMaster: no reviews and no probes, the bank stays as it is (--bank shows one); R pays the episode as
before; every acting token gets A_act + A_turn. Our choices: the page in full is the anchor, and both advantages are
divided by the standard deviation, as in the authors' launcher for ALFWorld. --norm mean divides by nothing, as in the
one for WebShop. Measured in the made-up shop (worlds/webshop/tiny/README.md), before an invalid turn's penalty was left
out of other turns' returns.
"""

from dataclasses import dataclass
from statistics import mean

import train
from dualadv_grpo import group_advantage, per_token, update
from envs import rollout
from lib.streams import mix
from policy import logprobs
from tools import report
from tools.flags import flag


@dataclass
class Flags(train.Flags):
    reviews: str = flag("off", "GiGPO has none", choices=("off",), group="the bank stays as it is; without effect")
    gamma: float = flag(0.95, "discount of what followed a turn", 0, group="GiGPO")
    norm: str = flag("std", "what R - mean R is divided by: the standard deviation; mean: nothing (F = 1)",
                     choices=("std", "mean"))


def gigpo(flags, env, policy, reference, optimizer, bank, start, state):
    """Iterations start .. flags.steps - 1."""
    objective = train.objective_of(flags, env)
    for step in range(start, flags.steps):
        clock = report.Clock()
        episodes = rollout(policy, env, train.tasks_of(flags, env, step), bank, flags.group, mix(flags.seed, step),
                           train.sampling_of(flags, flags.temperature), with_review=False)
        clock.lap("act")

        groups = [i // flags.group for i in range(len(episodes))]
        r = [e.rewards(flags.reward == "graded") for e in episodes]  # of each turn
        R = [sum(paid) for paid in r]
        a_act = compared(R, groups, "reward", flags.norm)
        a_turns = anchor_advantages([e.turns for e in episodes], r, groups, flags.gamma, flags.norm)
        segments, advantages = per_token(episodes, a_act, a_turns=a_turns)
        stats = update(policy.model, reference, optimizer, segments, advantages, logprobs, objective,
                       report.bar("update"))
        clock.lap("update")
        train.finish(flags, env, policy, optimizer, bank, report.Iteration(
            step + 1, episodes, stats, clock.laps, R, a_act, a_turns=a_turns))


def anchor_advantages(turns, rewards, groups, gamma: float = 0.95, norm: str = "std") -> list[list[float]]:
    """GiGPO's step-level advantage, to be added to A_act on the tokens of a turn.

    What followed a turn is its return, see `returns`. It is normalised against the turns of the same group that saw the
    same page before they acted. A page that only one turn saw gives 0.

    turns: per episode its envs.Turns; rewards: per episode r of each turn; groups: a label per episode.
    Returns a list per episode with a number per turn.
    """
    anchors = [(group, turn.page) for some, group in zip(turns, groups, strict=True) for turn in some]
    ahead = [r for some, paid in zip(turns, rewards, strict=True) for r in returns(some, paid, gamma)]
    flat = iter(compared(ahead, anchors, "zero", norm))
    return [[next(flat) for _ in some] for some in turns]


def compared(rewards, groups, alone: str, norm: str) -> list[float]:
    """`group_advantage`, or with norm "mean" R - mean R of the group."""
    if norm == "std":
        return group_advantage(rewards, groups, alone=alone).tolist()
    members: dict = {}
    for r, group in zip(rewards, groups, strict=True):
        members.setdefault(group, []).append(r)
    return [r - mean(members[group]) if len(members[group]) > 1 else r * (alone == "reward")
            for r, group in zip(rewards, groups)]


def returns(turns, paid: list[float], gamma: float) -> list[float]:
    """R_t = sum_k gamma^(k - t) (r_k + fine_k) - fine_t: an invalid turn's fine of 0.5 lowers no return but its own.

    paid: r of each turn, with its fine.
    """
    ahead, fines = [0.0], [0.5 * (not turn.valid) for turn in turns]
    for r, fine in zip(reversed(paid), reversed(fines)):
        ahead.append(r + fine + gamma * ahead[-1])
    return [value - fine for value, fine in zip(ahead[:0:-1], fines)]


if __name__ == "__main__":
    train.main(Flags, gigpo, "forks.gigpo")
