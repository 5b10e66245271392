"""
Probes: what is an edit of the skill bank worth? Play other tasks of the family with it and without it.

A review may sound wise and be useless. So each proposed or updated skill is scored by its counterfactual utility (the
paper's Eq. 3; README, method 4): K probe tasks from the training split, of the same family, never the episode's own,
are played with the edited bank and with the bank as it was; U is the mean difference of their scores, plus a bonus
for winning more comparisons than one loses.

Two things make U the effect of the edit and of nothing else: both runs are on the SAME tasks (in the released WebShop
code the probe environment ignores the chosen goals, so before and after are different tasks), and both draw from the
SAME random stream, keyed by the task: where the skill changes nothing the two runs are token for token the same.

And they are cheap: a run is named by (task, the skills its prompt shows), and runs with the same name are played once.
So "without" is shared by all edits of a task, twin edits are probed once, and an edit that a probe's prompt does not
show costs nothing. All runs of an iteration go through one batched rollout, where the released code plays 2 K episodes
per edit, one edit after another.
"""

import random
from dataclasses import dataclass, field, replace

from envs import Sampling, rollout
from skillbank import skills_prompt
from worlds.noise import mix


@dataclass
class Edit:
    """A valid propose or update of one episode's review, and what the probes said of it."""

    episode: int  # its number in the iteration
    task: int
    family: str
    name: str  # propose_skill or update_skill
    arguments: dict
    bank: object  # the bank with this edit
    skill_id: str
    probes: list = None  # tasks; None: probe() chooses them
    before: list = field(default_factory=list)  # scores without the edit, one per probe
    after: list = field(default_factory=list)  # and with it
    utility: float = 0.0
    confirmed: float = None  # utility on fresh probes, where confirm() asked for it

    @property
    def content(self):
        """What it writes, whoever wrote it: edits with the same content are the same edit."""
        return self.name, *map(self.arguments.get, ("category", "skill_id", "title", "principle", "when_to_apply"))


def edits_of(episodes):
    """The valid edits among the episodes' reviews."""
    return [
        Edit(i, e.task, e.family, e.edit["name"], e.edit["arguments"], e.edit["bank"], e.edit["skill_id"])
        for i, e in enumerate(episodes) if e.edit and e.edit["status"] in ("added", "updated")
    ]


def select(env, task, k, seed, used=(), everywhere=False):
    """k probe tasks for a task: training tasks of its family (or of all), never itself, none that was used already.

    Fewer where there are fewer.
    """
    family = env.family(task)
    pool = [other for other in env.train_tasks
            if other != task and other not in used and (everywhere or env.family(other) == family)]
    return random.Random(f"probes/{seed}/{task}").sample(pool, min(k, len(pool)))


def score(success, steps, limit):
    """s of one probe run: 0 if it failed, else 1 + the share of the step limit it left over, so in [1, 2)."""
    return 1.0 + (limit - steps) / limit if success else 0.0


def utility(before, after, alpha=0.3, clip=False):
    """U of an edit from the scores of its K probes without and with it (paper, Eq. 3).

    U = mean_k d_k + alpha * (wins - losses) / K, d_k = after_k - before_k. clip: the released code's max(0, U), with
    which a harmful edit ties with keeping the bank as it is (its alpha is 0.2). No probes: 0.
    """
    if len(before) != len(after):
        raise ValueError(f"utility: {len(before)} scores without the edit but {len(after)} with it")
    if not before:
        return 0.0
    deltas = [b - a for a, b in zip(before, after)]
    wins, losses = sum(d > 0 for d in deltas), sum(d < 0 for d in deltas)
    u = sum(deltas) / len(deltas) + alpha * (wins - losses) / len(deltas)
    return max(u, 0.0) if clip else u


def probe(policy, env, bank, edits, k=4, seed=0, how=None, alpha=0.3, clip=False):
    """Fill in probes, before, after and utility of each edit. Returns the number of probe episodes played.

    Edits of the same content pool their probes: eight rollouts that propose one skill, or tasks that do, are one
    estimate from more runs.
    """
    how = how or Sampling()
    runs = {}  # (task, shown skills) -> the bank to play it with

    def run(task, bank):
        shown = skills_prompt(bank.retrieve(env.goal(task), env.family(task), how.top_k))
        runs.setdefault((task, shown), bank)
        return task, shown

    wanted = {}  # what an edit writes -> {probe task: (run without, run with)}
    for edit in edits:
        probes = select(env, edit.task, k, seed) if edit.probes is None else edit.probes
        wanted.setdefault(edit.content, {}).update({task: (run(task, bank), run(task, edit.bank)) for task in probes})
    tasks = [task for task, _ in runs]
    # The stream's key is the task alone: that is the pairing.
    episodes = rollout(policy, env, tasks, list(runs.values()), seed=seed, how=how, with_review=False,
                       keys=[mix(task) for task in tasks], desc="probes")
    scores = {name: score(e.won, e.steps, env.limit) for name, e in zip(runs, episodes)}
    for edit in edits:
        pairs = {task: pair for task, pair in wanted[edit.content].items() if task != edit.task}
        edit.probes = list(pairs)
        edit.before = [scores[without] for without, _ in pairs.values()]
        edit.after = [scores[with_edit] for _, with_edit in pairs.values()]
        edit.utility = utility(edit.before, edit.after, alpha, clip)
    return len(runs)


def confirm(policy, env, bank, edits, k=8, seed=0, how=None, alpha=0.3):
    """Probe the most promising edit of each task again, on k fresh tasks; returns (those still above 0, episodes).

    The best of many estimates is too good: one of K = 4 probes has a spread of .1 to .3, and of 20 useless edits some
    look fine. Fresh probes do not know which edit was lucky. A general skill is shown to every family, so it is
    probed on all of them.
    """
    best, seed = {}, mix(seed, 1)
    for edit in sorted(edits, key=lambda edit: edit.utility):
        if edit.utility > 0:
            best[edit.task] = edit
    again = [replace(edit, probes=select(env, edit.task, k, seed, edit.probes,
                                         edit.arguments.get("category") == "general")) for edit in best.values()]
    played = probe(policy, env, bank, again, k, seed, how, alpha)
    for edit, second in zip(best.values(), again):
        edit.confirmed = second.utility
    return [edit for edit in best.values() if edit.confirmed > 0], played
