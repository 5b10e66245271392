"""ReSkill: two versions of a bank, compared by Beta posteriors whose evidence ages."""

import copy
import math
import random
from types import SimpleNamespace

import pytest

from dualadv_grpo import ACT, FORCED, REVIEW
from forks.reskill import chance, horizon, posteriors, whitened
from tests.skills import bank_of


def test_posteriors_worked_by_hand():
    """Bug: wins and losses are swapped, or the prior is discounted away and no game is left to draw from."""
    steps = [[(6, 2), (2, 2)], [(4, 4), (4, 1)]]
    assert posteriors(steps, math.inf) == [(1 + 6, 1 + 4), (1 + 3, 1 + 3)]
    # The first step's counts age by w = 8 / (8 + 8), as the second step had 8 games.
    assert posteriors(steps, 8) == [(1 + 2 / 2 + 4, 1 + 4 / 2), (1 + 2 / 2 + 1, 1 + 0 + 3)]
    assert posteriors([], 8) == [(1, 1), (1, 1)]


def test_the_better_version_is_taken_more_often_and_the_other_not_given_up():
    """Bug: a version that lost its first two games is never played again."""
    rng = random.Random(0)
    assert chance((1, 1), (1, 1), rng) == pytest.approx(0.5, abs=0.02)
    assert chance((1, 60), (60, 1), rng) == 0.85 and chance((60, 1), (1, 60), rng) == 0.15


def test_a_policy_that_moves_forgets_and_one_that_stands_does_not():
    """Bug: the horizon is read the wrong way round."""
    still = [[[(8, 4), (8, 4)]] * 6] * 2
    moving = [[[(8, 8 * (t % 2)), (8, 8 * (t % 2))] for t in (0, 0, 0, 1, 1, 1)]] * 2
    assert horizon(still) > 100 > horizon(moving)
    assert horizon(still[:1]) == math.inf


def test_whitening_leaves_other_tokens_alone():
    """Bug: prompt tokens count in the mean, and long pages make all advantages small."""
    segments = [SimpleNamespace(job=[FORCED, ACT, ACT]), SimpleNamespace(job=[FORCED, ACT, REVIEW])]
    got = whitened(segments, [[0.0, 1.0, 1.0], [0.0, -2.0, 0.0]])
    assert got == [[0.0, *[pytest.approx(math.sqrt(0.5), abs=1e-4)] * 2], [0.0, pytest.approx(-math.sqrt(2), abs=1e-4),
                                                                           0.0]]


def test_a_decision_by_no_games_is_refused(alone):
    """Bug: --confirm 0 compares no wins with no wins, and no version ever enters."""
    with pytest.raises(SystemExit, match="--decide paired plays --confirm tasks"):
        alone("reskill", "--steps 1 --decide paired --confirm 0")


def test_scores_count_where_they_are_the_reward(alone):
    """Bug: in a world without a win yet the version that played fewer games is the better one."""
    state = {"new": bank_of(general=1), "edits": [SimpleNamespace(skill_id="x")], "trials": [[]]}
    for reward, wins in (("success", 0), ("graded", 4 * 0.25)):
        def won(e):
            e.score = 0.25
            return False

        (_, _, after), = alone("reskill", f"--steps 1 --reward {reward} --trial_steps 9", won=won,
                               state=copy.deepcopy(state))
        (old, new), = after["trials"][-1]
        assert old[0] + new[0] == 4 and old[1] + new[1] == wins
