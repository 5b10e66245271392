"""
SIRI (arXiv 2606.02355): skills teach the weights, and are then taken away. `python -m forks.siri --env counter`

GiGPO without skills but those of --bank, until the policy has won often enough. Then it writes skills from its own
successes. Half of a group plays with one skill, as soon as there is one: it is worth that half's mean reward less the
other's. The actions that a useful skill guided are taught to the prompt without skills. The test shows none.

Difference from SkillMaster:
- skills are mined from stored successes, asked for with a question of their own; writing them earns nothing;
- a skill is tested by the groups that are played anyway, so there are no probes;
- what skills do goes into the weights: success without the bank is the result (eval.py plays both).
Ours, as it is not public: all constants; one skill per guided game, tested to the end before the next one is; both
halves are one group of GiGPO; advantages below 0 teach nothing; the taught tokens stand in the one mean, KL and entropy
of the update. Measured: nothing yet.
"""

import copy
from dataclasses import dataclass, replace
from statistics import mean

import train
from dualadv_grpo import group_advantage, per_token, score, update
from envs import question_of, reprompt, review_again, rollout
from forks.gigpo import anchor_advantages
from lib.streams import mix
from policy import logprobs
from probes import edits_of
from skillbank import SkillBank
from tools import report
from tools.flags import flag


@dataclass
class Flags(train.Flags):
    reviews: str = flag("off", "SIRI mines", choices=("off",), group="episodes have no review; without effect")
    eval_plain: bool = flag(True, "the test shows no skills")
    need: int = flag(64, "successes that end the warm-up; at most so many are mined at a time", 1, group="SIRI")
    enough: float = flag(1.0, "score from which a game counts as a success", 0)
    mine_every: int = flag(10, "iterations between two minings", 1)
    tests: int = flag(8, "groups that try a skill before it can be active or retired", 1)
    retire: float = flag(-0.05, "mean gain, in wins, below which a skill is retired", -1)
    teach: float = flag(0.1, "lambda: weight of teaching the plain prompt", 0)
    ramp: int = flag(50, "iterations over which lambda rises", 1)


def siri(flags, env, policy, reference, optimizer, bank, start, state):
    """Iterations start .. flags.steps - 1. The pool has the skills under test, too; the bank only the active ones."""
    objective, sampling = train.objective_of(flags, env), train.sampling_of(flags, flags.temperature)
    pool, stored, gains = state.get("pool", bank), state.get("stored", []), state.get("gains", {})
    minings = state.get("minings", [])  # the steps of those that have been
    half = flags.group // 2  # of a group plays with a skill, which stands in a bank of its own
    for step in range(start, flags.steps):
        clock, seed, mined = report.Clock(), mix(flags.seed, step), []
        # 1: mine, that is ask for the reviews of stored successes
        if stored and (step >= minings[-1] + flags.mine_every if minings else len(stored) >= flags.need):
            mined = review_again(policy, env, stored, [pool] * len(stored), mix(seed, 1), sampling, ask)
            for edit in [pool.apply(edit.name, edit.arguments, edit.family) for edit in edits_of(mined)]:
                if edit.changed:  # a text is not judged by the one whose place it takes
                    gains.pop(edit.skill_id, None)
            stored, minings = [], [*minings, step]

        # 2: act, the last half of each group with one skill, where the pool has one for the task
        tasks = train.tasks_of(flags, env, step)
        guides = [sorted(pool.retrieve(env.goal(task), env.family(task), flags.top_k),
                         key=lambda skill: n if (n := len(gains.get(skill.skill_id, []))) >= flags.tests else -n)[:1]
                  for task in tasks]
        banks = [bank for one in guides for bank in [SkillBank()] * (flags.group - half) + [SkillBank(one)] * half]
        episodes = rollout(policy, env, [task for task in tasks for _ in range(flags.group)], banks, 1, seed, sampling,
                           with_review=False)
        stored = (stored + [e for e in episodes if not e.shown and (e.won or e.score >= flags.enough)])[-flags.need:]
        clock.lap("act")

        # 3: GiGPO's advantages; a skill's gain is that of the half that it guided
        groups = [i // flags.group for i in range(len(episodes))]
        r = [e.rewards(flags.reward == "graded") for e in episodes]
        R = [sum(paid) for paid in r]
        a_act = group_advantage(R, groups, alone="reward")
        a_turns = anchor_advantages([e.turns for e in episodes], r, groups)
        gain = [gain_of([R[i] for i in range(len(R)) if groups[i] == g], half) for g in range(len(tasks))]
        for one, mine in zip(guides, gain):
            for skill in one:
                gains.setdefault(skill.skill_id, []).append(mine)
        tested = {name: mean(some) for name, some in gains.items() if len(some) >= flags.tests}
        pool.remove({name for name, worth in tested.items() if worth < flags.retire})

        # 4: one step of GiGPO, in which the plain prompt learns what a skill that helped made the policy do
        segments, advantages = per_token(episodes, a_act, a_turns=a_turns)
        lam = flags.teach * min((step - minings[0]) / flags.ramp, 1.0) if minings else 0.0
        guided = [i for i, e in enumerate(episodes) if lam and e.shown and gain[groups[i]] > 0]
        moved = [replace(episodes[i], segments=reprompt(policy, env, episodes[i], [])) for i in guided]
        taught, weights = per_token(moved, [a_act[i] for i in guided], a_turns=[a_turns[i] for i in guided])
        # With the policy's own log-probabilities as the old ones the ratio is 1: the gradient is w grad log pi.
        taught = [replace(s, logp=logp) for s, logp in zip(taught, score(policy.model, taught, logprobs, objective))]
        stats = update(policy.model, reference, optimizer, segments + taught, advantages + teaching(weights, lam),
                       logprobs, objective, report.bar("update"))
        clock.lap("update")
        active = copy.deepcopy(pool)
        active.remove({skill.skill_id for skill in pool.skills() if tested.get(skill.skill_id, 0.0) <= 0.0})
        train.finish(flags, env, policy, optimizer, active, report.Iteration(
            step + 1, episodes, stats, clock.laps, R, a_act, a_turns=a_turns, reviewed=mined, notes={
                "taught": len(guided)}), {"pool": pool, "stored": stored, "gains": gains, "minings": minings})


def ask(episode, env) -> str:
    """The question that mines. It ends as the review's does: a small model knows no other form of it."""
    return "\nPropose the strategy that won, and when it applies." + question_of(episode, env)


def gain_of(rewards: list[float], half: int) -> float:
    """Delta_g in wins (reward 10): mean reward of the guided half, which stands last, less that of the others."""
    return (mean(rewards[-half:]) - mean(rewards[:-half])) / 10 if half else 0.0


def teaching(advantages, lam: float, cap: float = 2.0) -> list[list[float]]:
    """w_t = lambda min(max(A_t, 0), c): the weight of each token's log-probability under the plain prompt."""
    return [[lam * min(max(a, 0.0), cap) for a in mine] for mine in advantages]


if __name__ == "__main__":
    train.main(Flags, siri, "forks.siri")
