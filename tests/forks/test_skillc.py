"""SKILLC: two streams of advantages, and a pull towards winning without skills."""

import math

import pytest

from forks.skillc import two_streams
from tests.skills import bank_of


def test_two_streams_worked_by_hand():
    """Bug: wins with skills are raised, so the policy leans on them; or a bank that harms pulls, too."""
    a, gap = two_streams([0.0, 10.0, 10.0, 10.0], [0, 0, 1, 1], [False, True, True, True], 1.0, 0.4)
    assert gap == 0.5
    # Whole group: mean 7.5, std 5. Without skills: mean 5, std 7.07. With skills all are equal.
    pull, one = 0.4 * 0.5, math.sqrt(0.5)
    assert a == pytest.approx([-1.5 - one, 0.5 + one + pull, 0.5 - pull, 0.5 - pull], abs=1e-5)
    a, gap = two_streams([10.0, 10.0, 0.0, 10.0], [0, 0, 1, 1], [True, True, False, True], 1.0, 0.4)
    assert gap == -0.5 and a == pytest.approx([0.5, 0.5, -1.5 - one, 0.5 + one], abs=1e-5), "nothing is pulled"


def test_a_group_without_skills_has_no_gap():
    """Bug: a family whose skills were taken away ends the run with a mean of nothing."""
    a, gap = two_streams([0.0, 10.0], [0, 0], [False, True], 1.0)
    assert gap == 0.0 and a == pytest.approx([-2 * math.sqrt(0.5), 2 * math.sqrt(0.5)], abs=1e-5)


def test_families_that_nobody_wins_keep_their_skills(alone):
    """Bug: a family without a win has gap 0, and loses its skills at the first audit for ever."""
    flags, bank = "--steps 1 --audit_every 1", bank_of(general=1)
    assert alone("skillc", flags, bank)[0][2] == {"gaps": {}, "weaned": []}
    (_, _, state), = alone("skillc", flags, bank, won=lambda e: not e.shown)
    assert len(state["weaned"]) == 1, "skills that harm are taken away"
