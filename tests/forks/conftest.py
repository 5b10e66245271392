"""Runs of a few iterations of any fork, in this process, at the parcel counter: its games are short."""

import sys
from importlib import import_module

import pytest

import envs
import train
from studies.ablations import hand_written
from tests.runs import COUNTER
from tools import report


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
