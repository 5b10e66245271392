"""SLIM: a skill is judged by games with it and without it, over many audits."""

from types import SimpleNamespace

import pytest

from forks.slim import smoothed, trials_of
from tests.skills import SHOE, bank_of


def test_audits_are_smoothed():
    """Bug: the new audit has the old ones' weight, and one unlucky audit retires a skill."""
    assert smoothed(None, 0.5) == 0.5
    assert smoothed(0.5, -0.5) == pytest.approx(0.9 * 0.5 - 0.1 * 0.5)


def test_a_skill_is_left_out_where_it_is_shown(env):
    """Bug: a skill is audited on tasks that never show it, so its utility is 0; or the bank itself loses it."""
    bank = bank_of(general=1, footwear=3)
    pairs = trials_of(env, bank, {"footwear_0"}, 3, 5, 1)
    assert len(pairs) == 5 and {env.family(task) for task, _, _ in pairs} == {"footwear"}
    for task, without, whole in pairs:
        assert task in env.train_tasks and whole is bank and len(bank.skills()) == 4
        assert [s.skill_id for s in without.skills()] == ["general_0", "footwear_1", "footwear_2"]
    assert len({env.family(task) for task, _, _ in trials_of(env, bank, {"general_0"}, 3, 8, 1)}) > 1
    assert trials_of(env, bank, {"footwear_0"}, 1, 5, 1) == [], "with room for one the newest is shown"


def test_a_new_text_is_not_judged_by_an_old_record(alone):
    """Bug: new general skills are retired for what the retired ones did; an updated skill keeps its old text's mean."""
    flags = "--steps 1 --audit_every 1 --failures 1 --audited"
    (bank, _, state), = alone("slim", f"{flags} 0 --patience 1 --shown 1 --useless 0.5", bank_of(general=2))
    assert bank.skills() == [] and state["shown"] == state["ema"] == state["against"] == {}
    name = f"{alone.family}_0"
    calls = {"keep_skill": {}, "update_skill": SHOE | {"skill_id": name, "reason": "r"}}
    kept, new = (alone("slim", f"{flags} 1", bank_of(**{alone.family: 1}), call=lambda e, call=call: call)[0][2]
                 for call in calls.items())
    assert (kept["shown"], kept["ema"], kept["against"]) == ({name: 4}, {name: 0.0}, {name: 1})
    assert new["shown"] == new["ema"] == new["against"] == {}
    name, calls = "general", {"keep_skill": {}, "propose_skill": SHOE | {"category": "general"}}
    kept, new = (alone("slim", f"{flags} 1", bank_of(general=1), call=lambda e, call=call: call)[0][2]
                 for call in calls.items())
    assert (kept["shown"], kept["ema"]) == ({name: 4}, {name: 0.0}), "general skills are one unit"
    assert new["shown"] == new["ema"] == {}, "and a new one among them makes another unit"


def test_where_utility_is_graded_a_better_score_keeps_a_skill(alone):
    """Bug: in a world where one skill seldom makes a win every audit finds 0, and retires them all."""
    games = [SimpleNamespace(won=False, score=score) for score in (0.25, 0.75)]
    for utility, gain, against in (("success", 0.0, 1), ("graded", 0.5, 0)):
        (_, _, state), = alone("slim", f"--steps 1 --audit_every 1 --utility {utility}", bank_of(general=1),
                               pairs=lambda trials: [games for _ in trials])
        assert state["ema"] == {"general": gain} and state["against"] == {"general": against}
