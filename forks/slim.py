"""
SLIM (arXiv 2605.10923): skills are audited all their life, retired and replaced. `python -m forks.slim --env counter`

GRPO with a bank. Every few iterations the skills used most are left out one at a time; success with a skill less that
without it is smoothed over the audits. A skill that stays useless is retired. A family that still loses, and has no
skill that helps, gets one edit, written from its newest failure; it enters untried, and later audits judge it.

Difference from SkillMaster:
- a skill is measured after it entered and again and again, not once before; it can leave the bank;
- reviews are asked for where a family needs them, of stored failures, and are not trained;
- the general skills are measured as one.
Ours: audits play training tasks with paired random numbers, where the paper plays validation tasks; the policy writes
edits in place of a larger model; a family's own success must be low; the world's KL. Measured: nothing yet.
"""

import copy
import random
from dataclasses import dataclass
from statistics import mean

import train
from dualadv_grpo import group_advantage, per_token, update
from envs import review_again, rollout
from lib.streams import mix
from policy import logprobs
from probes import edits_of, games_of, play_pairs
from skillbank import commit
from tools import report
from tools.flags import flag


@dataclass
class Flags(train.Flags):
    reviews: str = flag("off", "asked for in audits only", choices=("off",),
                        group="audits use --probes, --probe_temperature and --utility; the others have no effect")
    audit_every: int = flag(5, "iterations between two audits", 1, group="SLIM")
    audited: int = flag(4, "skills of families that an audit leaves out, those shown most", 0)
    useless: float = flag(0.001, "smoothed utility below which an audit counts against a skill", -1)
    patience: int = flag(3, "audits in a row against a skill that retire it", 1)
    shown: int = flag(30, "games that must have shown a skill before it is retired", 0)
    low: float = flag(0.4, "success of a family below which it may get new skills", 0)
    helps: float = flag(0.03, "smoothed utility from which a family's skill is good enough", -1)
    failures: int = flag(20, "stored failures of a family that new skills need", 1)
    new: int = flag(2, "most families that an audit asks for an edit", 0)


def slim(flags, env, policy, reference, optimizer, bank, start, state):
    """Iterations start .. flags.steps - 1. A unit is a skill's id, or "general"."""
    objective, sampling = train.objective_of(flags, env), train.sampling_of(flags, flags.temperature)
    worth = "score" if flags.utility == "graded" else "won"  # of a game
    shown, ema, against = (state.get(name, {}) for name in ("shown", "ema", "against"))  # per unit
    lost, games = state.get("lost", {}), state.get("games", {})  # per family: failures; was each since an audit won?
    for step in range(start, flags.steps):
        clock, seed = report.Clock(), mix(flags.seed, step)
        episodes = rollout(policy, env, train.tasks_of(flags, env, step), bank, flags.group, seed, sampling,
                           with_review=False)
        for e in episodes:
            for unit in {s.skill_id if bank.category(s.skill_id) == e.family else "general" for s in e.shown}:
                shown[unit] = shown.get(unit, 0) + 1
            games.setdefault(e.family, []).append(e.won)
            if not e.won:
                lost[e.family] = [*lost.get(e.family, []), e][-32:]
        clock.lap("act")
        groups = [i // flags.group for i in range(len(episodes))]
        R = [sum(e.rewards(flags.reward == "graded")) for e in episodes]
        a_act = group_advantage(R, groups, alone="reward")
        segments, advantages = per_token(episodes, a_act)
        stats = update(policy.model, reference, optimizer, segments, advantages, logprobs, objective)
        clock.lap("update")

        played, reviewed, added, retired = [], [], [], []
        if (step + 1) % flags.audit_every == 0:
            units = {s.skill_id: {s.skill_id} for some in bank.task_specific_skills.values() for s in some}
            units = {unit: units[unit] for unit in sorted(units, key=lambda u: -shown.get(u, 0))[:flags.audited]}
            units |= {"general": {s.skill_id for s in bank.general_skills}} if bank.general_skills else {}
            trials = {unit: trials_of(env, bank, ids, flags.top_k, flags.probes, seed) for unit, ids in units.items()}
            played = play_pairs(policy, env, [pair for some in trials.values() for pair in some],
                                train.probing_of(flags).sampling, seed)
            outcomes = iter(played)
            for unit, pairs in trials.items():
                if pairs:
                    some = [next(outcomes) for _ in pairs]
                    ema[unit] = smoothed(ema.get(unit), mean(getattr(b, worth) - getattr(a, worth) for a, b in some))
                    against[unit] = against.get(unit, 0) + 1 if ema[unit] < flags.useless else 0
            retired = [u for u in units if against.get(u, 0) >= flags.patience and shown.get(u, 0) >= flags.shown]
            good = {bank.category(unit) for unit, value in ema.items() if value >= flags.helps and unit != "general"}
            bank.remove({skill_id for unit in retired for skill_id in units[unit]})
            needy = [family for family, won in games.items() if mean(won) < flags.low and family not in good
                     and len(lost.get(family, [])) >= flags.failures][:flags.new]
            asked = [lost[family][-1] for family in needy]
            reviewed = review_again(policy, env, asked, [bank] * len(asked), mix(seed, 1), sampling)
            added = commit(bank, edits_of(reviewed), "all")
            # No new text is judged by the record of the one whose place it takes.
            gone = {*retired, *("general" if edit.category == "general" else edit.skill_id for edit in added)}
            shown, ema, against = ({u: n for u, n in some.items() if u not in gone} for some in (shown, ema, against))
            lost, games = lost | {family: [] for family in needy}, {}
            clock.lap("audit")
        train.finish(flags, env, policy, optimizer, bank, report.Iteration(
            step + 1, episodes, stats, clock.laps, R, a_act, committed=added, reviewed=reviewed,
            probe_games=games_of(played), notes={"retired": len(retired)}),
            {"shown": shown, "ema": ema, "against": against, "lost": lost, "games": games})


def trials_of(env, bank, ids, top_k: int, k: int, seed: int) -> list:
    """Up to k training tasks whose prompt shows a skill of these ids, each with the bank without them and with it."""
    without = copy.deepcopy(bank)
    without.remove(ids)
    tasks = [task for task in dict.fromkeys(env.train_tasks)
             if any(s.skill_id in ids for s in bank.retrieve(env.goal(task), env.family(task), top_k))]
    some = random.Random(f"audit/{seed}/{min(ids)}").sample(tasks, min(k, len(tasks)))
    return [(task, without, bank) for task in some]


def smoothed(old: float | None, new: float, keep: float = 0.9) -> float:
    """The exponential mean of the utilities of a skill's audits; the first is taken as it is."""
    return new if old is None else keep * old + (1 - keep) * new


if __name__ == "__main__":
    train.main(Flags, slim, "forks.slim")
