"""
RetroAgent (arXiv 2603.08561): a game is paid for progress that its task had not seen. `python -m forks.retro`

After a game the policy lists the subtasks that it did, says whether it won, and writes a lesson. phi is the share of
subtasks done; 1 if won, 0 where it cannot be read. max(0, phi - the best success rate of this task's groups so far) is
paid beside the task's reward. Half of a group plays with lessons that suit the task, were useful, or were seldom shown:
those of the highest s cos + (1 - s) (u + sqrt(ln N / n)), where u follows the success of the n games that showed one.

Difference from SkillMaster:
- acting is paid for a part of a win, by what the policy says of it; reviews are paid that, too, and no utility;
- a lesson enters untried, if the policy knew whether it had won; the trained games that show it tell what it is worth;
- reviews are normalised over the batch (REINFORCE++).
Ours: cos is the share of a lesson's words that the task has, of its family's lessons, with no least value; the test
shows those of highest u that were in games; no u shrinks. --progress score asks for no subtasks, which tiny models
cannot list: phi, and what u follows, is the graded score, and every lesson enters. Measured: nothing yet.
"""

import copy
import re
from dataclasses import dataclass
from math import log
from statistics import mean

import train
from dualadv_grpo import group_advantage, per_token, update
from envs import question_of, review_again, rollout
from lib.streams import mix
from policy import logprobs
from skillbank import SkillBank, commit, similarity
from tools import report
from tools.flags import flag


@dataclass
class Flags(train.Flags):
    reviews: str = flag("off", "asked for after games", choices=("off",), group="nothing is probed; without effect")
    skill_weight: float = flag(1.0, "weight of the review's advantage", 0)
    progress: str = flag("said", "phi of a game that is not won: said by the review, or the graded score",
                         choices=("said", "score"), group="RetroAgent")
    intrinsic: float = flag(1.0, "weight of the intrinsic reward, where a win pays 10", 0)
    prune_every: int = flag(0, "iterations until only the best three of a family stay; 0: a quarter of --steps", 0)


def retro(flags, env, policy, reference, optimizer, bank, start, state):
    """Iterations start .. flags.steps - 1. The memory has every lesson, the bank that is tested the best ones."""
    objective, sampling = train.objective_of(flags, env), train.sampling_of(flags, flags.temperature)
    memory, uses = state.get("memory", bank), state.get("uses", {})  # uses: id of a lesson -> (u, n) of its text
    best, half = state.get("best", {}), flags.group // 2  # task -> the best success rate of its groups
    every = state.get("every") or flags.prune_every or flags.steps // 4 + 1  # whatever --steps is later
    for step in range(start, flags.steps):
        clock, seed = report.Clock(), mix(flags.seed, step)
        tasks = train.tasks_of(flags, env, step)
        lessons = [SkillBank(recalled(memory, uses, env, task, flags.top_k, 0.6, 1.0, 0.5)) for task in tasks]
        banks = [one for some in lessons for one in [SkillBank()] * (flags.group - half) + [some] * half]
        episodes = rollout(policy, env, [task for task in tasks for _ in range(flags.group)], banks, 1, seed, sampling,
                           with_review=False)
        reviewed = review_again(policy, env, episodes, [memory] * len(episodes), mix(seed, 1), sampling,
                                ask if flags.progress == "said" else question_of)
        told = [read(e.review) if flags.progress == "said" else (e.score, e.won) for e in reviewed]
        clock.lap("act")
        extra = [flags.intrinsic * more for more in beyond(episodes, [phi for phi, _ in told], best)]
        R = [sum(e.rewards(flags.reward == "graded")) + more for e, more in zip(episodes, extra)]
        a_act = group_advantage(R, [i // flags.group for i in range(len(R))], alone="reward")
        a_skill = flags.skill_weight * group_advantage(extra, [0] * len(extra), alone="zero")
        # Of a game that is reviewed again only the review counts as sampled.
        segments, advantages = per_token(episodes + reviewed, [*a_act, *a_act], [*a_skill, *a_skill])
        stats = update(policy.model, reference, optimizer, segments, advantages, logprobs, objective)
        clock.lap("update")
        for i, task in enumerate(tasks):
            best[task] = max(best.get(task, 0.0), mean(e.won for e in episodes[i * flags.group:(i + 1) * flags.group]))
        for game, skill in [(e, skill) for e in episodes for skill in e.shown]:
            u, n = uses.get(skill.skill_id, (0.5, 1))
            uses[skill.skill_id] = 0.95 * u + 0.05 * (game.score if flags.progress == "score" else game.won), n + 1
        known = [e.edit for e, (_, won) in zip(reviewed, told) if e.edit.changed and won == e.won]
        stored = commit(memory, known, "all")
        uses = {i: one for i, one in uses.items() if i not in [e.skill_id for e in stored if e.status == "updated"]}
        memory = memory if (step + 1) % every else the_best(memory, uses, 3, None)
        train.finish(flags, env, policy, optimizer, the_best(memory, uses, flags.top_k, 0.0), report.Iteration(
            step + 1, episodes, stats, clock.laps, R, a_act, extra, a_skill, committed=stored, reviewed=reviewed,
            notes={"lessons": len(memory.skills())}), {"memory": memory, "uses": uses, "best": best, "every": every})


def beyond(episodes, phis: list[float], best: dict) -> list[float]:
    """max(0, phi - the best success rate of the task's groups so far) of each game; phi of a won one is 1."""
    return [max(0.0, (1.0 if e.won else phi) - best.get(e.task, 0.0)) for e, phi in zip(episodes, phis)]


def ask(episode, env) -> str:
    """The review's question, which asks for what `read` finds, and does not tell how the game ended."""
    return ("\nThe episode is over. First think of the task's subtasks, a line each, with [x] if it is done and [ ] if "
            "not, and say success: yes or success: no.\n" + question_of(episode, env).split("\n", 2)[2])


def read(text: str) -> tuple:
    """(phi, whether it says that it won) of a review; (0, None) where it says neither."""
    boxes, success = re.findall(r"\[([x ])\]", text), re.search(r"success: (yes|no)", text)
    return boxes.count("x") / max(len(boxes), 1), success and success[1] == "yes"


def recalled(memory, uses, env, task, k: int, s: float, bonus: float, fresh: float) -> list:
    """The k lessons of a task's family, and general ones, of the highest s cos + (1 - s) (u + bonus sqrt(ln N / n))."""
    def worth(skill):
        u, n = uses.get(skill.skill_id, (fresh, 1))
        return s * similarity(env.goal(task), skill) + (1 - s) * (u + bonus * (log(max(shown, 1)) / n) ** 0.5)

    shown = sum(n for _, n in uses.values())  # N
    return sorted(memory.general_skills + memory.task_specific_skills.get(env.family(task), []), key=worth)[::-1][:k]


def the_best(memory, uses, k: int, fresh: float | None):
    """A copy of the memory with a family's k lessons of highest u. fresh: u of what no game showed; None: it stays."""
    some = copy.deepcopy(memory)
    for lessons in (memory.general_skills, *memory.task_specific_skills.values()):
        known = [skill for skill in lessons if fresh is not None or skill.skill_id in uses]
        some.remove({s.skill_id for s in sorted(known, key=lambda s: uses.get(s.skill_id, (fresh, 1))[0])[:-k or None]})
    return some


if __name__ == "__main__":
    train.main(Flags, retro, "forks.retro")
