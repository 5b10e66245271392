"""
Evolving-RL (arXiv 2605.10663): many candidates of one episode compete. `python -m forks.evolving --env counter`

Each task is played once, without skills. The same policy then writes several candidate skills about that one episode,
and each of them plays the same few other tasks of the family. A candidate's reward is its share of wins there, 0 if it
could not be read; the writer's group are the candidates of one episode, the solver's group all games of one task, each
with another candidate. One update trains both jobs.

Difference from SkillMaster:
- the writer has a real group, many answers to one question; SkillMaster compares reviews of different episodes;
- a skill is worth its share of wins, not the difference to games without it;
- the games that test a skill are the ones that train acting.
Ours: a candidate enters the bank, which is shown at the test, if it is the best of its episode and above their mean
(the paper has such a filter, switched off); the families' training tasks stand for retrieved similar ones; the standard
deviation is the unbiased one; the ratio is kept in 1 +- --clip, where the paper has .1 below and .15 above; no top-p,
no entropy term of the writer's own. A task's first game is written about, and not trained on.
Measured: nothing yet.
"""

from dataclasses import dataclass, replace
from statistics import mean

import train
from dualadv_grpo import group_advantage, per_token, update
from envs import review_again, rollout
from lib.streams import mix
from policy import logprobs
from probes import edits_of, select
from skillbank import SkillBank, commit
from tools import report
from tools.flags import flag


@dataclass
class Flags(train.Flags):
    reviews: str = flag("on", "candidates are reviews", choices=("on",),
                        group="--probes games try one, --commit; others without effect")
    skill_weight: float = flag(0.2, "lambda: weight of the writer's advantage", 0)
    candidates: int = flag(8, "skills written about an episode", 2, group="Evolving-RL")


def evolving(flags, env, policy, reference, optimizer, bank, start, state):
    """Iterations start .. flags.steps - 1."""
    objective, sampling = train.objective_of(flags, env), train.sampling_of(flags, flags.temperature)
    for step in range(start, flags.steps):
        clock, seed = report.Clock(), mix(flags.seed, step)

        # 1: one episode per task, and candidates about it, each written with random numbers of its own
        tasks, none = train.tasks_of(flags, env, step), SkillBank()
        sources = rollout(policy, env, tasks, none, 1, seed, sampling, with_review=False)
        asked = [replace(sources[i // flags.candidates], key=i) for i in range(len(tasks) * flags.candidates)]
        written = review_again(policy, env, asked, [none] * len(asked), mix(seed, 1), sampling)
        clock.lap("write")

        # 2: each candidate plays the same tasks
        others = [select(env, task, flags.probes, seed) for task in tasks]
        games = [(i, task) for i, e in enumerate(written) if e.edit.changed for task in others[i // flags.candidates]]
        solved = rollout(policy, env, [task for _, task in games], [written[i].edit.bank for i, _ in games], 1,
                         mix(seed, 2), sampling, with_review=False)
        clock.lap("act")

        # 3: both jobs are paid, and compared with their own kind
        won = [e.score if flags.reward == "graded" else e.won for e in solved]
        rates, a_writer = writing([i for i, _ in games], won, len(written), flags.candidates)
        R = [sum(e.rewards(flags.reward == "graded")) for e in solved]
        a_act = group_advantage(R, [(i // flags.candidates, task) for i, task in games], alone="zero").tolist()
        acting, act = per_token(solved, a_act)
        reviews, write = per_token(written, [0.0] * len(written), [flags.skill_weight * a for a in a_writer])
        stats = update(policy.model, reference, optimizer, acting + reviews, act + write, logprobs, objective,
                       report.bar("update"))
        clock.lap("update")

        # 4: the best candidate of each episode enters
        for i, e in enumerate(written):
            first = i // flags.candidates * flags.candidates
            e.edit.utility = rates[i] - mean(rates[first:first + flags.candidates])
        committed = commit(bank, edits_of(written), flags.commit)
        train.finish(flags, env, policy, optimizer, bank, report.Iteration(
            step + 1, sources + solved, stats, clock.laps,
            [sum(e.rewards(flags.reward == "graded")) for e in sources] + R, [0.0] * len(sources) + a_act,
            committed=committed, reviewed=written, notes={"rate": mean(rates)}))


def writing(candidates: list[int], won: list, n: int, size: int) -> tuple[list[float], list[float]]:
    """The writer's rewards and advantages of n candidates, `size` of each episode.

    candidates: who was tried in each game; won: was it won. A candidate without games has 0.
    """
    wins: list[list] = [[] for _ in range(n)]
    for i, one in zip(candidates, won, strict=True):
        wins[i].append(float(one))
    rates = [mean(some) if some else 0.0 for some in wins]
    return rates, group_advantage(rates, [i // size for i in range(n)], alone="zero").tolist()


if __name__ == "__main__":
    train.main(Flags, evolving, "forks.evolving")
