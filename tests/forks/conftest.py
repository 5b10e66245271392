"""Runs of a few iterations of any fork, in this process, at the parcel counter: its games are short."""

import sys
from dataclasses import replace
from importlib import import_module
from types import SimpleNamespace

import pytest

import envs
import train
from dualadv_grpo import Stats
from skillbank import SkillBank
from studies.ablations import hand_written
from tests.runs import COUNTER
from tools import report
from worlds import GameError


@pytest.fixture
def play_fork(tmp_path, monkeypatch, one_thread):
    """play(name, *flags): a run of forks.<name>; returns (its directory, its rows). {bank}: one with the true rules."""
    env, bank = envs.make("counter"), tmp_path / "bank.json"
    hand_written(env.ways, sorted({env.family(task) for task in env.tasks})).save(bank)

    def play(name, *flags, out="run"):
        module = import_module(f"forks.{name}")
        flags = [flag.format(bank=bank) for flag in flags]
        monkeypatch.setattr(sys, "argv", [f"forks.{name}", *COUNTER, "--out", str(tmp_path / out), *flags])
        train.main(module.Flags, getattr(module, name), f"forks.{name}")
        return tmp_path / out, report.lines_of(tmp_path / out / "metrics.jsonl")

    return play


@pytest.fixture
def alone(monkeypatch):
    """alone(name, flags, bank, ...): a fork's loop without a model; returns its (bank, Iteration, state)s.

    Each game is one turn on the same page. won(e) tells how a game ends, call(e) what its review says: a tool and its
    arguments, pairs(trials) how pairs of games end. All that needs a model is left out. All tasks are of one family,
    alone.family.
    """
    env = envs.make("counter")
    family = env.family(env.train_tasks[0])
    env.train_tasks = [task for task in env.train_tasks if env.family(task) == family]

    def run(name, flags="", bank=None, won=lambda e: False, call=lambda e: ("keep_skill", {}), state=None,
            pairs=None):
        module, seen = import_module(f"forks.{name}"), []
        bank = SkillBank() if bank is None else bank

        def rollout(policy, env, tasks, bank, group=1, *rest, with_review=True, **more):
            banks = bank if isinstance(bank, list) else [bank] * len(tasks)
            games = [envs.Episode(task, env.family(task), i, one.retrieve("", env.family(task), 9), ("s", "u"),
                                  [envs.Segment.of([1])], [envs.Turn("page", "t", True, "r")])
                     for n, (task, one) in enumerate(zip(tasks, banks)) for i in range(n * group, (n + 1) * group)]
            for e in games:
                e.won = won(e)
            return review_again(policy, env, games, [b for b in banks for _ in range(group)]) if with_review else games

        def review_again(policy, env, games, banks, *rest):
            return [replace(e, edit=one.tried(*call(e), e.family, e.task)) for e, one in zip(games, banks)]

        def play_pairs(policy, env, some, *rest):
            return pairs(some) if pairs else [
                rollout(policy, env, [task] * 2, [one, other], with_review=False) for task, one, other in some]

        instead = {"rollout": rollout, "review_again": review_again, "play_pairs": play_pairs,
                   "update": lambda *rest: Stats(), "per_token": lambda *rest, **more: ([], []),
                   "score": lambda model, segments, *rest: [[0.0] for _ in segments],
                   "floors": lambda *rest: ([], []), "games_of": list, "whitened": lambda *rest: []}
        for key in instead.keys() & vars(module).keys():
            monkeypatch.setattr(module, key, instead[key])
        monkeypatch.setattr(train, "finish", lambda flags, env, policy, optimizer, bank, iteration, state=None:
                            seen.append((bank, iteration, state)))
        argv = ["--env", "counter", "--model", "tiny", "--tasks", "1", "--group", "4", *flags.split()]
        read = train.read_flags(argv, module.Flags, f"forks.{name}")
        getattr(module, name)(read, env, SimpleNamespace(model=None), None, None, bank, 0, state or {})
        return seen

    run.family = family
    return run


@pytest.fixture
def too_long(monkeypatch):
    """No transcript fits behind a prompt with skills."""
    def refuse(policy, env, episode, shown):
        if shown:
            raise GameError("too long")
        return episode.segments

    monkeypatch.setattr("forks.teachers.reprompt", refuse)
