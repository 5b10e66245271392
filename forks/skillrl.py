"""
SkillRL (arXiv 2602.08234): a bank that grows from failures, untested. `python -m forks.skillrl --env counter`

GRPO with a bank in the prompt. Every few iterations the families that still lose get new skills, written from their
failed games. They are added as they are; what is useless in them, the weights have to learn to ignore.

Difference from SkillMaster:
- reviews are asked for of failures only, where a family needs them, and are not trained;
- nothing is probed, and nothing written leaves the bank: only proposals enter, updates do not;
- the policy learns to use the bank, not to write it.
Ours: the policy itself writes, where the paper asks a larger model; the failures are training games, where its code
reads validation games. The first bank (--bank, or an empty one) and the cold start are what train.py has.
Measured: nothing yet.
"""

from dataclasses import dataclass
from statistics import mean

import train
from dualadv_grpo import group_advantage, per_token, update
from envs import review_again, rollout
from lib.streams import mix
from policy import logprobs
from probes import edits_of
from skillbank import commit
from tools import report
from tools.flags import flag


@dataclass
class Flags(train.Flags):
    reviews: str = flag("off", "asked for of failures only", choices=("off",), group="nothing is probed; no effect")
    grow_every: int = flag(5, "iterations between two times that the bank grows", 1, group="SkillRL")
    low: float = flag(0.4, "success of a family below which it gets skills", 0)
    new: int = flag(3, "most skills at a time", 1)


def skillrl(flags, env, policy, reference, optimizer, bank, start, state):
    """Iterations start .. flags.steps - 1."""
    objective, sampling = train.objective_of(flags, env), train.sampling_of(flags, flags.temperature)
    won, lost = state.get("won", {}), state.get("lost", [])  # since the bank grew: {family: outcomes}, failed episodes
    for step in range(start, flags.steps):
        clock, seed = report.Clock(), mix(flags.seed, step)
        episodes = rollout(policy, env, train.tasks_of(flags, env, step), bank, flags.group, seed, sampling,
                           with_review=False)
        for e in episodes:
            won.setdefault(e.family, []).append(e.won)
        lost = (lost + [e for e in episodes if not e.won])[-64:]
        clock.lap("act")

        R = [sum(e.rewards(flags.reward == "graded")) for e in episodes]
        a_act = group_advantage(R, [i // flags.group for i in range(len(R))], alone="reward")
        segments, advantages = per_token(episodes, a_act)
        stats = update(policy.model, reference, optimizer, segments, advantages, logprobs, objective,
                       report.bar("update"))
        clock.lap("update")

        reviewed, added = [], []
        if (step + 1) % flags.grow_every == 0:
            some = chosen(won, lost, flags.low, flags.new)
            reviewed = review_again(policy, env, some, [bank] * len(some), mix(seed, 1), sampling)
            added = commit(bank, [edit for edit in edits_of(reviewed) if edit.name == "propose_skill"], "all")
            won, lost = {}, []
            clock.lap("grow")
        train.finish(flags, env, policy, optimizer, bank, report.Iteration(
            step + 1, episodes, stats, clock.laps, R, a_act, committed=added, reviewed=reviewed),
            {"won": won, "lost": lost})


def chosen(won: dict, lost: list, low: float, new: int) -> list:
    """The failures to learn from: of families with success below `low`, one task each, the newest ones."""
    by_task = {e.task: e for e in lost if mean(won[e.family]) < low}
    return list(by_task.values())[-new:]


if __name__ == "__main__":
    train.main(Flags, skillrl, "forks.skillrl")
