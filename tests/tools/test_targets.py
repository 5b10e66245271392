"""What eval.py, tools.watch and tools.audit are given: a run, one of its checkpoints, or a model."""

import json
import os
import shutil
from pathlib import Path

import pytest

import envs
import train
from eval import PROTOCOLS
from skillbank import Skill, SkillBank
from tests.real import ROOT
from tests.runs import ends
from tools import audit
from tools.targets import SAMPLING, evaluation, open_target, probing_of

pytestmark = pytest.mark.usefixtures("one_thread")


def read(*argv):
    """eval.py's command line."""
    return evaluation(PROTOCOLS, [str(one) for one in argv])


def test_a_checkpoint_brings_its_bank_and_settings(run, tmp_path):
    """Bug: eval.py RUN/checkpoints/step_N plays with an empty bank and default lengths."""
    run(tmp_path / "run", "--act_tokens", "9")
    step = tmp_path / "run" / "checkpoints" / "step_00001"
    SkillBank([Skill("dyn_001", "a", "b", "c")]).save(step / "skills.json")
    for target, skills in ((tmp_path / "run", 1), (step, 1), (tmp_path / "run" / "reference", 0)):
        args = read(target)
        assert args.settings["act_tokens"] == 9 and args.env == "webshop"
        _, _, bank, sampling = open_target(args)
        assert len(bank.skills()) == skills and sampling.act_tokens == 9


@pytest.mark.parametrize("name, value", [("context", "abc"), ("towns", "x"), ("alpha", None), ("unpaired", 1)])
def test_a_value_that_a_runs_flag_does_not_take_is_one_line(name, value, tmp_path, capsys):
    """Bug: a config.json that somebody has edited is a TypeError from the depths."""
    (tmp_path / "config.json").write_text(json.dumps({"env": "counter", name: value}))
    (tmp_path / "latest").write_text("step_00001\n")
    (tmp_path / "checkpoints" / "step_00001").mkdir(parents=True)
    (tmp_path / "checkpoints" / "step_00001" / "trainer.pt").touch()
    with pytest.raises(SystemExit):
        read(tmp_path)
    assert f"config.json: {name} {value!r} is no value of --{name}" in capsys.readouterr().err


def test_a_split_without_games_is_refused(monkeypatch):
    """Bug: all games of a split cannot be won, --winnable_only leaves none, and the mean of nothing is a traceback."""
    monkeypatch.setattr("worlds.webshop.world.WebShop.winnable", lambda *rest: False)
    with pytest.raises(ValueError, match="--split test: none of its games is left"):
        open_target(read("tiny", "--env", "webshop", "--winnable_only"))


def test_how_processes_share_games_is_no_flag():
    """Bug: a field of Sampling that is no flag of train.py shows in --help of eval.py, "as in train.py"."""
    assert {f.name for f in SAMPLING} <= vars(train.Flags()).keys()


def test_a_checkpoint_is_played_under_the_rules_of_its_iteration(tmp_path):
    """Bug: rules drift during training, and the evaluation asks for those of the first iteration."""
    (tmp_path / "config.json").write_text(json.dumps({"env": "counter", "rules": 3, "drift": 1, "model": "tiny"}))
    step = tmp_path / "checkpoints" / "step_00005"
    shutil.copytree(ROOT / "worlds/counter/tiny", step)
    (step / "trainer.pt").touch()
    SkillBank().save(step / "skills.json")
    (tmp_path / "latest").write_text("step_00005\n")
    _, env, _, _ = open_target(read(tmp_path))
    asked = envs.make("counter", rules=3, drift=1)
    first = asked.ways.rules
    asked.at(4)
    assert env.ways.rules == asked.ways.rules != first


def test_a_run_without_a_checkpoint_is_named(tmp_path, capsys):
    """Bug: eval.py RUN before the first checkpoint complains of a model_type None."""
    (tmp_path / "config.json").write_text('{"env": "webshop"}')
    assert "a run without a checkpoint yet" in ends(read, tmp_path)[0]


@pytest.mark.parametrize("target", ["x" * 300, "x" * 300 + "/y", "run"])
def test_a_target_that_cannot_be_read_is_one_line(target, tmp_path, monkeypatch, capsys):
    """Bug: a traceback for a run of somebody else, for three hundred letters, for a config.json nested too deeply."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text("[" * 100_000)
    line, status = ends(read, target)
    assert line.startswith("eval.py: ") and "\n" not in line and status == 1
    assert "config.json" in line or target != "run"

    def forbidden(path, real=Path.stat, **more):  # root may enter every folder
        if str(path).startswith(target):
            raise PermissionError(13, "Permission denied", target)
        return real(path, **more)

    monkeypatch.setattr(Path, "stat", forbidden)
    line, status = ends(read, target)
    assert "Permission denied" in line and line.startswith("eval.py: ") and "\n" not in line


@pytest.mark.skipif(os.geteuid() == 0, reason="root may enter every folder")
def test_a_run_that_may_not_be_entered_is_one_line(tmp_path):
    """Bug: as above, without playing it."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run").chmod(0)
    assert "Permission denied" in ends(read, tmp_path / "run")[0]
    (tmp_path / "run").chmod(0o700)


def test_paths_may_begin_with_the_home_directory(tmp_path, monkeypatch):
    """Bug: --out=~/x is a folder called ~, as the shell does not look behind the sign of equality."""
    monkeypatch.setenv("HOME", str(tmp_path))
    args = read("~/run", "--data=~/shop", "--bank=~/bank.json", "--out=~/a/r.json")
    assert [args.target, args.data, args.bank, args.out] == [
        str(tmp_path / name) for name in ("run", "shop", "bank.json", "a/r.json")]
    retire = audit.read_flags(["tiny", "--retire=~/left.json", "--out=~/a.json"])
    assert (retire.retire, retire.out) == (str(tmp_path / "left.json"), str(tmp_path / "a.json"))
    monkeypatch.delenv("HOME")
    monkeypatch.setattr("pwd.getpwuid", lambda uid: {}[uid])
    for flag in ("--data", "--bank", "--out"):
        line, status = ends(read, "tiny", f"{flag}=~/x")
        assert status == 2


def test_a_shipped_model_names_its_world():
    """Bug: eval.py worlds/alfworld/tiny without --env plays the shop, and wins nothing."""
    for world in ("alfworld", "webshop"):
        args = read(ROOT / "worlds" / world / "tiny")
        assert args.env == world and args.bank is None
    assert read("tiny").env == "webshop"
    assert read("tiny", "--env", "guess").env == "guess"


@pytest.mark.parametrize("name", ["tiny", "worlds/webshop/tiny"])
def test_a_shipped_model_is_sampled_as_it_was_trained(name):
    """Bug: the same weights show other skills and stop at other lengths, by which of their names they are called."""
    name = str(ROOT / name) if "/" in name else name
    *_, sampling = open_target(read(name))
    assert (sampling.top_k, sampling.context, sampling.act_tokens, sampling.review_tokens) == (4, 3072, 96, 160)


def test_a_shipped_model_probes_by_its_worlds_utility():
    """Bug: eval.py's online protocol scores the edits of a bare tiny by wins, where its runs score them by the graded
    score, and what it commits is another bank."""
    def utility(*argv):
        return probing_of(read(*argv), envs.Sampling(), 4).utility

    assert utility("tiny", "--env", "webshop") == utility("tiny", "--env", "counter") == "graded"
    assert utility("tiny", "--env", "webshop", "--data", "real") == "both"
    assert utility("tiny", "--env", "alfworld") == "success" == utility("smollm2", "--env", "webshop")
