"""Tests of lib/memory.py: a rollout's memory is known before it starts."""

import json
import sys
from types import SimpleNamespace

import pytest

import envs
import policy as policies
from lib import memory
from policy import Session
from skillbank import SkillBank

HOW = envs.Sampling(act_tokens=8, review_tokens=8, context=1500, rows=6)


@pytest.fixture
def policy():
    return policies.load("tiny")


@pytest.fixture
def env(monkeypatch):
    env = envs.make("webshop")
    monkeypatch.setattr(env, "limit", 2)
    return env


def test_the_cache_is_what_was_computed(policy):
    """Bug: a bound that forgets the values, the heads or the spare slot is no bound."""
    cfg = policy.model.cfg
    session = Session(policy, 5, 100)
    cache = 4 * (session.cache.k.numel() + session.cache.v.numel())
    assert cache < memory.of_rollout(cfg, 5, 100, 4, 1) < 2 * cache
    assert memory.of_rollout(cfg, 10, 100, 4, 1) == pytest.approx(2 * memory.of_rollout(cfg, 5, 100, 4, 1), rel=0.01)


def test_short_memory_means_waves_and_the_same_episodes(policy, env, monkeypatch, capsys, one_thread):
    """Bug: death by memory in the middle of a rollout; or other episodes because fewer were played at once."""
    tasks = env.train_tasks[:6]
    whole = envs.rollout(policy, env, tasks, SkillBank(), sampling=HOW)
    waves = []

    class Counted(Session):
        def __init__(self, policy, rows, *rest):
            waves.append(rows)
            super().__init__(policy, rows, *rest)

    monkeypatch.setattr(envs, "Session", Counted)
    needed = memory.of_rollout(policy.model.cfg, 2, 1500, 4, Session.PREFILL)
    monkeypatch.setattr(memory, "free", lambda device: needed / memory.SHARE + 1)
    parts = envs.rollout(policy, env, tasks, SkillBank(), sampling=HOW)
    assert waves == [2, 2, 2] and "2 at a time" in capsys.readouterr().out
    assert [[s.ids for s in e.segments] for e in parts] == [[s.ids for s in e.segments] for e in whole]


def test_what_once_did_not_fit_stays_fewer_in_a_run_only(policy, monkeypatch):
    """Bug: rows at once follow the free memory up and down, and no run can be made twice; or a limit of one rollout is
    that of all later ones, outside of runs."""
    def fitting(rows, room, share=memory.SHARE):
        needed = memory.of_rollout(policy.model.cfg, room, 1500, 4, Session.PREFILL)
        monkeypatch.setattr(memory, "free", lambda device: needed / share + 1)
        return memory.rows_that_fit(policy, rows, 1500, Session.PREFILL)

    assert [fitting(6, 4), fitting(6, 6)] == [4, 6]
    policy.rows = memory.Rows()
    assert [fitting(3, 6), fitting(6, 4), fitting(6, 6), fitting(2, 6)] == [3, 4, 4, 2]
    assert policy.rows == memory.Rows(kept=4, played=4)
    assert fitting(6, 4, share=1.0) == 4, "not fewer again because a little less is free"
    assert [fitting(6, 3, share=1.0), fitting(6, 6)] == [3, 3]


def test_nothing_to_play_needs_no_memory(policy, env):
    """Bug: an iteration without edits to probe is refused because zero rows fit."""
    assert envs.rollout(policy, env, [], SkillBank(), sampling=HOW) == []


def test_what_cannot_fit_at_all_is_refused_with_the_numbers(policy, env, monkeypatch):
    """Bug: an out-of-memory traceback from the depths of torch."""
    monkeypatch.setattr(memory, "free", lambda device: 10**6)
    with pytest.raises(ValueError, match=r"1500 tokens takes 0\.\d GB, 0\.0 GB are free on cpu; lower --context"):
        envs.rollout(policy, env, env.train_tasks[:2], SkillBank(), sampling=HOW)


def test_free_memory_is_a_figure_of_this_machine():
    """Bug: kilobytes for bytes."""
    assert 10**8 < memory.free("cpu") < 2**60 or memory.free("cpu") == 2**60


def test_peak_memory_is_megabytes_everywhere(monkeypatch):
    """Bug: `import resource` stops even --help on Windows; on macOS the figure is bytes and 1,024 times too large."""
    usage = SimpleNamespace(ru_maxrss=3 * 2**20)
    fake = SimpleNamespace(getrusage=lambda who: usage, RUSAGE_SELF=0)
    monkeypatch.setitem(sys.modules, "resource", fake)
    monkeypatch.setattr(sys, "platform", "linux")
    assert memory.peak_mb() == 3 * 1024
    monkeypatch.setattr(sys, "platform", "darwin")
    assert memory.peak_mb() == 3
    monkeypatch.setitem(sys.modules, "resource", None)
    assert memory.peak_mb() == 0
    assert json.dumps(memory.peak_mb())
