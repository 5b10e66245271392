"""
Skills as a teacher of the plain prompt, five terms: `python -m forks.teachers --env counter --term sdar`

Games are played without skills. Then the policy, before its update and without a gradient, reads the same tokens again
behind a prompt with skills, as the teacher: delta_t = log pi(y_t | skills, prompt) - log pi(y_t | prompt). For one step
per batch each method's loss has the gradient of an advantage per token, as the test shows with autograd:

    sdar      SDAR      arXiv 2605.15155   A + c sigmoid(5 delta)            c .01
    skill_sd  Skill-SD  arXiv 2604.10674   A + c delta                       c .001, importance-weighted reverse KL (k3)
    rlsd      RLSD      arXiv 2604.03128   A (1 - c + c clip(exp(sign(A) delta), .8, 1.2)), c .5 to 0 in 100 steps
    opid      OPID      arXiv 2606.26790   A + c delta                       c .001
    sgsd      SGSD      arXiv 2605.28791   A + c p sigmoid(-delta^2 / 2) delta, p = (won ? 1 : -1) sign(support)

support is the mean of delta, clipped to +-3; its sign is 0 where |support| <= .05. Skill-SD and OPID: who writes.

Difference from SkillMaster:
- a skill is not tried in games: what it makes likelier is credit for the tokens that were played;
- reviews are not trained, nothing is probed, no bank is kept; the test shows no skills.
Ours: the teacher's skills are each game's own review, written in hindsight, or those of --bank (--skills bank); where a
review writes none, or the model cannot read so much, a game has plain GRPO. Reviews' tokens count in the mean, KL and
entropy. SGSD with one teacher for eight; its c. Terms stand beside GRPO's (--rl 0: without). Measured: nothing yet.
"""

from dataclasses import dataclass
from math import exp, log, tanh
from statistics import mean

import train
from dualadv_grpo import ACT, group_advantage, per_token, score, update
from envs import reprompt, rollout
from lib.streams import mix
from policy import logprobs
from skillbank import SkillBank
from tools import report
from tools.flags import flag
from worlds import GameError

WEIGHTS = {"sdar": 0.01, "skill_sd": 0.001, "rlsd": 0.5, "opid": 0.001, "sgsd": 0.01}


@dataclass
class Flags(train.Flags):
    reviews: str = flag("on", "sampled with --skills own", choices=("on",), group="nothing is probed; without effect")
    eval_plain: bool = flag(True, "the test shows no skills")
    term: str = flag("sdar", "whose term", choices=tuple(WEIGHTS), group="teachers")
    skills: str = flag("own", "the teacher sees what the game's own review wrote, or --bank", choices=("own", "bank"))
    weight: float = flag(-1.0, f"c; -1: {', '.join(f'{name} {c}' for name, c in WEIGHTS.items())}", -1)
    rl: float = flag(1.0, "weight of GRPO's own advantage; 0: the teacher alone", 0)


def teachers(flags, env, policy, reference, optimizer, bank, start, state):
    """Iterations start .. flags.steps - 1."""
    objective, sampling = train.objective_of(flags, env), train.sampling_of(flags, flags.temperature)
    if flags.skills == "bank" and not bank.skills():
        raise SystemExit("forks.teachers: --skills bank: the bank is empty; give one with --bank")
    for step in range(start, flags.steps):
        clock = report.Clock()
        episodes = rollout(policy, env, train.tasks_of(flags, env, step), SkillBank(), flags.group,
                           mix(flags.seed, step), sampling, with_review=flags.skills == "own")
        clock.lap("act")
        R = [sum(e.rewards(flags.reward == "graded")) for e in episodes]
        a_act = flags.rl * group_advantage(R, [i // flags.group for i in range(len(R))], alone="reward")
        weight = flags.weight if flags.weight >= 0 else WEIGHTS[flags.term]
        weight *= max(1 - step / 100, 0.0) if flags.term == "rlsd" else 1.0
        advised = [bank.retrieve(env.goal(e.task), e.family, flags.top_k) if flags.skills == "bank" else
                   [e.edit.bank.find(e.edit.skill_id)] if e.edit.changed else [] for e in episodes]
        moved = [read_behind(policy, env, e, skills) if skills else [] for e, skills in zip(episodes, advised)]
        said = iter(score(policy.model, sum(moved, []), logprobs, objective))
        segments, advantages, agreed = [], [], []
        for e, a, taught in zip(episodes, a_act.tolist(), moved):
            mine, credits = per_token([e], [a])
            if taught:
                deltas = [delta_of(segment, next(said)) for segment in mine]
                support, polarity = support_of(deltas, e.won)
                agreed.append(support)
                credits = [[a if d is None else credit(flags.term, a, d, weight, polarity) for a, d in zip(some, ds)]
                           for some, ds in zip(credits, deltas)]
            segments += mine
            advantages += credits
        clock.lap("teach")
        stats = update(policy.model, reference, optimizer, segments, advantages, logprobs, objective)
        clock.lap("update")
        train.finish(flags, env, policy, optimizer, bank, report.Iteration(
            step + 1, episodes, stats, clock.laps, R, a_act, notes={
                "taught": len(agreed), "support": mean(agreed) if agreed else 0.0}))


def read_behind(policy, env, episode, skills) -> list:
    """`reprompt`'s segments: the game behind a prompt with these skills; [] where the model cannot read so much."""
    try:
        return reprompt(policy, env, episode, skills)
    except GameError:
        return []


def delta_of(segment, said: list[float]) -> list:
    """delta_t of the acting tokens of a segment, None of the others; said: of its tokens behind the other prompt."""
    pairs = list(zip(reversed(said), reversed(segment.logp), reversed(segment.job)))[::-1]  # they end alike
    return [None] * (len(segment.ids) - len(pairs)) + [t - s if job == ACT else None for t, s, job in pairs]


def support_of(deltas, won: bool) -> tuple[float, int]:
    """SGSD: (support, p): p is +1 where support > 0 and it won, or neither, else -1; 0 where |support| <= .05."""
    support = mean([min(max(d, -3.0), 3.0) for some in deltas for d in some if d is not None])
    return support, (0 if abs(support) <= 0.05 else 1) * (1 if (support > 0) == won else -1)


def credit(term: str, a: float, delta: float, weight: float, polarity: int = 0) -> float:
    """The advantage of a token that has `a` from GRPO."""
    if term == "sdar":
        return a + weight * (1 + tanh(5 * delta / 2)) / 2  # sigmoid(5 delta)
    if term == "rlsd":
        return a * (1 - weight + weight * exp(min(max(delta if a > 0 else -delta, log(0.8)), log(1.2))))
    if term == "sgsd":
        return a + weight * polarity * (1 - tanh(delta * delta / 4)) / 2 * delta  # sigmoid(-delta^2 / 2) delta
    return a + weight * delta  # skill_sd, opid


if __name__ == "__main__":
    train.main(Flags, teachers, "forks.teachers")
