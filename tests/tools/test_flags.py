"""A command line from a dataclass: every knob is shown with its default, and what is wrong is one line."""

import json
import re
from dataclasses import fields, replace
from functools import partial
from types import SimpleNamespace

import pytest
import torch

import train
import worlds
from forks import gigpo
from tools import coldstart, runs
from tools.flags import parse


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
                                   ["--step", "3"], ["--lr", "inf"], ["--not_found", "nan"], ["--base", "nan"]])
def test_a_wrong_flag_gets_one_line(flags, capsys):
    """argparse prints forty lines of usage before it says what is wrong; and --step must not pass for --steps. A rate
    that is infinite makes every weight nan, and the run goes on."""
    with pytest.raises(SystemExit) as stop:
        train.read_flags(flags)
    error = capsys.readouterr().err
    assert stop.value.code == 2 and error.count("\n") == 1 and flags[0].lstrip("-") in error


def test_the_data_decides_the_presets_wherever_it_is_named(monkeypatch):
    """Bug: $WEBSHOP_DATA and --data are the same run with two utilities."""
    assert train.read_flags([]).utility == train.read_flags(["--model", "tiny"]).utility == "graded"
    monkeypatch.setenv("WEBSHOP_DATA", "real")
    assert train.read_flags([]).utility == "both" and train.read_flags(["--env", "alfworld"]).utility == "success"


def test_a_resumed_run_follows_neither_the_card_nor_a_preset(tmp_path, monkeypatch, capsys):
    """Bug: begun on 80 GB and resumed by the same command on 24 GB: LoRA is switched on, and the run refused for it."""
    size = 85e9
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(total_memory=size))
    command = ["--env", "webshop", "--out", str(tmp_path), "--group", "4"]

    def keep(flags):
        (tmp_path / "config.json").write_text(json.dumps(runs.flags_of(flags, "train.py")))

    large = train.read_flags(command)
    keep(large)
    size = 25e9
    small = train.read_flags([*command, "--resume"])
    assert (small.lora, small.lr, small.recompute) == (0, train.Flags.lr, False) and not capsys.readouterr().out
    assert train.read_flags(["--out", str(tmp_path), "--resume"]) == small, "its own settings, with no flag but --out"
    assert small == replace(large, resume=True)
    keep(train.read_flags(command))
    size = 85e9
    large = train.read_flags([*command, "--resume"])
    assert large.lora == 16 and large.recompute
    assert train.read_flags([*command, "--resume", "--no_recompute"]).recompute is False
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert train.read_flags([*command, "--resume"]).model == "Qwen/Qwen2.5-1.5B-Instruct", "also without a card"


def test_a_card_that_torch_cannot_use_is_said_where_it_decides_the_model(monkeypatch, capsys):
    """Bug: with a driver older than torch's CUDA, `python train.py` trains tiny on the CPU, and nothing says why."""
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)

    def fails(reason):
        def init():
            raise RuntimeError(reason)

        monkeypatch.setattr(torch.cuda, "init", init)

    fails("The NVIDIA driver on your system is too old (found version 12040).\nPlease update")
    assert train.read_flags([]).model == "tiny"
    assert re.match(r"tiny, not Qwen2.5-1.5B: .* CUDA 13.0 .*too old \(found version 12040\)", capsys.readouterr().out)
    for given in (["--device", "cpu"], ["--model", "tiny"], ["--env", "guess", "--model", "smollm2"]):
        train.read_flags(given)
    fails("Found no NVIDIA driver on your system. Please check")  # a laptop
    train.read_flags([])
    assert not capsys.readouterr().out


def test_a_resumed_runs_own_flags_are_taken_with_its_world(tmp_path):
    """Bug: --resume without --env reads the flags of another world."""
    flags = train.read_flags(["--env", "webshop", "--base", "0.25", "--out", str(tmp_path), "--data", "shop"])
    (tmp_path / "config.json").write_text(json.dumps(runs.flags_of(replace(flags, env="webshop"), "train.py")))
    again = train.read_flags(["--out", str(tmp_path), "--resume", "--steps", "7"])
    assert again.options == flags.options and (again.data, again.steps, again.utility) == ("shop", 7, "both")
    (tmp_path / "config.json").write_text(json.dumps(runs.flags_of(train.read_flags(["--env", "guess"]), "train.py")))
    assert train.read_flags(["--out", str(tmp_path), "--resume"]).env == "guess"


@pytest.mark.parametrize("read", [train.read_flags, partial(train.read_flags, kind=gigpo.Flags),
                                  partial(parse, coldstart.Flags, {})])
def test_paths_may_begin_with_the_home_directory(read, monkeypatch, capsys):
    """Bug: --out=~/x trains into a folder called ~, as the shell does not look behind the sign of equality."""
    monkeypatch.setenv("HOME", "/users/jane")
    names = {field.name for field in fields(read([]))} & {"data", "out", "bank", "model", "chats"}
    flags = read([f"--{name}=~/{name}" for name in names])
    assert len(names) == 4 and {name: getattr(flags, name) for name in names} == {
        name: f"/users/jane/{name}" for name in names}
    monkeypatch.delenv("HOME")
    monkeypatch.setattr("pwd.getpwuid", lambda uid: {}[uid])
    with pytest.raises(SystemExit):
        read(["--out=~/x"])
    error = capsys.readouterr().err
    assert "--out: ~/x: there is no home directory" in error and error.count("\n") == 1


def test_a_link_that_runs_in_a_circle_is_one_line(tmp_path, capsys, monkeypatch):
    """Bug: RuntimeError: Symlink loop, and a traceback; or ~ is the home directory for some paths alone."""
    (tmp_path / "loop").symlink_to("loop")
    for command in (train.read_flags, coldstart.read_flags):
        with pytest.raises(SystemExit):
            command(["--out", str(tmp_path / "loop")])
        assert "run in a circle" in capsys.readouterr().err
    monkeypatch.setenv("HOME", str(tmp_path))
    assert coldstart.read_flags(["--like=~/x", "--out=~/y"]).like == str(tmp_path / "x")


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
    config.write_text('{"made_from": ["tiny"]}')
    assert train.read_flags(["--model", str(tmp_path)]).cold_start == 0
    for other in ('{"model_type": "qwen2"}', "{", "", "7", '{"a": ' * 100_000):
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
