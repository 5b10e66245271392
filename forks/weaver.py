"""
Knowledge Weaver (arXiv 2610.10042): a curator is paid for what its note adds. `python -m forks.weaver --env counter`

A frozen solver plays with the bank that is retrieved; a curator writes notes about its games. A note's reward is its
marginal success, with it in the bank less without it. The credit goes to the tokens that depend on the game they are
about: d_t = log pi(y_t | game, question) - log pi(y_t | question). A note that could have been written about any game
earns the same and teaches less.

Difference from SkillMaster:
- a review's tokens do not share its advantage alike, but by what each owes to the game: mean weight 1, more where d_t
  is high;
- acting is not paid (--acting 1 pays it as SkillMaster does: then the credit is the only difference);
- U has no bonus for the share of probes won (--alpha 0).
So --acting 1 --alpha 0.3 --credit 0 is SkillMaster, update for update. With that, --floor 0.01 tries UniSkill's floor
under the probability of each operation (uniskill.py) in its reviews; and without --credit 0, the credit.
Ours: one policy is solver and curator, so acting drifts with the shared weights; w_t = 1 - c + c sigmoid(d_t) / mean of
sigmoid(d); the question without the game still tells its outcome; steps count in U, and --confirm probes a good note
again, as in SkillMaster.
Measured at the counter (as above, --lr 3e-4, 40 iterations): UniSkill's floor in SkillMaster ends at .60, .65, .57, and
SkillMaster at .80, .75, .69 (seeds 0 to 2); late in these runs 9 to 38 of 100 calls cannot be read. The credit in
SkillMaster, seeds 0 to 9: +.05 +- .03 at 80 thousand tokens, +.04 +- .04 at 120 and at the end, so no gain is shown.
"""

from dataclasses import dataclass
from statistics import mean

import torch

import train
from dualadv_grpo import REVIEW, dual_advantages, per_token, score, update
from envs import Segment, question_of, rollout
from forks.uniskill import floors
from lib.streams import mix
from policy import logprobs
from probes import confirm, edits_of, probe
from skillbank import commit, shaping
from tools import report
from tools.flags import flag


@dataclass
class Flags(train.Flags):
    reviews: str = flag("on", "they are what is trained", choices=("on",), group="counterfactual utility, commit")
    alpha: float = flag(0.0, "bonus for the share of probes won over those lost", 0)
    acting: float = flag(0.0, "weight of acting's advantage; 0: frozen, as far as one policy can be", 0,
                         group="Knowledge Weaver")
    credit: float = flag(1.0, "c: how much a token's dependence on the game counts; 0: all tokens share alike", 0)
    floor: float = flag(0.0, "weight of UniSkill's floor under the probability of each operation; 0: none", 0)
    p_min: float = flag(0.1, "that floor", 1e-9)


def weaver(flags, env, policy, reference, optimizer, bank, start, state):
    """Iterations start .. flags.steps - 1."""
    objective, probing = train.objective_of(flags, env), train.probing_of(flags)
    for step in range(start, flags.steps):
        clock, seed = report.Clock(), mix(flags.seed, step)
        episodes = rollout(policy, env, train.tasks_of(flags, env, step), bank, flags.group, seed,
                           train.sampling_of(flags, flags.temperature))
        clock.lap("act")
        edits = edits_of(episodes)
        probe_games = probe(policy, env, bank, edits, seed, probing)
        clock.lap("probe")

        R = [sum(e.rewards(flags.reward == "graded")) for e in episodes]
        S = [e.edit.utility + shaping(e.review, e.edit, flags.not_found) for e in episodes]
        groups = [i // flags.group for i in range(len(episodes))]
        a_act, a_skill = dual_advantages(R, S, groups, flags.skill_weight)
        a_act = flags.acting * a_act
        blind = score(policy.model, [without_game(policy.chat, e, env) for e in episodes], logprobs, objective)
        segments, advantages, owed = [], [], []  # owed: how much the reviews depend on their games
        for e, acting, writing, said in zip(episodes, a_act, a_skill, blind):
            mine, credits = per_token([e], [acting], [writing])
            n = mine[-1].job.count(REVIEW)  # the review ends the last segment
            deltas = [with_game - without for with_game, without in zip(mine[-1].logp[-n:], said[-n:])]
            credits[-1][-n:] = [a * w for a, w in zip(credits[-1][-n:], shares(deltas, flags.credit))]
            segments += mine
            advantages += credits
            owed.append(mean(deltas))
        names, raising = floors(policy, episodes, segments, objective, flags.p_min, flags.floor)
        stats = update(policy.model, reference, optimizer, segments + names, advantages + raising, logprobs, objective,
                       report.bar("update"))
        clock.lap("update")

        again = flags.confirm and flags.commit == "positive"
        good, confirm_games = confirm(policy, env, bank, edits, seed, probing) if again else (edits, [])
        committed = commit(bank, good, flags.commit)
        clock.lap("confirm")
        train.finish(flags, env, policy, optimizer, bank, report.Iteration(
            step + 1, episodes, stats, clock.laps, R, a_act, S, a_skill, committed=committed, probe_games=probe_games,
            confirm_games=confirm_games, notes={"owed": mean(owed), "raised": len(names)}))


def without_game(chat, episode, env) -> Segment:
    """The review behind its question, as if nothing had been played."""
    last = episode.segments[-1]
    segment = Segment.of(chat.opening(episode.messages[0], question_of(episode, env).strip()))
    review = last.ids[last.starts[-1]:]
    segment.add_sampled(review, REVIEW, last.logp[last.starts[-1]:], episode.steps)
    return segment


def shares(deltas: list[float], c: float) -> list[float]:
    """w_t = 1 - c + c sigmoid(d_t) / mean of sigmoid(d): mean 1, so that a review counts as much as before."""
    gates = torch.tensor(deltas, dtype=torch.float64).sigmoid()
    return (1 - c + c * gates / gates.mean().clamp(min=1e-12)).tolist()


if __name__ == "__main__":
    train.main(Flags, weaver, "forks.weaver")
