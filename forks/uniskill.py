"""
UniSkill (arXiv 2610.10164): an edit is worth what it makes likelier. `python -m forks.uniskill --env counter`

No probe is played. A record has, per family, a won and a lost game of one task. An edit is worth R_align: log pi of the
won game less log pi of the lost one behind a prompt with the edited bank, less the same with the bank as it was.
Clipped, beside rewards for form and operation, it pays reviews. A task's best edit enters, if R_align > 0. Lest reviews
collapse into one operation, the loss has w max(0, log p_min - log p)^2 of each, p its mean probability over reviews.

Difference from SkillMaster:
- an edit is measured on recorded games, without playing any; a pair that the model cannot read does not count;
- reviews are compared over the batch (REINFORCE++), not within the group; no operation may die out.
Ours: the pair is of another task than the writer's (--reward graded: a better and a worse game); log pi is a mean over
acting tokens; the operation's reward; p is read at the tool's name, and these tokens stand in the update's KL and
entropy, too; no other model agrees to an edit. Measured: at the counter R_align does not tell right rules (README).
"""

from bisect import bisect_right
from dataclasses import dataclass, replace
from math import log
from statistics import mean

import torch

import train
from dualadv_grpo import ACT, FORCED, REVIEW, group_advantage, per_token, score, update
from envs import Segment, rollout
from forks.teachers import read_behind
from lib.streams import mix
from policy import logprobs
from probes import edits_of
from skillbank import TOOLS, commit
from tools import report
from tools.flags import flag

MANNERS = {"added": 0.1, "updated": 0.1, "kept": 0.05, "duplicate": 0.0, "not_found": 0.0}  # others: -0.05


@dataclass
class Flags(train.Flags):
    reviews: str = flag("on", "they are what is trained", choices=("on",), group="only --commit has an effect")
    skill_weight: float = flag(0.5, "weight of the review's advantage", 0)
    pairs: int = flag(2, "recorded pairs that an edit is aligned with, at most", 1, group="UniSkill")
    p_min: float = flag(0.1, "floor of each operation's probability", 1e-9)
    floor: float = flag(0.01, "w: weight of the floor; 0: none", 0)


def uniskill(flags, env, policy, reference, optimizer, bank, start, state):
    """Iterations start .. flags.steps - 1."""
    objective, sampling = train.objective_of(flags, env), train.sampling_of(flags, flags.temperature)
    record = state.get("record", {})  # family -> [(won, lost)], two episodes of one task; the newest last
    for step in range(start, flags.steps):
        clock = report.Clock()
        episodes = rollout(policy, env, train.tasks_of(flags, env, step), bank, flags.group, mix(flags.seed, step),
                           sampling)
        for first in range(0, len(episodes), flags.group):
            some = sorted(episodes[first:first + flags.group], key=lambda e: (-e.won, -e.score))
            if some[0].won > some[-1].won or flags.reward == "graded" and some[0].score > some[-1].score:
                record[some[0].family] = [*record.get(some[0].family, []), (some[0], some[-1])][-16:]
        clock.lap("act")
        edits = edits_of(episodes)
        trials = [(edit, pair) for edit in edits for pair in
                  [pair for pair in record.get(edit.family, []) if pair[0].task != edit.task][-flags.pairs:]]
        behind = [read_behind(policy, env, e, some.retrieve(env.goal(e.task), e.family, flags.top_k))
                  for edit, pair in trials for some in (edit.bank, bank) for e in pair]
        said = iter(score(policy.model, sum(behind, []), logprobs, objective))
        liked = [mean(p for s in some for p, job in zip(next(said), s.job) if job == ACT) if some else None
                 for some in behind]
        for edit in edits:
            edit.utility = aligned([liked[4 * i:4 * i + 4] for i, (one, _) in enumerate(trials) if one is edit])
        S = [min(max(e.edit.utility, -0.05), 0.05) + MANNERS.get(e.edit.status, -0.05) for e in episodes]
        R = [sum(e.rewards(flags.reward == "graded")) for e in episodes]
        a_act = group_advantage(R, [i // flags.group for i in range(len(R))], alone="reward")
        a_skill = flags.skill_weight * group_advantage(S, [0] * len(S), alone="zero")
        segments, advantages = per_token(episodes, a_act, a_skill)
        names, raising = floors(policy, episodes, segments, objective, flags.p_min, flags.floor)
        stats = update(policy.model, reference, optimizer, segments + names, advantages + raising, logprobs, objective)
        clock.lap("update")
        train.finish(flags, env, policy, optimizer, bank, report.Iteration(
            step + 1, episodes, stats, clock.laps, R, a_act, S, a_skill, committed=commit(bank, edits, flags.commit),
            notes={"pairs": len(trials), "raised": len(names)}), {"record": record})


def aligned(trials) -> float:
    """R_align: mean of (a - b) - (c - d); a, b: log pi of a won and a lost game behind the edit, c, d: without it."""
    return mean([(a - b) - (c - d) for a, b, c, d in trials if None not in (a, b, c, d)] or [0.0])


def floors(policy, episodes, segments, objective, p_min: float, weight: float) -> tuple[list, list[list[float]]]:
    """The rare tools' names in the reviews' places, as segments of ratio 1, and advantages with which the loss of an
    update on these and on other segments has the gradient of the floor."""
    ways = [some for e in episodes if weight and e.edit.name in TOOLS and (some := tools_of(policy.chat, e))]
    said = iter(score(policy.model, sum(ways, []), logprobs, objective))
    ways = [[replace(s, logp=next(said)) for s in some] for some in ways]
    pulls = pulling(torch.tensor([[sum(s.logp) for s in some] for some in ways]), p_min).tolist() if ways else []
    rare = [(s, pull) for s, pull in zip(sum(ways, []), sum(pulls, [])) if weight * pull > 0]
    names = [s for s, _ in rare]
    sampled = sum(job != FORCED for s in segments + names for job in s.job)  # what the update divides by
    return names, [[weight * sampled * pull * (job == REVIEW) for job in s.job] for s, pull in rare]


def pulling(logs, p_min: float):
    """-d/d log p_i of max(0, log p_min - log p)^2, p = mean_i p_i. logs: log p_i (reviews, tools). Same shape."""
    hinge = (log(p_min) + log(len(logs)) - logs.logsumexp(0)).clamp(min=0)  # (tools,)
    return 2 * hinge * logs.softmax(0)


def tools_of(chat, episode) -> list[Segment]:
    """The transcript up to the tool's name, with the name of each tool behind it; [] where it cannot be found."""
    start, ids = episode.segments[-1].starts[-1], episode.segments[-1].ids
    place = chat.decode(ids[start:]).rfind(f'"{episode.edit.name}"') + 1
    end = start + bisect_right(range(len(ids) - start), place, key=lambda n: len(chat.decode(ids[start:start + n]))) - 1
    ways = [Segment.of(ids[:end]) for _ in TOOLS] if place else []
    for way, tool in zip(ways, TOOLS):
        new = chat.encode(chat.decode(ids[start:])[len(chat.decode(ids[start:end])):place] + tool)
        way.add_sampled(new, REVIEW, [0.0] * len(new), episode.steps)
    return ways


if __name__ == "__main__":
    train.main(Flags, uniskill, "forks.uniskill")
