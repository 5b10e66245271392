"""
SAPO (arXiv 2606.08755): a skill is tried by half of the group that it came from. `python -m forks.sapo --env counter`

One half of a group plays with the bank, and reviews. What one of these reviews wrote is the group's candidate, and the
other half plays with the bank and it: its utility is that half's mean reward less the first's, in wins. Candidates
wait, and every few iterations the best of them enter the bank. Who wrote a candidate is paid by its utility.

Difference from SkillMaster:
- a skill is tested on its own task by games that are trained on anyway; SkillMaster plays others of the family twice;
- one review of a group is paid, by REINFORCE without a baseline; skills that harm are blamed less than others are paid;
- skills enter in batches: U > 0, among the best fifth, and not too like a skill that is there.
Ours, as it is not public: the candidate is the group's first edit; the weight of blame; likeness is the share of common
words, so gamma is high, or a rule could not be corrected in one word; a text that is written again is tested again.
Not here: taking skills out by the policy's likelihood of them. Measured: nothing yet.
"""

from dataclasses import dataclass
from math import ceil
from statistics import mean

import train
from dualadv_grpo import group_advantage, per_token, update
from envs import rollout
from lib.streams import mix
from policy import logprobs
from skillbank import commit, similarity
from tools import report
from tools.flags import flag


@dataclass
class Flags(train.Flags):
    reviews: str = flag("on", "a candidate is one", choices=("on",), group="nothing is probed; without effect")
    promote_every: int = flag(5, "iterations between two promotions", 1, group="SAPO")
    share: float = flag(0.2, "rho: of the candidates that wait, the share that may enter", 0)
    alike: float = flag(0.95, "gamma: share of common words from which a candidate counts as known", 0)
    most: int = flag(45, "skills that the bank may hold", 0)
    blame: float = flag(0.5, "weight of a utility below 0, where one above 0 has 1", 0)


def sapo(flags, env, policy, reference, optimizer, bank, start, state):
    """Iterations start .. flags.steps - 1."""
    objective, sampling = train.objective_of(flags, env), train.sampling_of(flags, flags.temperature)
    waiting = state.get("waiting", [])  # edits with their utility
    half = flags.group // 2  # of a group plays with the candidate
    base = flags.group - half
    for step in range(start, flags.steps):
        clock, seed = report.Clock(), mix(flags.seed, step)

        # 1: the first half acts and reviews; the second half acts with one of its edits, on other random numbers
        tasks = train.tasks_of(flags, env, step)
        first = rollout(policy, env, tasks, bank, base, seed, sampling)
        clock.lap("act")
        writer: dict = {}  # number of a group -> of the first of its games whose review is an edit, its candidate
        for i, e in enumerate(first):
            if e.edit.changed:
                writer.setdefault(i // base, i)
        tried = list(writer)
        banks = [first[i].edit.bank for i in writer.values()]
        second = rollout(policy, env, [tasks[g] for g in tried], banks, half, seed, sampling, with_review=False,
                         keys=[len(first) + i for i in range(len(tried) * half)])
        clock.lap("try")

        # 2: utilities, and two kinds of advantage
        episodes = first + second
        groups = [i // base for i in range(len(first))] + [g for g in tried for _ in range(half)]
        R = [sum(e.rewards(flags.reward == "graded")) for e in episodes]
        S = [0.0] * len(episodes)
        a_skill = [0.0] * len(episodes)
        for n, g in enumerate(tried if half else ()):
            edit = first[writer[g]].edit
            edit.before = R[g * base:(g + 1) * base]
            edit.after = R[len(first) + n * half:len(first) + (n + 1) * half]
            S[writer[g]] = edit.utility = (mean(edit.after) - mean(edit.before)) / 10  # a win is paid 10
            a_skill[writer[g]] = flags.skill_weight * blamed(edit.utility, flags.blame)
            waiting.append(edit)
        a_act = group_advantage(R, groups, alone="reward")

        # 3: update
        segments, advantages = per_token(episodes, a_act, a_skill)
        stats = update(policy.model, reference, optimizer, segments, advantages, logprobs, objective)
        clock.lap("update")

        # 4: promotion; the others are dropped
        promoted = []
        if (step + 1) % flags.promote_every == 0:
            promoted = commit(bank, best(waiting, bank, flags.share, flags.alike, flags.most)[::-1], "all")
            waiting = []
        train.finish(flags, env, policy, optimizer, bank, report.Iteration(
            step + 1, episodes, stats, clock.laps, R, a_act, S, a_skill, committed=promoted,
            notes={"waiting": len(waiting)}), {"waiting": waiting})


def blamed(utility: float, blame: float) -> float:
    """What a review is paid for a utility: less for harm than for good."""
    return utility if utility > 0 else blame * utility


def best(waiting, bank, share: float, alike: float, most: int) -> list:
    """The candidates that may enter: one per text, best first. A text's utility is the mean over its groups."""
    texts: dict = {}
    for edit in waiting:
        texts.setdefault(edit.identity, []).append(edit)
    ranked = sorted(((mean(e.utility for e in some), some[0]) for some in texts.values()), key=lambda one: -one[0])
    good: list = []
    for utility, edit in ranked[:ceil(share * len(ranked))]:
        if utility > 0 and not known(edit, bank.skills() + [one.bank.find(one.skill_id) for one in good], alike):
            good.append(edit)
    return good[:max(most - len(bank.skills()), 0)]


def known(edit, skills, alike: float) -> bool:
    """Has one of the skills, other than the one that is updated, that share of the edit's words?"""
    skill = edit.bank.find(edit.skill_id)
    return any(similarity(other.line(), skill) >= alike for other in skills
               if edit.name == "propose_skill" or other.skill_id != skill.skill_id)


if __name__ == "__main__":
    train.main(Flags, sapo, "forks.sapo")
