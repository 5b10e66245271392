"""
Probes: what is an edit of the skill bank worth? Play other tasks of the family with it and without it.

A review may sound wise and be useless. So each proposed or updated skill is scored by its counterfactual utility (the
paper's Eq. 3). K probe tasks from the training split, of the same family and never the episode's own, are played with
the edited bank and with the bank as it was:

    s       = 1[success] (1 + (T - steps) / T)                         one probe run; T is the step limit
    delta_k = s_k(bank with the edit) - s_k(bank without)
    U       = mean_k delta_k + alpha (wins - losses) / K               wins, losses: signs of the delta_k

U must be the effect of the edit alone. So both runs are on the SAME tasks (in the released WebShop code the probe
environment ignores the chosen goals), and draw from the SAME random stream, the task's: equal prompts are one run.
"""

import random
from dataclasses import dataclass, field, replace

from envs import Env, Episode, Sampling, rollout
from lib.streams import mix
from policy import Policy
from skillbank import Edit, SkillBank, skills_prompt


@dataclass(frozen=True)
class Probing:
    """How edits are probed."""

    k: int = 4  # K: probe tasks per edit; edits with one text pool theirs, so that theirs are more
    fresh: int = 8  # further ones for a promising edit, before it is committed
    alpha: float = 0.3  # bonus for the share of comparisons won over those lost (released code: 0.2)
    clip: bool = False  # max(0, U), as in the released code
    utility: str = "success"  # what a run is scored by, see `worth`
    paired: bool = True  # the same random numbers with the edit and without
    sampling: Sampling = field(default_factory=Sampling)


def edits_of(episodes: list[Episode]) -> list[Edit]:
    """The edits among the episodes' reviews that change the bank."""
    return [episode.edit for episode in episodes if episode.edit and episode.edit.changed]


def select(env: Env, task: int, k: int, seed: int, used=(), everywhere: bool = False) -> list[int]:
    """k training tasks or fewer of a task's family (or of all), never itself, none of `used` while others are there."""
    pool = [one for one in dict.fromkeys(env.train_tasks)  # a world may list a task twice, a probe counts once
            if one != task and (everywhere or env.family(one) == env.family(task))]
    pool = [one for one in pool if one not in used] or pool
    return random.Random(f"probes/{seed}/{task}").sample(pool, min(k, len(pool)))


def score(success: bool | float, steps: int, limit: int) -> float:
    """s of one probe run: success (0 or 1; graded, the score) times 1 + the share of the limit that was left."""
    return float(success) * (1.0 + (limit - steps) / limit)  # s = 1[success] (1 + (T - steps) / T)


def worth(episode: Episode, limit: int, kind: str = "success") -> float:
    """What a probe run is scored by: s (success, the paper), s of the world's score (graded), or s + that (both)."""
    s = score(episode.score if kind == "graded" else episode.won, episode.steps, limit)
    return s + episode.score if kind == "both" else s


def utility(before: list[float], after: list[float], alpha: float = 0.3, clip: bool = False) -> float:
    """U of an edit from the scores of its K probes without and with it (paper, Eq. 3). No probes: 0.

    clip: the released code's max(0, U), with which a harmful edit is worth as much as keeping the bank as it is.
    """
    if len(before) != len(after):
        raise ValueError(f"utility: {len(before)} scores without the edit but {len(after)} with it")
    if not before:
        return 0.0
    deltas = [with_edit - without for without, with_edit in zip(before, after)]  # delta_k
    wins, losses = sum(d > 0 for d in deltas), sum(d < 0 for d in deltas)
    u = sum(deltas) / len(deltas) + alpha * (wins - losses) / len(deltas)
    return max(u, 0.0) if clip else u


def play_pairs(policy: Policy, env: Env, pairs: list[tuple[int, SkillBank, SkillBank]], sampling: Sampling,
               seed: int = 0, paired: bool = True, desc: str = "probes") -> list[tuple[Episode, Episode]]:
    """Play each task with two banks, without reviews: [(task, bank, other bank)] -> [(Episode, Episode)].

    Games of equal task and shown skills are played once. paired: both draw from the task's stream, else each its own.
    """
    games: dict = {}  # (task, shown skills) -> the bank to play it with

    def game(task, bank):
        shown = skills_prompt(bank.retrieve(env.goal(task), env.family(task), sampling.top_k))
        games.setdefault((task, shown), bank)
        return task, shown

    named = [(game(task, one), game(task, other)) for task, one, other in pairs]
    tasks, banks = [task for task, _ in games], list(games.values())
    keys = [mix(task) if paired else mix(task, i) for i, task in enumerate(tasks)]
    episodes = rollout(policy, env, tasks, banks, 1, seed, sampling, False, keys, desc)
    played = dict(zip(games, episodes))
    return [(played[one], played[other]) for one, other in named]


def probe(policy: Policy, env: Env, bank: SkillBank, edits: list[Edit], seed: int = 0,
          probing: Probing = Probing()) -> list[Episode]:
    """Fill in probes, before, after and utility of each edit. Returns the probe episodes that were played.

    Edits with the same text pool their probes: what rollouts of several tasks propose is estimated from more runs.
    """
    pairs = [(edit, task) for edit in edits
             for task in (select(env, edit.task, probing.k, seed) if edit.probes is None else edit.probes)]
    played = play_pairs(policy, env, [(task, bank, edit.bank) for edit, task in pairs], probing.sampling, seed,
                        probing.paired)
    pools: dict = {}  # identity of an edit -> {probe task: (episode without, episode with)}
    for (edit, task), pair in zip(pairs, played):
        pools.setdefault(edit.identity, {})[task] = pair
    for edit in edits:
        mine = {task: pair for task, pair in pools.get(edit.identity, {}).items() if task != edit.task}
        edit.probes = list(mine)
        edit.before = [worth(without, env.limit, probing.utility) for without, _ in mine.values()]
        edit.after = [worth(with_edit, env.limit, probing.utility) for _, with_edit in mine.values()]
        edit.utility = utility(edit.before, edit.after, probing.alpha, probing.clip)
    return games_of(played)


def games_of(pairs: list[tuple[Episode, Episode]]) -> list[Episode]:
    """The games that were played for some pairs; equal ones are one Episode in several pairs, and are here once."""
    return list({id(episode): episode for pair in pairs for episode in pair}.values())


def confirm(policy: Policy, env: Env, bank: SkillBank, edits: list[Edit], seed: int = 0,
            probing: Probing = Probing()) -> tuple[list[Edit], list[Episode]]:
    """Probe each task's best edit again, on tasks that are new while there are any: (those still above 0, episodes).

    The best of many estimates is too high: an edit that changes nothing on average gets U > 0 at K = 4 with probability
    .16 where nine of ten of its probe pairs tie, .36 where every other one does. Fresh probes do not know which edit
    was lucky. A general skill is shown to every family, so here it is probed on tasks of any.
    """
    seed = mix(seed, 1)  # other tasks and other random numbers than those of probe()
    best: dict = {}  # task -> its most promising edit
    for edit in sorted(edits, key=lambda edit: edit.utility):  # a better one takes the place of a worse one
        if edit.utility > 0:
            best[edit.task] = edit
    again = [replace(edit, probes=select(env, edit.task, probing.fresh, seed, edit.probes,
                                         edit.category == "general")) for edit in best.values()]
    # Never clipped: an edit that fresh probes find harmful must lie below one that they find useless.
    played = probe(policy, env, bank, again, seed, replace(probing, clip=False))
    for edit, second in zip(best.values(), again):
        edit.confirmed = second.utility
    return [edit for edit in best.values() if edit.confirmed > 0], played
