"""
SAGE (arXiv 2512.17102): skills go along a chain of tasks. `python -m forks.sage --env counter`

A rollout is a chain of similar tasks. It begins without skills; what the review of one game writes, the next games of
that rollout are shown, and those of no other. A win that used a skill of its chain is paid more, and so is the game
that wrote it. The games of a group play the same tasks and are compared place by place of their chains.

Difference from SkillMaster:
- a skill is tried by the next game of its own writer, which is trained on; no game is played to measure it;
- a writer is paid for a win that follows, not for the difference that its skill made;
- acting and writing share one reward and one advantage.
Ours, as it is not public: the size of the bonus. The paper's skills are functions, used where they are called; ours
are lines of the prompt, used where they are shown, or (--used quoted) where a turn says their title. Its chains are of
one scenario, ours of one family. A skill that was used in more wins than those of its group on average enters a bank,
which the test shows, training does not. The last game of a chain has no review.
Measured: nothing yet.
"""

from dataclasses import dataclass
from statistics import mean

import train
from dualadv_grpo import group_advantage, per_token, update
from envs import rollout
from lib.streams import mix
from lib.texts import plain
from policy import logprobs
from probes import select
from skillbank import SkillBank, commit
from tools import report
from tools.flags import flag


@dataclass
class Flags(train.Flags):
    reviews: str = flag("on", "they write the skills", choices=("on",), group="only --commit has an effect")
    chain: int = flag(2, "games of a chain", 2, group="SAGE")
    bonus: float = flag(5.0, "reward of using a skill in a win, and of having written it, where a win pays 10", 0)
    enough: float = flag(1.0, "score from which a game counts as a win", 0)
    used: str = flag("shown", "what counts as using a skill", choices=("shown", "quoted"))


def sage(flags, env, policy, reference, optimizer, bank, start, state):
    """Iterations start .. flags.steps - 1. The bank is what the test shows."""
    objective, sampling = train.objective_of(flags, env), train.sampling_of(flags, flags.temperature)
    for step in range(start, flags.steps):
        clock, seed = report.Clock(), mix(flags.seed, step)

        # 1: a group of chains per task; a family of few tasks begins again
        chains = [([task, *select(env, task, flags.chain - 1, seed)] * flags.chain)[:flags.chain]
                  for task in train.tasks_of(flags, env, step) for _ in range(flags.group)]
        carried, games = [SkillBank()] * len(chains), []  # games: per place in the chains an episode of each chain
        for place in range(flags.chain):
            last = place == flags.chain - 1
            games.append(rollout(policy, env, [chain[place] for chain in chains], carried, 1, mix(seed, place),
                                 sampling, with_review=not last))
            carried = carried if last else [e.edit.bank for e in games[place]]
        clock.lap("act")

        # 2: one reward for both jobs
        using, writing = uses(games, flags.used == "quoted", flags.enough)
        episodes = sum(games, [])
        R = [sum(e.rewards(flags.reward == "graded")) + flags.bonus * (used + (wrote > 0))
             for e, used, wrote in zip(episodes, using, writing)]
        groups = [i // flags.group for i in range(len(R))]
        a = group_advantage(R, groups, alone="reward")
        segments, advantages = per_token(episodes, a, a)
        stats = update(policy.model, reference, optimizer, segments, advantages, logprobs, objective,
                       report.bar("update"))
        clock.lap("update")

        # 3: the bank; ids are those of a chain, so an update of one has no place in it
        edits = []
        for e, wrote, group in zip(episodes, writing, groups):
            if e.edit and e.edit.changed and e.edit.name == "propose_skill":
                e.edit.utility = wrote - mean(writing[group * flags.group:(group + 1) * flags.group])
                edits.append(e.edit)
        committed = commit(bank, edits, flags.commit)
        train.finish(flags, env, policy, optimizer, bank, report.Iteration(
            step + 1, episodes, stats, clock.laps, R, a, R, a, committed=committed,
            notes={"used": mean(using), "wrote": mean(writing)}))


def uses(games: list[list], quoted: bool, enough: float = 1.0) -> tuple[list[int], list[int]]:
    """For each game, place by place: did it win with a skill of its chain; how many later wins used what it wrote.

    games: per place of the chains an episode of each chain. quoted: a skill is used where a turn says its title.
    """
    def used(episode) -> set:
        said = plain(" ".join(turn.text for turn in episode.turns))
        won = episode.won or enough < 1 and episode.score >= enough
        return {skill.skill_id for skill in episode.shown if won and (not quoted or plain(skill.title) in said)}

    using = [int(bool(used(e))) for some in games for e in some]
    writing = [sum(e.edit.skill_id in used(later[c]) for later in games[place + 1:]) if e.edit and e.edit.changed else 0
               for place, some in enumerate(games) for c, e in enumerate(some)]
    return using, writing


if __name__ == "__main__":
    train.main(Flags, sage, "forks.sage")
