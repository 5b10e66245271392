"""SKILL0: fewer and fewer families show their skills, those first that their skills harm."""

from types import SimpleNamespace

import pytest

import envs
from forks.skill0 import allowed, kept, showing, trials_of
from studies.ablations import hand_written
from tests.skills import bank_of
from worlds.counter.world import towns


def test_stages_and_who_keeps_skills():
    """Bug: the family that needs its skills most loses them first, or one that they harm keeps them."""
    assert [allowed(7, stage) for stage in (0, 1, 2)] == [7, 4, 0]
    gains = {"c": 0.5, "a": 0.0, "b": -0.25, "d": 0.75}
    assert kept(gains, 4) == ["a", "c", "d"] and kept(gains, 2) == ["c", "d"] and kept(gains, 0) == []


def test_a_family_is_measured_with_its_skills_against_without(env):
    """Bug: the bank with skills is the first of a pair, so the gain has the wrong sign; or the given bank shrinks."""
    bank = bank_of(general=1, footwear=2, apparel=1)
    pairs = trials_of(env, bank, "footwear", ["apparel", "footwear"], 3, 1)
    assert len(pairs) == 3
    for task, without, whole in pairs:
        assert env.family(task) == "footwear"
        assert [s.skill_id for s in without.skills()] == ["general_0", "apparel_0"]
        assert [s.skill_id for s in whole.skills()] == ["general_0", "apparel_0", "footwear_0", "footwear_1"]
    assert len(showing(bank, []).skills()) == 1 and len(bank.skills()) == 4
    assert trials_of(env, bank, "no such family", [], 3, 1) == []
    twice = SimpleNamespace(train_tasks=[7, 7, 7, 8], family=lambda task: "footwear")
    assert sorted(task for task, _, _ in trials_of(twice, bank, "footwear", ["footwear"], 3, 1)) == [7, 8]


def test_a_bank_must_be_given(play_fork):
    """Bug: without a bank it is GRPO under another name."""
    with pytest.raises(SystemExit, match="the bank is empty"):
        play_fork("skill0", "--steps", "1")


def test_skills_are_withdrawn_in_a_run_of_any_length(play_fork, tmp_path):
    """Bug: a stage is 60 iterations, a run of tiny's 20 or 50, and the documented command never withdraws a skill."""
    world = envs.make("counter")
    hand_written(world.ways, towns[:4]).save(tmp_path / "few.json")  # each town is measured, and a measurement is games
    _, rows = play_fork("skill0", *f"--steps 3 --bank {tmp_path / 'few.json'} --tasks 1 --group 2".split())
    shown = [row["shown"] for row in rows if "shown" in row]
    assert len(shown) == 3 and shown[0] > 0 and shown[-1] == 0


def test_a_family_with_one_task_is_measured(env):
    """Bug: a family's first task is never played, so one with a single task loses its skills without a measurement."""
    task = next(task for task in env.train_tasks if env.family(task) == "footwear")
    world = SimpleNamespace(train_tasks=[task], family=env.family)
    assert [one for one, *_ in trials_of(world, bank_of(footwear=1), "footwear", ["footwear"], 3, 1)] == [task]


def test_a_family_that_cannot_be_measured_keeps_its_skills(alone):
    """Bug: what was not measured is taken away, as if the skills had done harm."""
    (_, _, state), = alone("skill0", "--steps 1 --stage 1", bank_of(nowhere=1))
    assert state["guided"] == ["nowhere"]


def test_a_stage_stays_as_long_as_it_was(alone):
    """Bug: a run of 6 iterations is resumed with --steps 60, and the withdrawn skills come back."""
    state = alone("skill0", "--steps 6", bank_of(nowhere=1))[-1][2]
    longer = alone("skill0", "--steps 60", bank_of(nowhere=1), state=state)
    assert state["stage"] == longer[-1][2]["stage"] == 2
