"""guess, the smallest world, which others copy: it can be won, and trained on."""

import random
import sys
from pathlib import Path

import pytest

import envs
import eval as evaluation
import train
from tools import coldstart
from worlds.players import WORDINGS


def test_habits_have_as_many_wordings_as_players_ask_for():
    """Bug: a player's update writes the words that are there, and a cold start teaches a call that changes nothing."""
    ways = envs.make("guess").ways
    for family in ("general", *ways.families):
        for field in ("title", "principle"):
            first, second = ([text[field] for text in ways.texts(family, wording)] for wording in range(WORDINGS))
            assert first and not set(first) & set(second)


def test_guess_is_won_by_halving():
    """Bug: the template that others copy cannot be won, or does not end."""
    env = envs.make("guess", "test")
    won = {"halve": 0, None: 0}
    for habit in won:
        for task in env.tasks:
            game = env.start(task)
            player = env.player(game, task, [], random.Random(task))
            player.habits = {habit} - {None}
            for _ in range(env.limit):
                if not game.done:
                    game.step(player.act(game.observation)[1])
            won[habit] += game.won
    assert won["halve"] == len(env.tasks) and won[None] < 30
    assert env.start(0).step("a lot") == "a lot is too low." and not env.start(0).won


def test_guess_has_no_data():
    """Bug: --data with a typing error, or for another world, is not looked at."""
    with pytest.raises(ValueError, match="--data /no/where: guess"):
        envs.make("guess", data="/no/where")


def test_guess_trains_from_nothing(tmp_path, monkeypatch, capsys):
    """Bug: the README's command for the template does not run; or a new world needs a change in the seven files."""
    monkeypatch.setattr(sys, "argv", "coldstart --env guess --model tiny --steps 1 --batch 2 "
                        f"--out {tmp_path / 'new'}".split())
    coldstart.main()
    monkeypatch.setattr(sys, "argv", f"train.py --env guess --model {tmp_path / 'new'} --steps 1 --tasks 2 --group 2 "
                        "--probes 1 --confirm 1 --eval_tasks 2 --act_tokens 12 --review_tokens 24 "
                        f"--out {tmp_path / 'run'}".split())
    train.main()
    monkeypatch.setattr(sys, "argv", ["eval.py", str(tmp_path / "run"), "--limit", "2", "--protocols", "none"])
    evaluation.main()
    out = capsys.readouterr().out
    assert "step 1 | guessing games | success" in out and "none     all" in out
    for file in Path(train.__file__).parent.glob("*.py"):
        assert "guess" not in file.read_text(), f"{file.name} names a world"
