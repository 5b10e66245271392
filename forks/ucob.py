"""
UCOB (arXiv 2606.29502): skills and no skills teach each other, page by page. `python -m forks.ucob --env counter`

Half of a group plays with lessons of a memory; GiGPO (--norm mean) trains both. Of a group's turns that saw the same
page the one with the highest return is the winner. Up to two that did worse are taught its answer, in their own games,
behind the prompt that the winner did not have: the plain one, or that with lessons. So lessons teach the weights where
they help, and are overruled where they mislead. A lesson's worth u is the success of the half that saw it less the
other's (--reward graded: score). Shown are those of highest s cos + (1 - s) (u + .1 sqrt(ln N / n)), s = .1.

Difference from SkillMaster:
- a lesson enters untried, and is measured by the halves of trained groups;
- what a lesson does goes into the weights turn by turn, and so does what it should not have done;
- reviews are not trained.
Ours: one won and one lost game of a group are reviewed; an answer is taught in full and by its own tokens, where the
code teaches the action by the 32 likeliest tokens; u begins at .5, which is no effect, where the paper's begins at 0
and asks for a cosine of .4. Not here: lessons about single pages; training those who wrote. Measured: nothing yet.
"""

from dataclasses import dataclass, replace
from statistics import mean

import train
from dualadv_grpo import ACT, per_token, score, update
from envs import Segment, review_again, rollout
from forks.gigpo import anchor_advantages, compared, returns
from forks.retro import recalled, the_best
from forks.teachers import credit, read_behind
from lib.streams import mix
from policy import logprobs
from probes import edits_of
from skillbank import SkillBank, commit
from tools import report
from tools.flags import flag


@dataclass
class Flags(train.Flags):
    reviews: str = flag("off", "asked for of some games", choices=("off",), group="nothing is probed; without effect")
    teach: float = flag(0.1, "weight of teaching a winner's answer", 0, group="UCOB")


def ucob(flags, env, policy, reference, optimizer, bank, start, state):
    """Iterations start .. flags.steps - 1. The memory has every lesson, the bank that is tested the best ones."""
    objective, sampling = train.objective_of(flags, env), train.sampling_of(flags, flags.temperature)
    memory, uses = state.get("memory", bank), state.get("uses", {})  # uses: id of a lesson -> (u, n) of its text
    half = flags.group // 2  # of a group plays with lessons
    for step in range(start, flags.steps):
        clock, seed = report.Clock(), mix(flags.seed, step)
        tasks = train.tasks_of(flags, env, step)
        lessons = [recalled(memory, uses, env, task, flags.top_k, 0.1, 0.1, 0.5) for task in tasks]
        banks = [one for some in lessons for one in [SkillBank()] * (flags.group - half) + [SkillBank(some)] * half]
        episodes = rollout(policy, env, [task for task in tasks for _ in range(flags.group)], banks, 1, seed, sampling,
                           with_review=False)
        groups = [episodes[i:i + flags.group] for i in range(0, len(episodes), flags.group)]
        some = [e for group in groups for e in {e.won: e for e in group}.values()]  # one won, one lost
        reviewed = review_again(policy, env, some, [memory] * len(some), mix(seed, 1), sampling)
        clock.lap("act")

        labels = [i // flags.group for i in range(len(episodes))]
        r = [e.rewards(flags.reward == "graded") for e in episodes]
        R = [sum(paid) for paid in r]
        a_act = compared(R, labels, "reward", "mean")
        a_turns = anchor_advantages([e.turns for e in episodes], r, labels, norm="mean")
        segments, advantages = per_token(episodes, a_act, a_turns=a_turns)
        guided = [i % flags.group >= flags.group - half for i in range(len(episodes))]
        taught = []  # (gap, answer behind the other prompt); where a group was shown nothing, there is no other prompt
        for (winner, at), (i, turn), gap in pairs(episodes, r, labels):
            told = groups[labels[i]][-1].shown
            shown = [] if guided[winner] else told
            view = episodes[i].segments if guided[i] != guided[winner] else read_behind(policy, env, episodes[i], shown)
            taught += [(gap, answering(view, turn, episodes[winner].segments, at))] if told and view else []
        for (gap, one), said in zip(taught, score(policy.model, [one for _, one in taught], logprobs, objective)):
            weight = flags.teach * min(gap / 0.2, 2.0)
            advantages.append([credit("sdar", 0.0, was - now, weight) if job == ACT else 0.0  # weight sigmoid(5 delta)
                               for was, now, job in zip(one.logp, said, one.job)])
            segments.append(replace(one, logp=said))  # the ratio is 1
        stats = update(policy.model, reference, optimizer, segments, advantages, logprobs, objective)
        clock.lap("update")
        for group in groups:
            paid = [e.score if flags.reward == "graded" else e.won for e in group]
            gain = mean(paid[-half:]) - mean(paid[:-half]) if half else 0.0
            for skill in group[-1].shown:
                u, n = uses.get(skill.skill_id, (0.5, 1))
                uses[skill.skill_id] = 0.8 * u + 0.2 * (0.5 + 0.5 * gain), n + 1
        stored = commit(memory, edits_of(reviewed), "all")
        uses = {i: one for i, one in uses.items() if i not in [e.skill_id for e in stored if e.status == "updated"]}
        train.finish(flags, env, policy, optimizer, the_best(memory, uses, flags.top_k, 0.5), report.Iteration(
            step + 1, episodes, stats, clock.laps, R, a_act, a_turns=a_turns, committed=stored, reviewed=reviewed,
            notes={"taught": len(taught)}), {"memory": memory, "uses": uses})


def pairs(episodes, rewards, labels) -> list[tuple]:
    """[((number of the winner's episode, its turn), (the loser's, its turn), gap of their returns in wins)].

    Of the valid turns of one label that saw the same page, the worst two are losers. rewards: r of each turn.
    """
    pages: dict = {}
    for i, (e, paid) in enumerate(zip(episodes, rewards)):
        for t, (turn, ahead) in enumerate(zip(e.turns, returns(e.turns, paid, 0.95))):
            if turn.valid:
                pages.setdefault((labels[i], turn.page), []).append((ahead / 10, (i, t)))
    found = []
    for seen in pages.values():
        seen.sort(key=lambda one: one[0])
        best, winner = seen[-1]
        found += [(winner, one, best - value) for value, one in seen[:2] if best - value > 0.05]
    return found


def answering(view, turn: int, segments, at: int) -> Segment:
    """A transcript up to a turn, and there the answer of another's turn `at`, with its sampler's log-probabilities."""
    ours, theirs = (next(s for s in some if t in s.turn) for some, t in ((view, turn), (segments, at)))
    moved = Segment.of(ours.ids[:ours.turn.index(turn)])
    place = slice(start := theirs.turn.index(at), start + theirs.turn.count(at))
    moved.add_sampled(theirs.ids[place], ACT, theirs.logp[place], turn)
    return moved


if __name__ == "__main__":
    train.main(Flags, ucob, "forks.ucob")
