"""Better prompts without training: counters, a gate against regressions, a frontier of banks."""

import copy
from types import SimpleNamespace

import pytest

from envs import Episode
from forks import prompting
from forks.prompting import balanced, count, gated
from skillbank import SkillBank
from tests.skills import SHOE, bank_of


def test_the_gate_asks_for_a_net_gain_and_no_regression():
    """Bug: an edit that wins three tasks and breaks one that worked enters all the same."""
    assert gated([0, 0, 1, 1], [1, 0, 1, 1], 0) == 0.25
    assert gated([0, 0, 0, 1], [1, 1, 1, 0], 0) == 0.0 and gated([0, 0, 0, 1], [1, 1, 1, 0], 1) == 0.5
    assert gated([0, 1], [0, 1], 0) == 0.0 and gated([], [], 0) == 0.0


def test_probes_are_half_of_tasks_that_were_won(env):
    """Bug: all probes were lost before, so that no edit can do harm; or the writer's own task is one."""
    own, *others = [task for task in env.train_tasks if env.family(task) == "footwear"][:9]
    outcomes = {own: True} | {task: i < 4 for i, task in enumerate(others)}
    outcomes |= {next(task for task in env.train_tasks if env.family(task) == "apparel"): True}
    edit = SkillBank().tried("propose_skill", SHOE, "footwear", own)
    some = balanced(env, outcomes, edit, 4, 1)
    assert len(set(some)) == 4 and own not in some and sum(outcomes[task] for task in some) == 2
    assert {env.family(task) for task in some} == {"footwear"}
    assert own not in balanced(env, outcomes, edit, 99, 1)
    few = balanced(env, {task: True for task in others[:3]} | {others[3]: False}, edit, 4, 1)
    assert len(few) == 4, "where few were lost, more that were won"
    one = balanced(env, {own: True, others[0]: True}, edit, 4, 1)
    assert len(set(one)) == 4 and others[0] in one and own not in one, "where few were played, others"
    assert {env.family(task) for task in one} == {"footwear"}


def test_counters_are_kept_and_saved(tmp_path):
    """Bug: the counters stand on copies, as games come from another process, or are not in skills.json."""
    bank = bank_of(footwear=2)
    shown = bank.retrieve("a task", "footwear", 1)
    games = [Episode(1, "footwear", 0, shown, ("", ""), won=won) for won in (True, False, False)]
    count(copy.deepcopy(games), bank)
    bank.save(tmp_path / "skills.json")
    one, = [skill for skill in SkillBank.load(tmp_path / "skills.json").skills() if skill.skill_id == shown[0].skill_id]
    assert (one.extra["helpful"], one.extra["harmful"]) == (1, 2)


@pytest.mark.parametrize("rule", ["ace", "grasp"])
def test_no_weight_moves(rule, play_fork):
    """Bug: the frozen policy is trained, and what the bank gains is not the bank's."""
    run, rows = play_fork("prompting", "--steps", "1", "--tasks", "1", "--rule", rule)
    before, after = (run / place / "model.safetensors" for place in ("reference", "checkpoints/step_00001"))
    assert before.read_bytes() == after.read_bytes() and rows[-1]["grad_norm"] == 0.0


def test_a_child_that_is_its_parent_does_not_enter_the_frontier(alone, monkeypatch):
    """Bug: no edit was taken, the copy has its parent's score, and copies push all other banks out."""
    scored = []
    monkeypatch.setattr(prompting, "evaluate", lambda policy, env, bank, *rest: scored.append(bank) or [
        SimpleNamespace(won=True, score=1.0)])
    (_, _, first), (_, _, state) = alone("prompting", "--steps 2 --rule evoskill")
    assert len(scored) == len(first["frontier"]) == len(state["frontier"]) == 1
    (_, _, state), = alone("prompting", "--steps 1 --rule evoskill", call=lambda e: (
        "propose_skill", SHOE | {"category": "general"}))
    assert len(state["frontier"]) == 2 and len(scored) == 3
