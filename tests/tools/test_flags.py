"""A command line from a dataclass: every knob is shown with its default, and what is wrong is one line."""

import json
from dataclasses import fields

import pytest

import train
import worlds


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


def test_a_checkpoint_of_the_cold_start_has_the_presets_of_what_it_was_made_from(tmp_path):
    """Bug: a tiny of one's own is trained like a model of 1.5B; or a model that has had its cold start gets another."""
    config = tmp_path / "config.json"
    for said, preset in (({"world": "guess"}, "tiny"), ({"world": "x", "made_from": "tiny"}, "tiny"),
                         ({"made_from": "smollm2"}, "smollm2")):
        config.write_text(json.dumps(said))
        flags = train.read_flags(["--model", str(tmp_path)])
        assert flags.lr == train.PRESETS[preset]["lr"] and flags.rows == train.PRESETS[preset].get("rows", 64)
        assert flags.cold_start == 0, "it had one"
        assert train.read_flags(["--model", str(tmp_path), "--cold_start", "7"]).cold_start == 7
    for other in ('{"model_type": "qwen2"}', "{", ""):
        config.write_text(other)
        assert train.read_flags(["--model", str(tmp_path)]).lr == train.Flags.lr
    assert train.read_flags(["--model", "smollm2"]).cold_start == 20


def test_a_worlds_option_can_follow_the_seed(monkeypatch):
    """Bug: --seed 1 plays the rules of seed 0; or a value that is given is overruled."""
    monkeypatch.setattr(worlds.load("counter"), "seeded", ("rules",))
    assert [train.read_flags(["--env", "counter", *given]).options["rules"]
            for given in ([], ["--seed", "7"], ["--seed", "7", "--rules", "2"])] == [0, 7, 2]
    monkeypatch.setattr(worlds.load("counter"), "seeded", ())
    assert train.read_flags(["--env", "counter", "--seed", "7"]).options["rules"] == -1
    assert worlds.seeded("guess") == worlds.seeded("nowhere") == ()
