"""SAGE: a skill goes along its own chain, and who wrote it is paid by the wins that used it."""

from types import SimpleNamespace

import pytest

import envs
from forks import sage
from skillbank import Skill
from tools import report


def game(won, shown=(), wrote=None, text=""):
    edit = SimpleNamespace(changed=wrote is not None, skill_id=wrote)
    shown = [Skill(name, f"Title {name}", "p", "w") for name in shown]
    return SimpleNamespace(won=won, score=float(won), shown=shown, edit=edit, turns=[SimpleNamespace(text=text)])


def test_wins_with_a_skill_pay_themselves_and_who_wrote_it():
    """Bug: a lost game is paid for a skill; a chain is paid for another's skill; a win without skills is paid."""
    first = [game(True, wrote="a"), game(False, wrote="a"), game(False), game(True, wrote="b")]
    second = [game(True, "a", wrote="c"), game(False, "a"), game(True),
              game(True, "b", wrote="b", text="title  B, then")]
    third = [game(True, "ac"), game(True, "a"), game(True), game(False, "b")]
    using, writing = sage.uses([first, second, third], False)
    assert using == [0, 0, 0, 0, 1, 0, 0, 1, 1, 1, 0, 0]
    assert writing == [2, 1, 0, 1, 1, 0, 0, 0, 0, 0, 0, 0]
    using, writing = sage.uses([first, second, third], True)
    assert sum(using) == 1 and using[7] == 1 and sum(writing) == 1 and writing[3] == 1, "only it said the title"
    first, second = [game(False, wrote="a"), game(False, wrote="a")], [game(False, "a"), game(False, "a")]
    second[0].score, second[1].score = 0.5, 0.4
    assert sage.uses([first, second], False, 0.5) == ([0, 0, 1, 0], [1, 0, 0, 0]), "a score of .5 is enough"


@pytest.mark.slow
def test_a_chain_has_its_own_skills_and_one_reward(play_fork, monkeypatch):
    """Bug: chains share a bank; the second game is shown nothing; acting is paid otherwise than writing."""
    played, paid = [], []

    def rollout(policy, env, tasks, banks, *rest, **more):
        played.append((tasks, banks, envs.rollout(policy, env, tasks, banks, *rest, **more)))
        return played[-1][2]

    monkeypatch.setattr(sage, "rollout", rollout)
    monkeypatch.setattr(report, "Iteration", lambda *a, **k: paid.append(Iteration(*a, **k)) or paid[-1])
    _, rows = play_fork("sage", "--steps", "2", "--bonus", "3")
    env = envs.make("counter")
    for step, ((begun, none, first), (tasks, banks, second)) in enumerate(zip(played[::2], played[1::2])):
        assert len(begun) == len(tasks) == 8 and len(set(begun)) == len(set(tasks)) == 2
        assert [*map(env.family, begun)] == [*map(env.family, tasks)] and not set(begun) & set(tasks)
        assert not any(bank.skills() for bank in none) and not any(e.edit for e in second)
        for e, bank, other in zip(first, banks, second):
            assert [s.skill_id for s in other.shown] == [s.skill_id for s in bank.skills()]
            assert [s.title for s in bank.skills()] == (
                [e.edit.arguments["title"]] if e.edit.changed else [])
        iteration = paid[step]
        extra = [r - sum(e.rewards()) for r, e in zip(iteration.R, first + second)]
        assert extra == [3.0 * (e.edit.changed and other.won) for e, other in zip(first, second)] + [
            3.0 * (other.won and bool(other.shown)) for other in second]
        assert list(iteration.a_act) == list(iteration.a_skill) and any(e.edit.changed for e in first)
    assert len(rows) == 2 and any(iteration.notes["used"] for iteration in paid)


Iteration = report.Iteration
