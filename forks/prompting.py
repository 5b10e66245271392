"""
Better prompts, no training, by three rules: `python -m forks.prompting --env counter --rule grasp`

The weights are frozen. Games are played and reviewed, and the rule decides which edits enter:

    ace       ACE       arXiv 2510.04618   every proposal is appended, duplicates are dropped; each skill counts the won
                                           and the lost games that showed it, and none is taken out
    grasp     GRASP     arXiv 2605.29668   an edit must win more probes than it loses, on tasks of which half were won
                                           before, and may lose at most --budget of those
    evoskill  EvoSkill  arXiv 2603.02766   reviews of failures rewrite a bank; the child is scored on --score tasks, and
                                           a frontier of the best banks has the next parents, in turn

Difference from SkillMaster:
- nothing is trained: whatever gain there is stands in the bank, and goes with it;
- one commit rule in place of U and its confirmation;
- with evoskill a whole bank is scored, on the same tasks each time.
Ours: the policy writes its own edits, where the papers ask large models; what ACE's counters say is kept in skills.json
and is in no prompt; training tasks stand for validation tasks; games count by their score with --utility graded; no
second goal makes the frontier a Pareto front; a child that is its parent is not scored. Measured: nothing yet.
"""

import random
from dataclasses import dataclass
from statistics import mean

import train
from dualadv_grpo import Stats
from envs import evaluate, rollout
from lib.streams import mix
from probes import edits_of, games_of, play_pairs, select
from skillbank import SkillBank, commit
from tools import report
from tools.flags import flag


@dataclass
class Flags(train.Flags):
    reviews: str = flag("on", "rules decide on them", choices=("on",), group="as far as the rule probes")
    lr: float = flag(0.0, "without effect: there is no update", 0)
    kl: float = flag(0.0, "without effect", 0)
    rule: str = flag("ace", "what enters the bank", choices=("ace", "grasp", "evoskill"), group="prompting")
    budget: int = flag(0, "grasp: tasks won before that an edit may lose", 0)
    rewrites: int = flag(1, "evoskill: edits that make a child", 1)
    score: int = flag(16, "evoskill: training tasks that score a bank", 1)
    frontier: int = flag(3, "evoskill: banks that are kept", 1)


def prompting(flags, env, policy, reference, optimizer, bank, start, state):
    """Iterations start .. flags.steps - 1."""
    sampling, calm = train.sampling_of(flags, flags.temperature), train.probing_of(flags).sampling
    worth = "score" if flags.utility == "graded" else "won"  # of a game
    outcomes = state.get("outcomes", {})  # task -> was its last game won?
    frontier = state.get("frontier", [])  # [(score, bank)], the best first
    for step in range(start, flags.steps):
        clock, seed, played = report.Clock(), mix(flags.seed, step), []
        parent = frontier[step % len(frontier)][1] if frontier else bank
        episodes = rollout(policy, env, train.tasks_of(flags, env, step), parent, flags.group, seed, sampling)
        outcomes |= {e.task: e.won for e in episodes}
        edits = edits_of(episodes)
        clock.lap("act")

        if flags.rule == "ace":
            count(episodes, bank)
            committed = commit(bank, [edit for edit in edits if edit.name == "propose_skill"], "all")
        elif flags.rule == "grasp":
            trials = [(edit, task) for edit in edits for task in balanced(env, outcomes, edit, flags.probes, seed)]
            pairs = play_pairs(policy, env, [(task, bank, edit.bank) for edit, task in trials], calm, seed)
            played = games_of(pairs)
            for edit in edits:
                mine = [(task, pair) for (one, task), pair in zip(trials, pairs) if one is edit]
                edit.probes = [task for task, _ in mine]
                edit.before, edit.after = ([float(getattr(pair[i], worth)) for _, pair in mine] for i in (0, 1))
                edit.utility = gated(edit.before, edit.after, flags.budget)
            committed = commit(bank, edits)
        else:
            every = list(dict.fromkeys(env.train_tasks))
            some = random.Random(f"score/{flags.seed}").sample(every, min(flags.score, len(every)))
            child = SkillBank.from_dict(parent.to_dict())
            committed = commit(child, edits_of([e for e in episodes if not e.won])[:flags.rewrites], "all")
            for one in ([] if frontier else [bank]) + ([child] if committed else []):
                games = evaluate(policy, env, one, some, calm)
                played += games
                frontier.append((mean(getattr(e, worth) for e in games), one))
            frontier = sorted(frontier, key=lambda one: -one[0])[:flags.frontier]
            bank = frontier[0][1]
            committed = committed if bank is child else []
        clock.lap("probe")
        train.finish(flags, env, policy, optimizer, bank, report.Iteration(
            step + 1, episodes, Stats(), clock.laps, [sum(e.rewards(flags.reward == "graded")) for e in episodes],
            [0.0] * len(episodes), committed=committed, probe_games=played), {
                "outcomes": outcomes, "frontier": frontier})


def count(episodes, bank: SkillBank) -> None:
    """ACE's counters: how many won and lost games showed each skill of the bank."""
    for e in episodes:
        for shown in e.shown:  # of a game that another process played these are copies
            extra, name = bank.find(shown.skill_id).extra, "helpful" if e.won else "harmful"
            extra[name] = extra.get(name, 0) + 1


def balanced(env, outcomes: dict, edit, k: int, seed: int) -> list[int]:
    """k tasks that the edit may touch, half of them won when last played; others where too few were played."""
    mine = [task for task in outcomes if task != edit.task and edit.category in ("general", env.family(task))]
    rng = random.Random(f"gate/{seed}/{edit.task}")
    won, lost = (rng.sample(some, len(some)) for some in ([t for t in mine if outcomes[t]],
                                                          [t for t in mine if not outcomes[t]]))
    mine = (won[:max(k - k // 2, k - len(lost))] + lost)[:k]
    more = select(env, edit.task, k - len(mine), seed, outcomes, edit.category == "general")
    return mine + [task for task in more if task not in mine]


def gated(before: list[float], after: list[float], budget: int) -> float:
    """Wins less losses of an edit per probe; 0, so that it does not enter, where it loses more than the budget."""
    losses = sum(a < b for b, a in zip(before, after))
    return (sum(after) - sum(before)) / max(len(before), 1) if losses <= budget else 0.0


if __name__ == "__main__":
    train.main(Flags, prompting, "forks.prompting")
