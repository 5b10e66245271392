"""
GiGPO (arXiv 2505.10978): GRPO whose turns are compared, too. `python -m forks.gigpo --env webshop`

GRPO gives every token of an episode one advantage. GiGPO adds one per turn: turns of a group that saw the same page
before they acted (their anchor) are compared by the discounted return that followed them.

Difference from SkillMaster: no reviews and no probes, the bank stays as it is (--bank shows one); R pays the episode as
before; every acting token gets A_act + A_turn. Our choices: the page in full is the anchor, and a page that only one
turn saw gives 0. Measured in the made-up shop: the README's table of results.
"""

from dataclasses import dataclass

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
        a_act = group_advantage(R, groups, alone="reward")
        a_turns = anchor_advantages([[turn.page for turn in e.turns] for e in episodes], r, groups, flags.gamma)
        segments, advantages = per_token(episodes, a_act, a_turns=a_turns)
        stats = update(policy.model, reference, optimizer, segments, advantages, logprobs, objective,
                       report.bar("update"))
        clock.lap("update")
        train.finish(flags, env, policy, optimizer, bank, report.Iteration(
            step + 1, episodes, stats, clock.laps, R, a_act, a_turns=a_turns))


def anchor_advantages(pages, rewards, groups, gamma: float = 0.95) -> list[list[float]]:
    """GiGPO's step-level advantage, to be added to A_act on the tokens of a turn.

    What followed a turn is its return R_t = sum_k gamma^(k - t) r_k. It is normalised against the turns of the same
    group that saw the same page before they acted. A page that only one turn saw gives 0.

    pages: per episode the page before each turn; rewards: per episode r of each turn; groups: a label per episode.
    Returns a list per episode with a number per turn.
    """
    anchors = [(group, page) for seen, group in zip(pages, groups, strict=True) for page in seen]
    flat = iter(group_advantage([r for paid in rewards for r in returns(paid, gamma)], anchors, alone="zero").tolist())
    return [[next(flat) for _ in seen] for seen in pages]


def returns(paid: list[float], gamma: float) -> list[float]:
    """What followed each turn of an episode, discounted. paid: r of each turn."""
    ahead = [0.0]
    for r in reversed(paid):
        ahead.append(r + gamma * ahead[-1])  # R_t = r_t + gamma R_(t + 1)
    return ahead[:0:-1]


if __name__ == "__main__":
    train.main(Flags, gigpo, "forks.gigpo")
