"""SkillRL: the bank grows where the policy fails."""

from types import SimpleNamespace

from forks.skillrl import chosen
from tests.skills import SHOE, bank_of


def test_failures_of_families_that_win_are_left_alone():
    """Bug: a family that wins nine of ten gets a skill from its one failure, or one task gives all new skills."""
    lost = [SimpleNamespace(task=task, family=family, number=i)
            for i, (task, family) in enumerate([(1, "a"), (2, "b"), (3, "a"), (3, "a"), (4, "a")])]
    won = {"a": [True, False, False, False, False], "b": [True] * 9 + [False]}
    assert [e.number for e in chosen(won, lost, 0.4, 2)] == [3, 4] and len(chosen(won, lost, 0.4, 9)) == 3
    assert chosen(won, lost, 0.0, 9) == [] and chosen({}, [], 0.4, 3) == []


def test_what_is_written_stays_as_it_was_written(alone):
    """Bug: a review updates a skill, and the text that the weights have learned to use is gone."""
    bank = bank_of(general=1)
    alone("skillrl", "--steps 1 --grow_every 1", bank, call=lambda e: (
        "update_skill", SHOE | {"skill_id": "general_0", "reason": "r"}))
    assert bank == bank_of(general=1)
