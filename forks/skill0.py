"""
SKILL0 (arXiv 2604.02268): skills are shown, then fewer, then none. `python -m forks.skill0 --env webshop --bank DIR`

GRPO with a given bank, in three stages of equal length: the skills of all families are shown, those of half of them,
none. Every few iterations it is measured for each family that still has its skills how much they help; a family that
they harm loses them, and of the others those keep them that need them most. The test shows none.

Difference from SkillMaster:
- the bank is given (--bank), nothing is written or improved: reviews are off;
- what is measured is all that a family has, with it against without it, and it decides who keeps it;
- what skills do goes into the weights: success without the bank is the result.
Ours: the measure plays training tasks with paired random numbers, where the paper uses validation tasks; general skills
are shown until the last stage; a family that cannot be measured counts as neither helped nor harmed; the world's KL,
where the paper has none. Not here: prompts as pictures.
Measured: nothing yet.
"""

import copy
import random
from dataclasses import dataclass
from math import ceil
from operator import attrgetter
from statistics import mean

import train
from dualadv_grpo import group_advantage, per_token, update
from envs import rollout
from lib.streams import mix
from policy import logprobs
from probes import games_of, play_pairs
from skillbank import SkillBank
from tools import report
from tools.flags import flag


@dataclass
class Flags(train.Flags):
    reviews: str = flag("off", "the bank is given", choices=("off",),
                        group="--probes games measure a family, see --probe_temperature, --utility; others: no effect")
    eval_plain: bool = flag(True, "the test shows no skills")
    stage: int = flag(0, "iterations of a stage: all families, half of them, none; 0: a third of --steps", 0,
                      group="SKILL0")
    measure_every: int = flag(10, "iterations between two measurements; a stage begins with one", 1)


def skill0(flags, env, policy, reference, optimizer, bank, start, state):
    """Iterations start .. flags.steps - 1."""
    objective, sampling = train.objective_of(flags, env), train.sampling_of(flags, flags.temperature)
    if not bank.skills():
        raise SystemExit("forks.skill0: the bank is empty; give one with --bank")
    worth = attrgetter("score" if flags.utility == "graded" else "won")
    families = sorted(family for family, skills in bank.task_specific_skills.items() if skills)
    guided = state.get("guided", families)  # the families whose skills are shown
    length = state.get("stage") or flags.stage or max(1, ceil(flags.steps / 3))  # of a stage, whatever --steps is later
    for step in range(start, flags.steps):
        clock, seed = report.Clock(), mix(flags.seed, step)
        stage, tasks = min(step // length, 2), train.tasks_of(flags, env, step)  # first: a world may change with it
        played = []
        if step % length % flags.measure_every == 0 and stage < 2:
            trials = {family: trials_of(env, bank, family, guided, flags.probes, seed) for family in guided}
            played = play_pairs(policy, env, [pair for some in trials.values() for pair in some],
                                train.probing_of(flags).sampling, seed)
            outcomes = iter(played)
            gains = {family: mean([worth(b) - worth(a) for a, b in [next(outcomes) for _ in some]] or [0.0])
                     for family, some in trials.items()}
            guided = kept(gains, allowed(len(families), stage))
            clock.lap("measure")
        shown = showing(bank, guided) if stage < 2 else SkillBank()
        episodes = rollout(policy, env, tasks, shown, flags.group, seed, sampling, with_review=False)
        clock.lap("act")

        groups = [i // flags.group for i in range(len(episodes))]
        R = [sum(e.rewards(flags.reward == "graded")) for e in episodes]
        a_act = group_advantage(R, groups, alone="reward")
        segments, advantages = per_token(episodes, a_act)
        stats = update(policy.model, reference, optimizer, segments, advantages, logprobs, objective,
                       report.bar("update"))
        clock.lap("update")
        train.finish(flags, env, policy, optimizer, bank, report.Iteration(
            step + 1, episodes, stats, clock.laps, R, a_act, probe_games=games_of(played),
            notes={"shown": len(shown.skills())}), {"guided": guided, "stage": length})


def allowed(families: int, stage: int) -> int:
    """How many of so many families may show their skills: all, half (rounded up), none."""
    return ceil(families * (1.0, 0.5, 0.0)[stage])


def kept(gains: dict[str, float], most: int) -> list[str]:
    """Of the families that their skills do not harm, those that they help most, in the order of their names."""
    unharmed = [family for family in sorted(gains) if gains[family] >= 0]
    return sorted(sorted(unharmed, key=lambda family: -gains[family])[:most])


def showing(bank: SkillBank, guided: list[str]) -> SkillBank:
    """A copy of the bank with the general skills and those of some families."""
    some = copy.deepcopy(bank)
    some.task_specific_skills = {family: some.task_specific_skills[family] for family in guided}
    return some


def trials_of(env, bank: SkillBank, family: str, guided: list[str], k: int, seed: int) -> list:
    """k training tasks of a family, each with the bank as shown but for this family's skills, and with them."""
    tasks = [task for task in dict.fromkeys(env.train_tasks) if env.family(task) == family]
    return [(task, showing(bank, [other for other in guided if other != family]), showing(bank, guided))
            for task in random.Random(f"measure/{seed}/{family}").sample(tasks, min(k, len(tasks)))]


if __name__ == "__main__":
    train.main(Flags, skill0, "forks.skill0")
