"""Two command lines: every knob is shown with its default, and what is wrong is one line."""

import sys
from dataclasses import fields

import pytest

import eval as evaluation
import train


@pytest.mark.parametrize("flags, line", [
    (["--retire", "x.json"], "--retire FILE wants --audit"),
    (["a", "b", "c", "--report"], "one run, or two side by side"),
    (["a", "b"], "several only with --plot and --report"),
    (["tiny", "--watch", "0"], "--watch 0: must be at least 1"),
    (["runs/none", "--report"], "runs/none"),
])
def test_wrong_flags_are_one_line(flags, line, monkeypatch, capsys):
    """Bug: a traceback where a flag is missing another."""
    monkeypatch.setattr(sys, "argv", ["eval.py", *flags])
    with pytest.raises(SystemExit) as stop:
        evaluation.main()
    told = capsys.readouterr().err + str(stop.value.code)
    assert line in told and "Traceback" not in told


def test_help_shows_every_knob_with_its_default(capsys):
    """nanoGPT's --help is an AssertionError."""
    with pytest.raises(SystemExit) as stop:
        train.read_flags(["--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert stop.value.code == 0
    for field in fields(train.Flags)[:-1]:  # the last holds the world's own flags
        assert f"--{field.name} " in text and f"(default: {field.default!r}" in text


@pytest.mark.parametrize("flags", [["--nonsense"], ["--lr", "fast"], ["--tasks", "0"], ["--commit", "maybe"],
                                   ["--temperature", "-1"], ["--lr", "nan"], ["--advantage", "triple"],
                                   ["--step", "3"]])
def test_a_wrong_flag_gets_one_line(flags, capsys):
    """argparse prints forty lines of usage before it says what is wrong; and --step must not pass for --steps."""
    with pytest.raises(SystemExit) as stop:
        train.read_flags(flags)
    error = capsys.readouterr().err
    assert stop.value.code == 2 and error.count("\n") == 1 and flags[0].lstrip("-") in error


def test_the_data_decides_the_presets_wherever_it_is_named(monkeypatch):
    """Bug: $WEBSHOP_DATA and --data are the same run with two utilities."""
    assert train.read_flags([]).utility == train.read_flags(["--model", "tiny"]).utility == "graded"
    monkeypatch.setenv("WEBSHOP_DATA", "real")
    assert train.read_flags([]).utility == "both" and train.read_flags(["--env", "alfworld"]).utility == "success"


def test_flags_win_over_presets():
    """A preset that overrode a flag would make a run lie about its settings."""
    assert train.read_flags(["--model", "tiny"]).lr == train.PRESETS["tiny"]["lr"]
    assert train.read_flags(["--model", "tiny", "--lr", "0.5"]).lr == 0.5
    assert train.read_flags(["--model", "somewhere/else"]).lr == train.Flags.lr
    assert train.read_flags(["--model", "somewhere/else"]).out == "runs/webshop-else"
