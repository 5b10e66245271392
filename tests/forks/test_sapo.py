"""SAPO: candidates wait with the utilities of the groups that tried them; the best of them enter the bank."""

import pytest

from forks.sapo import best, blamed
from skillbank import SkillBank
from tests.skills import SHOE


def written(bank, utility, title, principle, family="footwear"):
    edit = bank.tried("propose_skill", SHOE | {"title": title, "principle": principle}, family)
    edit.utility = utility
    return edit


def test_harm_is_blamed_less():
    """Bug: the sign is lost, and writing harmful skills is paid."""
    assert blamed(0.5, 0.5) == 0.5 and blamed(-0.5, 0.5) == -0.25 and blamed(0.0, 0.5) == 0.0


def test_the_best_share_of_texts_enters_and_nothing_that_is_known():
    """Bug: a text that was lucky once enters; one text takes two places; the bank fills with one rule in many words."""
    bank = SkillBank()
    lucky, again = (written(bank, u, "Buy the first", "Buy the first result.") for u in (1.0, -1.2))
    good, fair = written(bank, 0.4, "Pick size", "Click every size."), written(bank, 0.2, "Compare", "Look at prices.")
    bad = written(bank, -0.1, "Stop", "Never look back.")
    waiting = [lucky, bad, again, fair, good]
    assert best(waiting, bank, 1.0, 0.8, 45) == [good, fair]
    assert best(waiting, bank, 0.5, 0.8, 45) == [good, fair] and best(waiting, bank, 0.25, 0.8, 45) == [good]
    assert best(waiting, bank, 1.0, 0.8, 1) == [good] and best(waiting, bank, 1.0, 0.8, 0) == []
    bank.apply("propose_skill", SHOE | {"title": "Pick size", "principle": "Click every size always."}, "footwear")
    assert best([good], bank, 1.0, 0.8, 45) == []


def test_an_update_is_not_refused_for_being_like_what_it_updates():
    """Bug: no stored skill can ever be improved."""
    bank = SkillBank()
    made = bank.apply("propose_skill", SHOE, "footwear")
    better = {"skill_id": made.skill_id, "title": SHOE["title"], "principle": SHOE["principle"] + " Then buy.",
              "when_to_apply": SHOE["when_to_apply"], "reason": "r"}
    edit = bank.tried("update_skill", better, "footwear")
    edit.utility = 0.1
    assert best([edit], bank, 1.0, 0.8, 45) == [edit]
    assert pytest.approx(0.1) == edit.utility


def test_of_two_like_candidates_the_better_enters():
    """Bug: candidates are compared with the bank only, and one rule in two words enters twice at once."""
    bank = SkillBank()
    good = written(bank, 0.4, "Pick size", "Click every size.")
    like = written(bank, 0.6, "Pick size", "Click every size always.")
    assert best([good, like], bank, 1.0, 0.8, 45) == [like]
    assert best([good, like], bank, 1.0, 1.1, 45) == [like, good]
